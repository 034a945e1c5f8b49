"""Which descriptors the supervisor waits for, and whose they are.

They are waited for with ``poll``: epoll goes on reporting a file whose descriptor the program has closed behind our
back, and cannot be told to stop. Not through the standard library's selectors, whose bookkeeping would be a large part
of what a short task costs.
"""

from __future__ import annotations

import math
import select
from collections.abc import Callable

from safepool._os.janitor import janitor
from safepool._pool.worker import Worker

__all__ = ["Watch"]

_LONGEST_WAIT = 86_400.0  # seconds; poll takes no more than 24 days

OnEvent = Callable[[int], None]  # given what poll reports: a mask of POLLIN, POLLOUT, POLLHUP ...


class Watch:
    """Knows which descriptors belong to which worker, and what is to be called when one is ready."""

    def __init__(self) -> None:
        self._poll = select.poll()
        self._handlers: dict[int, OnEvent] = {}
        self._janitor_fd = -1

    def wakeup(self, fd: int, on_wakeup: OnEvent) -> None:
        """Watch what callers wake the supervisor by."""
        self._register(fd, select.POLLIN, on_wakeup)

    def wait(self, seconds: float | None) -> list[tuple[OnEvent, int]]:
        """Wait for events, or for so many seconds; return what is to be called, and with what."""
        limit = None if seconds is None else math.ceil(min(seconds, _LONGEST_WAIT) * 1e3)
        return [(self._handlers[fd], mask) for fd, mask in self._poll.poll(limit)]

    def add(self, worker: Worker, fd: int, on_event: OnEvent) -> None:
        """Watch one more descriptor on a worker's behalf."""
        self._make_room(fd)
        self._register(fd, select.POLLIN, on_event)
        worker.watched.add(fd)

    def channel(self, worker: Worker, on_event: OnEvent) -> None:
        """Watch a worker's channel: for input, and for room as long as there is something to send."""
        fd = worker.channel.fileno()
        events = select.POLLIN | (select.POLLOUT if worker.channel.has_outgoing else 0)
        if fd not in worker.watched:
            self._make_room(fd)
            worker.watched.add(fd)
        self._register(fd, events, on_event)

    def drop(self, worker: Worker, fd: int) -> None:
        """Stop watching a descriptor, if it is watched."""
        if fd in worker.watched:
            worker.watched.discard(fd)
            self._unregister(fd)

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
        if fd >= 0 and fd not in self._handlers:
            self._janitor_fd = fd
            self._register(fd, select.POLLIN, self._on_janitor)

    def close(self) -> None:
        """Watch nothing any more."""
        self._handlers.clear()

    def _make_room(self, fd: int) -> None:
        """The janitor is shared: another pool may have replaced it, and its number be somebody else's now."""
        if fd == self._janitor_fd and fd >= 0:
            self._unregister(fd)
            self._janitor_fd = -1

    def _register(self, fd: int, events: int, on_event: OnEvent) -> None:
        self._poll.register(fd, events)
        self._handlers[fd] = on_event

    def _unregister(self, fd: int) -> None:
        self._poll.unregister(fd)
        del self._handlers[fd]

    def _on_janitor(self, _mask: int) -> None:
        try:
            janitor().ensure()
        except OSError:  # no room for a process or a descriptor just now: the next worker's start tries again
            self._make_room(self._janitor_fd)
        else:
            self.janitor()


def _ignore(_mask: int) -> None:
    """A process of a dying tree is dead."""
