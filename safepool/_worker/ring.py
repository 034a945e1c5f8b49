"""Answers that need no system call: a ring of bytes in memory that worker and host share.

A task of a few microseconds would spend more of them on sending its answer than on itself. So as long as the host is
awake, and thereby about to look, a worker leaves its answers here, where they also survive its death; a host that
sleeps is sent one, through the channel, and taken to be awake from then on.

One writes and one reads, without a lock:
1. The worker puts the bytes in place, then says how many there are. What it has not said counts for nothing.
2. The host says that it sleeps, then looks once more. The worker says what it has, then looks whether the host sleeps.
   Whatever the order of the four, one of the two sees the other. (``test_ring.py`` tries every order.)

Facts: an aligned word is written and read whole on every machine that CPython runs on. What orders the steps above is a
lock that is taken and given back: on x86 taking it is a full barrier, and writes are seen in their order anyway; on
ARMv8 nothing passes a release that is followed by an acquire, so it is done twice.
"""

from __future__ import annotations

import os
import threading

__all__ = ["AnswerRing"]

_WORDS = 64  # bytes at the beginning
_IS_WEAKLY_ORDERED = os.uname().machine not in ("x86_64", "i686", "i586")


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
        self._left = 0  # as ``written``; what wild code writes there does not lead the worker astray
        self._fence = threading.Lock()

    # --- the worker's end ---

    def put(self, frame: bytes) -> bool:
        """Leave a frame for the host; return False if it has to be sent, there being no room or nobody awake."""
        if not self._is_awake[0]:
            return False
        size = len(frame)
        after = self._left + size
        if after - self._read[0] > self.size:
            return False
        start = self._left % self.size
        if start + size <= self.size:
            self._data[start : start + size] = frame
        else:
            room = self.size - start
            self._data[start:] = frame[:room]
            self._data[: size - room] = frame[room:]
        if _IS_WEAKLY_ORDERED:
            self.order()
        self._written[0] = self._left = after
        return True

    def wakes_host(self) -> bool:
        """Return True if the host sleeps, and take it to be awake from now on: the caller is to send it something."""
        self.order()
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
        self.order()
        start, end = read % self.size, written % self.size
        taken = bytes(self._data[start:end] if start < end else b"")
        if start >= end:
            taken = bytes(self._data[start:]) + bytes(self._data[:end])
        self.order()
        self._read[0] = written
        return taken

    def fall_asleep(self) -> bool:
        """Have the worker send its next answer; return False if there is something here already."""
        self._is_awake[0] = 0
        self.order()
        return self._read[0] == self._written[0]

    def order(self) -> None:
        """What was done before is seen by the other process before what is done from here on."""
        with self._fence:
            pass
        if _IS_WEAKLY_ORDERED:
            with self._fence:
                pass
