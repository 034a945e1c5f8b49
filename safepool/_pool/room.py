"""Room for so many pending tasks: those that were submitted and have not begun. Callers wait for it, or are refused.

Nothing here waits with a lock held, and no lock is held by one thread while another needs it: Ctrl-C may strike a
caller anywhere, and a signal handler may submit while it interrupts one that does. Each waiter has a lock of its own,
closed, which is opened when there may be room; all are woken, and whoever is too late waits again.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable

from safepool.errors import QueueFullError

__all__ = ["Room"]


class Room:
    """The places of one pool.

    Args:
        places: Numbers of the tasks that have one; whoever lets a task begin takes it out.
        limit: How many there may be; None for any number.
    """

    def __init__(self, places: set[int], limit: int | None) -> None:
        self._places = places
        self._limit = limit
        self._waiters: deque[threading.Lock] = deque()
        self._door = threading.RLock()  # a signal handler comes through it twice
        self._holders: set[tuple[int, int]] = set()  # (thread, task) of those who hold a task that nobody knows of yet

    def take(self, number: int, *, wait: bool, check_open: Callable[[], None]) -> None:
        """Take a place for a task, waiting for one if need be; ``let_go`` when the task has been handed over.

        A signal handler that interrupts its own thread in between would wait for what it holds up itself: it gets a
        place beyond the limit. (``test_handler_that_interrupts_one_with_a_place_waits_for_nobody``)

        Raises:
            QueueFullError: There is none, and ``wait`` is false.
            Exception: What ``check_open`` raised, which is asked before each wait.
        """
        if self._limit is None or self._try(number):
            return
        me = threading.get_ident()
        if any(holder == me for holder, _ in tuple(self._holders)):
            self._places.add(number)
            return
        if not wait:
            raise QueueFullError(max_pending=self._limit)
        while True:
            gate = threading.Lock()
            gate.acquire()
            self._waiters.append(gate)  # first: room that is made from here on opens it
            check_open()
            if self._try(number):
                return
            gate.acquire()

    def let_go(self, number: int) -> None:
        """The task of this place is where others can let it begin."""
        self._holders.discard((threading.get_ident(), number))

    def leave(self, number: int) -> None:
        """Give a place back that was taken in vain."""
        self._places.discard(number)
        self.open()

    def open(self) -> None:
        """Wake those who wait, if there is room, or the pool is not what it was."""
        for gate in list(self._waiters):
            with contextlib.suppress(RuntimeError):  # it was opened by somebody else who opens, and not yet taken out
                gate.release()
            with contextlib.suppress(ValueError):  # likewise, and taken out
                self._waiters.remove(gate)  # last: Ctrl-C in between must not leave one closed that nobody knows of

    @property
    def has_news(self) -> bool:
        """True if somebody waits and there is room."""
        return bool(self._waiters) and self._limit is not None and len(self._places) < self._limit

    def _try(self, number: int) -> bool:
        mark = (threading.get_ident(), number)
        self._holders.add(mark)  # first: a signal handler that strikes from here on waits for nobody
        with self._door:
            if self._limit is None or len(self._places) < self._limit:
                self._places.add(number)
                return True
        self._holders.discard(mark)
        return False
