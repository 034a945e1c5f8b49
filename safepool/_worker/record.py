"""When did the worker begin with its task? One record of two words in memory that host and worker share.

Written by the worker without a system call before each task, read by the host only when it matters: at a deadline,
and at a death, where it tells a task that was running from one that had been sent but never begun.

Facts: an aligned word is written and read whole on every machine that CPython runs on; the instant is written
before the number, so a number that matches comes with its own instant. CLOCK_MONOTONIC is the same in all processes.
"""

from __future__ import annotations

import mmap
import os
import time

__all__ = ["StartRecord"]

_SIZE = 16


class StartRecord:
    """The host makes one per worker and passes ``fd``; the worker attaches to it."""

    def __init__(self, fd: int | None = None) -> None:
        if fd is None:
            fd = os.memfd_create("safepool-start", os.MFD_CLOEXEC)
            os.ftruncate(fd, _SIZE)
        self.fd = fd
        memory = memoryview(mmap.mmap(fd, _SIZE))
        self._number = memory[:8].cast("Q")
        self._instant = memory[8:].cast("d")

    def close(self) -> None:
        """Close the descriptor; the memory stays for as long as the object does."""
        os.close(self.fd)

    def note(self, number: int) -> None:
        """In the worker: the task of this number begins now."""
        self._instant[0] = time.monotonic()
        self._number[0] = number

    def begun_at(self, number: int) -> float | None:
        """Return when (monotonic seconds) the task of this number began; None if it has not."""
        return self._instant[0] if self._number[0] == number else None
