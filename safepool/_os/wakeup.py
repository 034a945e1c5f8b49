"""Wake a thread that waits for descriptors, from any thread, signal handler or garbage collection.

Facts: an eventfd adds up what is written until it is read, so waking never blocks and is never lost (eventfd(2)).
"""

from __future__ import annotations

import os

__all__ = ["Wakeup"]


class Wakeup:
    """A descriptor that becomes readable when ``set`` is called, until ``clear`` is."""

    def __init__(self) -> None:
        self.fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def set(self) -> None:
        """Wake the waiting thread, now or at its next wait."""
        try:
            os.eventfd_write(self.fd, 1)
        except OSError:
            pass  # the program has closed all of its descriptors under us: there is nothing to wake

    def clear(self) -> None:
        """Take back every ``set`` so far."""
        try:
            os.eventfd_read(self.fd)
        except OSError:
            pass

    def __del__(self) -> None:
        # The descriptor goes with the last reference, never earlier: a ``set`` in another thread can then not write
        # to a stranger that was given the number.
        os.close(self.fd)
