"""Wake a thread that waits for descriptors, from any thread, signal handler or garbage collection.

Facts: an eventfd adds up what is written until it is read, so waking never blocks and is never lost (eventfd(2)).
"""

from __future__ import annotations

import contextlib
import os
import threading

__all__ = ["Wakeup"]


class Wakeup:
    """A descriptor that becomes readable when ``set`` is called, until ``clear`` is."""

    def __init__(self) -> None:
        self.fd = -1
        self._lock = threading.RLock()  # re-entrant, since a signal handler or a collection may strike inside ``set``
        self._owner = os.getpid()  # a forked child may have been born with the lock taken, and wakes nobody
        self.fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def set(self) -> None:
        """Wake the waiting thread, now or at its next wait. Does nothing once closed, or in a forked child."""
        if self._owner != os.getpid():
            return
        with self._lock, contextlib.suppress(OSError):  # the program has closed all descriptors: nobody can be woken
            if self.fd >= 0:
                os.eventfd_write(self.fd, 1)

    def clear(self) -> None:
        """Take back every ``set`` so far."""
        try:
            os.eventfd_read(self.fd)
        except BlockingIOError:
            pass

    def close(self) -> None:
        """Close the descriptor, for good; under the lock, so that no ``set`` writes to whoever gets the number."""
        if self._owner != os.getpid():
            return
        with self._lock:
            fd, self.fd = self.fd, -1
            if fd >= 0:
                with contextlib.suppress(OSError):
                    os.close(fd)

    def __del__(self) -> None:
        self.close()
