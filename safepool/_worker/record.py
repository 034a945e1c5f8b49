"""When did the worker begin with its task, and is it to hurry? A few words in memory that host and worker share.

When it began is written by the worker without a system call before each task, and read by the host only when it
matters: at a deadline, and at a death, where it tells a task that was running from one that had been sent but never
begun. Which task has used up its soft timeout is written by the host before it signals the worker: a signal that comes
late, when the next task runs, is thereby known to mean another.

Facts: an aligned word is written and read whole on every machine that CPython runs on; what belongs to a number is
written before the number, so a number that matches comes with its own. CLOCK_MONOTONIC is the same in all processes.

Behind the words lies the ring of answers (``ring``).
"""

from __future__ import annotations

import fcntl
import mmap
import os
import time

from safepool._worker.ring import AnswerRing

__all__ = ["StartRecord"]

_WORDS = 64  # bytes: the words, and room up to where the ring begins
_RING = 64 + (1 << 16)  # bytes: the ring's own words, and room for a thousand small answers
_SIZE = _WORDS + _RING


class StartRecord:
    """The host makes one per worker and passes ``fd``; the worker attaches to it."""

    def __init__(self, fd: int | None = None) -> None:
        if fd is None:
            fd = os.memfd_create("safepool-start", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
            os.ftruncate(fd, _SIZE)
            # A worker's mapping comes with a descriptor. What it cut off by that would be the end of who looks there.
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
        self.fd = fd
        memory = memoryview(mmap.mmap(fd, _SIZE))
        self.ring = AnswerRing(memory[_WORDS:])
        self._number = memory[:8].cast("Q")
        self._instant = memory[8:16].cast("d")
        self._warned = memory[16:24].cast("Q")
        self._limit = memory[24:32].cast("d")

    def close(self) -> None:
        """Close the descriptor; the memory stays for as long as the object does."""
        os.close(self.fd)

    def note(self, number: int) -> float:
        """In the worker: the task of this number begins now; return when that is."""
        self._instant[0] = now = time.monotonic()
        self._number[0] = number
        return now

    def begun_at(self, number: int) -> float | None:
        """Return when (monotonic seconds) the task of this number began; None if it has not."""
        return self._instant[0] if self._number[0] == number else None

    def warn(self, number: int, limit: float) -> None:
        """In the host: the task of this number has run for its soft timeout, so many seconds."""
        self._limit[0] = limit
        self._warned[0] = number

    def warning(self) -> tuple[float, float] | None:
        """In the worker: return soft timeout and start of the task that began last, if that is the one warned of."""
        number = self._warned[0]
        if not number or number != self._number[0]:  # 0 is the initializer, which nobody warns
            return None
        return self._limit[0], self._instant[0]
