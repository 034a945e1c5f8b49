"""When did the worker begin with its task, and is it to hurry, or to stop? A few words in memory of host and worker.

When it began is written by the worker without a system call before each task, and read by the host only when it
matters: at a deadline, and at a death, where it tells a task that was running from one that had been sent but never
begun. Which task has used up its soft timeout is written by the host before it signals the worker: a signal that comes
late, when the next task runs, is thereby known to mean another.

A worker that runs a *bundle*, many items of a ``map`` that came with one ticket, may be told to stop before the next
of them, and the host knows at once which it has still to count on (``test_record.py`` tries every order):
1. The worker says which item comes next, then looks whether it is to stop. If so, it says that by a frame, else it
   begins.
2. The host says that the worker is to stop, then looks which item was to come next. Those behind that one are the
   host's from here on. That one itself is the worker's, or comes back by the frame.

What the host knows besides (what the worker is at, until when) it writes down when it goes to sleep, for whoever looks
at the pool from outside (``read_words``): any process of the same user can open the memory under /proc/PID/fd, where
it stays, since ``mmap`` keeps a descriptor of its own.

Facts: an aligned word is written and read whole on every machine that CPython runs on; what belongs to a number is
written before the number, so a number that matches comes with its own. CLOCK_MONOTONIC is the same in all processes.

Behind the words lies the ring of answers (``ring``).
"""

from __future__ import annotations

import mmap
import os
import struct
import time

from safepool._plain import NamedTuple
from safepool._worker.ring import AnswerRing

__all__ = ["NAME", "StartRecord", "Words", "read_words"]

NAME = "safepool-start"
_WORDS = 128  # bytes: the words, and room up to where the ring begins
_OWN = struct.Struct("=Qd16xQ")  # number, instant, (what the host has warned of,) pid
_TOLD = struct.Struct("=QQQdd")  # state, runs, task, handed, due
_TOLD_AT = 64
_MOST_LOOKS = 100
_RING = 64 + (1 << 16)  # bytes: the ring's own words, and room for a thousand small answers
_SIZE = _WORDS + _RING


class StartRecord:
    """The host makes one per worker and passes ``fd``; the worker attaches to it."""

    def __init__(self, fd: int | None = None) -> None:
        if fd is None:
            from safepool._os.memory_file import new_memory_file  # lazily: a worker has no use for it

            fd = new_memory_file(NAME, _SIZE)
        self.fd = fd
        try:
            memory = memoryview(mmap.mmap(self.fd, _SIZE))  # which takes one more descriptor
        except BaseException:
            self.close()
            raise
        self.ring = AnswerRing(memory[_WORDS:])
        self._number = memory[:8].cast("Q")
        self._instant = memory[8:16].cast("d")
        self._warned = memory[16:24].cast("Q")
        self._limit = memory[24:32].cast("d")
        self._pid = memory[32:40].cast("Q")
        self._next = memory[40:48].cast("Q")
        self._stopped = memory[48:56].cast("Q")
        self._told = memory[_TOLD_AT : _TOLD_AT + _TOLD.size]

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

    def last(self) -> int:
        """Return the number of the task that began last; 0 for none."""
        return self._number[0]

    def warn(self, number: int, limit: float) -> None:
        """In the host: the task of this number has run for its soft timeout, so many seconds."""
        self._limit[0] = limit
        self._warned[0] = number

    def assign(self, pid: int) -> None:
        """In the host: say whose record it is; it has those of all its workers, and may be a worker itself."""
        self._pid[0] = pid

    def tell(self, state: int, runs: int, task: int, handed: float, due: float) -> None:
        """In the host: write down what it knows, as in ``Words``; zeros where there is nothing to know."""
        _TOLD.pack_into(self._told, 0, state, runs, task, handed, due)

    def warning(self) -> tuple[float, float] | None:
        """In the worker: return soft timeout and start of the task that began last, if that is the one warned of."""
        number = self._warned[0]
        if not number or number != self._number[0]:  # 0 is the initializer, which nobody warns
            return None
        return self._limit[0], self._instant[0]

    def may_go_on(self, bundle: int, item: int) -> bool:
        """In the worker: return False if it is not to begin with this item of a bundle, nor with any behind it."""
        self._next[0] = item
        self.ring.order()
        return self._stopped[0] != bundle

    def stop(self, bundle: int) -> int:
        """In the host: have the worker begin with no more items than it must; return the last that it may begin with.

        That is a number of another bundle if the worker has not come to this one yet, or is through with it: a lower
        one, or a higher one, provided that bundles are sent in the order of their numbers.
        """
        self._stopped[0] = bundle
        self.ring.order()
        return self._next[0]


class Words(NamedTuple):
    """What stands in a record at one moment; instants are monotonic seconds, 0 is none."""

    number: int  # of the task that the worker began last
    begun: float
    pid: int  # of the worker
    state: int  # of the worker, when the host last went to sleep: its place in ``WorkerState``, from 1 on
    runs: int  # tasks given to it
    task: int  # the one that it was given
    handed: float  # when that was
    due: float  # when something must happen to it


def read_words(fd: int) -> Words | None:
    """Return what stands in the record of another process, whole; None if it is none, or changes all the time.

    Raises:
        OSError: It cannot be read.
    """
    before = b""
    for _ in range(_MOST_LOOKS):
        words = os.pread(fd, _TOLD_AT + _TOLD.size, 0)
        if len(words) < _TOLD_AT + _TOLD.size:  # it is just being made
            return None
        if words == before:
            return Words(*_OWN.unpack_from(words), *_TOLD.unpack_from(words, _TOLD_AT))
        before = words
    return None
