"""Wake a thread that waits for descriptors, from any thread, signal handler or garbage collection.

Facts: an eventfd adds up what is written until it is read, so waking never blocks and is never lost (eventfd(2)).
"""

from __future__ import annotations

import contextlib
import os
import threading

__all__ = ["Wakeup"]


class Wakeup:
    """A descriptor that becomes readable when ``set`` is called, until ``clear`` is; there once it is asked for."""

    def __init__(self) -> None:
        self._fd = -1
        self._is_set = False
        self._is_closed = False
        self._lock = threading.RLock()  # re-entrant, since a signal handler or a collection may strike inside ``set``
        self._owner = os.getpid()  # a forked child may have been born with the lock taken, and wakes nobody

    @property
    def fd(self) -> int:
        """The descriptor; -1 once closed.

        Raises:
            OSError: There is no room for one.
        """
        with self._lock:
            if self._fd < 0 and not self._is_closed:
                self._fd = os.eventfd(int(self._is_set), os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            return self._fd

    def set(self) -> None:
        """Wake the waiting thread, now or at its next wait. Does nothing once closed, or in a forked child."""
        if self._owner != os.getpid():
            return
        with self._lock, contextlib.suppress(OSError):  # the program has closed all descriptors: nobody can be woken
            self._is_set = True
            if self._fd >= 0:
                os.eventfd_write(self._fd, 1)

    def clear(self) -> None:
        """Take back every ``set`` so far."""
        try:
            # Without the lock, if there is one: it may be held by whom a signal handler interrupts.
            os.eventfd_read(self._fd if self._fd >= 0 else self.fd)
        except BlockingIOError:
            pass

    def close(self) -> None:
        """Close the descriptor, for good; under the lock, so that no ``set`` writes to whoever gets the number."""
        if self._owner != os.getpid():
            return
        with self._lock:
            self._is_closed = True
            fd, self._fd = self._fd, -1
            if fd >= 0:
                with contextlib.suppress(OSError):
                    os.close(fd)

    def __del__(self) -> None:
        self.close()
