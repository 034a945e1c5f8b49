"""Which descriptors the supervisor waits for, and whose they are.

The selector is ``poll``: epoll goes on reporting a file whose descriptor the program has closed behind our back, and
cannot be told to stop.
"""

from __future__ import annotations

import selectors
from collections.abc import Callable

from safepool._os.janitor import janitor
from safepool._pool.worker import Worker

__all__ = ["Watch"]

_LONGEST_WAIT = 86_400.0  # seconds; poll takes no more than 24 days

OnEvent = Callable[[int], None]


class Watch:
    """A selector that knows which of its descriptors belong to which worker."""

    def __init__(self) -> None:
        self._selector = selectors.PollSelector()
        self._janitor_fd = -1

    def wakeup(self, fd: int, on_wakeup: OnEvent) -> None:
        """Watch what callers wake the supervisor by."""
        self._selector.register(fd, selectors.EVENT_READ, on_wakeup)

    def wait(self, seconds: float | None) -> list[tuple[OnEvent, int]]:
        """Wait for events, or for so many seconds; return what is to be called, and with what."""
        limit = None if seconds is None else min(seconds, _LONGEST_WAIT)
        return [(key.data, mask) for key, mask in self._selector.select(limit)]

    def add(self, worker: Worker, fd: int, on_event: OnEvent) -> None:
        """Watch one more descriptor on a worker's behalf."""
        self._make_room(fd)
        self._selector.register(fd, selectors.EVENT_READ, on_event)
        worker.watched.add(fd)

    def channel(self, worker: Worker, on_event: OnEvent) -> None:
        """Watch a worker's channel: for input, and for room as long as there is something to send."""
        fd = worker.channel.fileno()
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if worker.channel.has_outgoing else 0)
        if fd in worker.watched:
            self._selector.modify(fd, events, on_event)
        else:
            self._make_room(fd)
            self._selector.register(fd, events, on_event)
            worker.watched.add(fd)

    def drop(self, worker: Worker, fd: int) -> None:
        """Stop watching a descriptor, if it is watched."""
        if fd in worker.watched:
            worker.watched.discard(fd)
            self._selector.unregister(fd)

    def drop_all(self, worker: Worker) -> None:
        """Stop watching everything on a worker's behalf."""
        for fd in list(worker.watched):
            self.drop(worker, fd)

    def ending(self, worker: Worker, pidfds: list[int]) -> None:
        """Watch just these: the next turn looks at all endings, whichever of them woke it."""
        for fd in worker.watched.difference(pidfds):
            self.drop(worker, fd)
        for fd in set(pidfds) - worker.watched:
            self.add(worker, fd, _ignore)

    def janitor(self) -> None:
        """Watch the janitor there is now."""
        fd = janitor().life_fd
        if fd == self._janitor_fd:
            return
        self._make_room(self._janitor_fd)
        if fd >= 0 and fd not in self._selector.get_map():
            self._janitor_fd = fd
            self._selector.register(fd, selectors.EVENT_READ, self._on_janitor)

    def close(self) -> None:
        """Watch nothing any more."""
        self._selector.close()

    def _make_room(self, fd: int) -> None:
        """The janitor is shared: another pool may have replaced it, and its number be somebody else's now."""
        if fd == self._janitor_fd and fd >= 0:
            self._selector.unregister(fd)
            self._janitor_fd = -1

    def _on_janitor(self, _mask: int) -> None:
        try:
            janitor().ensure()
        except OSError:  # no room for a process or a descriptor just now: the next worker's start tries again
            self._make_room(self._janitor_fd)
        else:
            self.janitor()


def _ignore(_mask: int) -> None:
    """A process of a dying tree is dead."""
