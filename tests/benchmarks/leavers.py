"""Hosts that go wrong, for the cage around a measurement."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
from multiprocessing import resource_tracker

_lock: object = None  # unlinked with its last reference, if that goes before the host


def leave_behind(pids: str) -> dict[str, int]:
    """Leave a child, and one that has gone to another session; say who."""
    children = [subprocess.Popen(["sleep", "1000"], start_new_session=detached) for detached in (False, True)]
    with open(pids, "w", encoding="ascii") as file:
        file.write(" ".join(str(child.pid) for child in children))
    for child in children:
        child.returncode = 0  # not waited for
    return {"left": len(children)}


def leave_behind_and_hang(pids: str) -> None:
    leave_behind(pids)
    signal.pause()


def leave_semaphore() -> dict[str, str]:
    """Leave a named semaphore, whose tracker unlinks it when the last of several who hang has let go of its pipe."""
    global _lock
    lock = _lock = multiprocessing.get_context("spawn").Lock()
    for _ in range(8):
        holder = subprocess.Popen(["sleep", "1000"], pass_fds=[resource_tracker.getfd()])
        holder.returncode = 0  # not waited for
    name = f"/dev/shm/sem.{lock._semlock.name.lstrip('/')}"  # type: ignore[attr-defined]
    return {"name": name if os.path.exists(name) else "there was none"}


def raise_it() -> None:
    raise LookupError("no such thing")


def die() -> None:
    os._exit(7)


def print_and_return() -> dict[str, int]:
    print("what a library says", flush=True)  # noqa: T201  the answer must be told from it
    return {"figure": 1}
