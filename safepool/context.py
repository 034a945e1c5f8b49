"""A multiprocessing context whose processes are contained.

For everything that takes a context rather than an executor: torch's ``DataLoader(multiprocessing_context=...)``,
``context.Pool``, the standard library's own ``ProcessPoolExecutor(mp_context=...)``. It is multiprocessing's spawn
context in all but the way a process is started and ended: own session, lifeline, its tree ended with it.

It contains, it does not supervise: a ``multiprocessing.Pool`` still loses the task of a worker that died.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from multiprocessing import connection, process, util
from multiprocessing.context import BaseContext, SpawnProcess
from typing import Any

from safepool._os import features
from safepool._worker.keeper import KeptProcess, keep
from safepool._worker.launch import Preparation, SpawnWindow, launch

__all__ = ["ContainedContext", "ContainedProcess", "get_context"]

_TERMINATE_GRACE = 3.0  # seconds from SIGTERM to the end: DataLoader sends it, and then forgets about the process

_starting = threading.Lock()


class ContainedProcess(SpawnProcess):
    """A ``multiprocessing.Process`` whose whole tree ends with it, and with the host.

    It may be started from a daemonic process (a DataLoader's worker, a task of ``multiprocessing.Pool``): the ban on
    that exists because such children would be left behind, and these cannot be.

    ``terminate()`` sends SIGTERM to the whole group and, three seconds later, ends what is left of the tree;
    ``kill()`` ends it at once.
    """

    @staticmethod
    def _Popen(process_obj: process.BaseProcess) -> Any:  # noqa: N802  # multiprocessing's name for it
        return _Popen(process_obj)

    def start(self) -> None:
        """Start the process; see the class for what differs from multiprocessing."""
        config: dict[str, Any] = process.current_process()._config  # type: ignore[attr-defined]  # typeshed omits it
        with _starting:
            daemonic = config.pop("daemon", None)
            try:
                super().start()
            finally:
                if daemonic is not None:
                    config["daemon"] = daemonic


class ContainedContext(BaseContext):
    """What ``get_context`` returns."""

    _name = "safepool"
    Process = ContainedProcess  # as multiprocessing's own contexts do


class _Popen:
    """What ``multiprocessing.Process`` asks of the operating system's side of a process."""

    method = "spawn"
    DupFd = SpawnWindow.DupFd

    def __init__(self, process_obj: process.BaseProcess) -> None:
        util._flush_std_streams()  # type: ignore[attr-defined]  # as multiprocessing's own do
        features.announce()
        self.returncode: int | None = None
        self._owner = os.getpid()
        contained = launch(process_obj, Preparation(), {})
        self._kept = KeptProcess(contained)
        try:
            self.pid = contained.pid
            self.sentinel = os.dup(contained.pidfd)  # lives as long as this object, as callers expect
            self.finalizer = util.Finalize(self, os.close, (self.sentinel,))
            keep(self._kept)
        except BaseException:
            self._kept.bury()  # nobody would look after it
            raise

    def poll(self, flag: int = os.WNOHANG) -> int | None:
        """Return the exit code, or None while the process runs (or is another process's business)."""
        if self.returncode is None and self._owner == os.getpid():
            if flag != os.WNOHANG:
                connection.wait([self.sentinel])
            if self._has_ended():
                status = self._kept.bury()
                self.returncode = 255 if status is None else status  # over, though nobody knows how
        return self.returncode

    def wait(self, timeout: float | None = None) -> int | None:
        """Wait for the end; return the exit code, or None if ``timeout`` seconds were not enough."""
        if self.returncode is None and not connection.wait([self.sentinel], timeout):
            return None
        return self.poll()

    def terminate(self) -> None:
        """Send SIGTERM to the group; what is left of the tree after the grace is ended."""
        if self.poll() is None:
            self._kept.end_at = time.monotonic() + _TERMINATE_GRACE
            self._kept.contained.signal_group(signal.SIGTERM)
            keep(self._kept)

    def kill(self) -> None:
        """End the tree now."""
        if self.poll() is None:
            self._kept.sweep()

    def close(self) -> None:
        """Let go of the descriptors."""
        self.finalizer()

    def _has_ended(self) -> bool:
        return bool(connection.wait([self.sentinel], 0))


def _forget_in_child() -> None:
    global _starting
    _starting = threading.Lock()


os.register_at_fork(after_in_child=_forget_in_child)

_context = ContainedContext()


def get_context() -> BaseContext:
    """Return the multiprocessing context whose processes are contained."""
    return _context
