"""Answers that need no system call: a ring of bytes in memory that worker and host share.

A task of a few microseconds would spend more of them on sending its answer than on itself. So as long as the host is
awake, and thereby about to look, a worker leaves its answers here, where they also survive its death; a host that
sleeps is sent one, through the channel, and taken to be awake from then on.

One writes and one reads, without a lock:
1. The worker puts the bytes in place, then says how many there are. What it has not said counts for nothing.
2. The host says that it sleeps, then looks once more. The worker says what it has, then looks whether the host sleeps.
   Whatever the order of the four, one of the two sees the other. (``test_ring.py`` tries every order.)

Facts: an aligned word is written and read whole on every machine that CPython runs on. What orders the steps above is a
lock that is taken and given back twice: on x86 taking it is a full barrier; on ARMv8 nothing passes a release that is
followed by an acquire.
"""

from __future__ import annotations

import threading

__all__ = ["AnswerRing"]

_WORDS = 64  # bytes at the beginning


class AnswerRing:
    """Both ends of the ring in a piece of memory; the first bytes are its own, a power of two is to be left.

    The memory is all zeros at first: nothing is there, and the host is taken to sleep.
    """

    def __init__(self, memory: memoryview) -> None:
        words = memory[:_WORDS].cast("Q")
        self._written = words[0:1]  # bytes since the beginning; by the worker
        self._read = words[1:2]  # likewise; by the host
        self._is_awake = words[2:3]  # by the host when it goes to sleep, by the worker when it wakes it
        self._data = memory[_WORDS:]
        self.size = len(self._data)  # bytes; no frame in it is larger
        self._fence = threading.Lock()

    # --- the worker's end ---

    def put(self, frame: bytes) -> bool:
        """Leave a frame for the host; return False if it has to be sent, there being no room or nobody awake."""
        if not self._is_awake[0]:
            return False
        written = self._written[0]
        after = written + len(frame)
        if after - self._read[0] > self.size:
            return False
        start = written % self.size
        room = self.size - start
        self._data[start : start + len(frame)] = frame[:room]
        self._data[: max(0, len(frame) - room)] = frame[room:]
        self._order()
        self._written[0] = after
        return True

    def wakes_host(self) -> bool:
        """Return True if the host sleeps, and take it to be awake from now on: the caller is to send it something."""
        self._order()
        if self._is_awake[0]:
            return False
        self._is_awake[0] = 1
        return True

    # --- the host's end ---

    def take(self) -> bytes:
        """Return what the worker has left."""
        read, written = self._read[0], self._written[0]
        if read == written:
            return b""
        self._order()
        start, end = read % self.size, written % self.size
        taken = bytes(self._data[start:end] if start < end else b"")
        if start >= end:
            taken = bytes(self._data[start:]) + bytes(self._data[:end])
        self._order()
        self._read[0] = written
        return taken

    def fall_asleep(self) -> bool:
        """Have the worker send its next answer; return False if there is something here already."""
        self._is_awake[0] = 0
        self._order()
        return self._read[0] == self._written[0]

    def _order(self) -> None:
        """What was done before is seen by the other process before what is done from here on."""
        with self._fence:
            pass
        with self._fence:
            pass
