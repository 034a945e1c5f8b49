"""Which worker is this? For tasks that keep something per worker: a connection, a device, a cache."""

from __future__ import annotations

import os
from types import SimpleNamespace

__all__ = ["ThisWorker", "become", "get_worker"]


class ThisWorker:
    """The worker that runs the calling task.

    Attributes:
        id: A small number, from 0 on: no two workers of a pool that are alive at the same time have the same one, and
            a fresh worker gets the smallest that is free. Below ``max_workers + spare_workers``, but after ``resize``,
            and for one that takes the place of a worker whose exit handlers still run.
        state: What initializer, tasks and finalizer like to keep, as attributes; it is there for as long as the worker
            is, and starts empty in the one that takes its place.
    """

    __module__ = "safepool"

    def __init__(self, number: int) -> None:
        self.id = number
        self.state = SimpleNamespace()
        self.pid = os.getpid()

    def __repr__(self) -> str:
        return f"<worker {self.id} of a pool, pid {self.pid}>"


_this: ThisWorker | None = None


def become(number: int) -> None:
    """Make this process the worker with that number."""
    global _this
    _this = ThisWorker(number)


def get_worker() -> ThisWorker:
    """Return the worker that runs the calling task, initializer or finalizer; in all of its threads it is the same.

    Raises:
        RuntimeError: This process is no worker of a pool. A process that a task has started is none either.
    """
    if _this is None or _this.pid != os.getpid():
        raise RuntimeError("get_worker() is for code that runs in a worker of a SafeProcessPoolExecutor")
    return _this
