"""The items of one ``map`` as they go through the pool: many to a task, each with its own outcome.

A *bundle* is a task to the queue and to the feeding of workers: it has one ticket, and what it weighs is the number of
its items. To whoever watches what a worker runs, it stands for its first item that has not been answered. It can be
divided between any two items, so workers are given as much of it as they do in a few milliseconds, and an item whose
outcome is more than a plain value leaves it as a task of its own.

Each time that a bundle is given to a worker it takes a number that is higher than any before, and its items those that
follow. So what a worker has to say about one is never taken for another, and of two bundles that a worker was sent the
one with the lower number comes first.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from safepool._pool.future import SafeFuture
from safepool._pool.task import Task, TaskState
from safepool._pool.terms import Terms
from safepool._worker.calls import pack_bundle

__all__ = ["PENDING", "Bundle", "Outcomes", "Row"]

if TYPE_CHECKING:
    from typing import TypeAlias

Row: TypeAlias = "tuple[bytes, tuple[Any, ...], bool]"  # pickled arguments, the arguments, are they plain

PENDING: Any = object()

_numbers = itertools.count(1 << 32, 1 << 32)  # of bundles; those of single tasks stay below


_NO_CALL: Any = (None, (), {})


class _Nowhere(list[Any]):
    """Slots that nobody looks at any more: what is put there is let go of by whoever has it."""

    def __setitem__(self, _index: Any, _value: Any) -> None:
        """Keep nothing."""


class Outcomes:
    """What has come of the items of one ``map``; whoever consumes it waits here.

    Attributes:
        slots: By item: PENDING, its value, or the future of a task that has left its bundle.
        is_closed: No more items are to be run.
    """

    is_closed = False

    def __init__(self) -> None:
        self.slots: list[Any] = []
        self._news: SimpleQueue[None] = SimpleQueue()  # re-entrant and in C: Ctrl-C and collections may strike anywhere
        self._has_waiter = False

    def wake(self) -> None:
        """Some slots have been filled: have whoever waits look again."""
        if self._has_waiter:
            self._has_waiter = False  # once is enough, however long it takes the waiter to come to its turn
            self._news.put(None)

    def abandon(self) -> list[Any]:
        """Nobody will look any more: keep nothing from here on, and return what there is.

        Else it would all stay until the last bundle is over, and then go in the supervisor's thread, where finalizers,
        which are user code, must not run.
        """
        slots, self.slots = self.slots, _Nowhere()
        return slots

    def late(self, index: int, number: int) -> Task:
        """Return a task that stands for an item whose value is there, but cannot be had yet."""
        task = Task(number, SafeFuture(), _NO_CALL, b"", Terms())
        self.slots[index] = task.future
        return task

    def wait(self, index: int, timeout: float | None) -> None:
        """Wait until the slot may have been filled.

        The consumer says that it waits, then looks once more; the pool fills the slot, then looks whether anybody
        waits. So one of the two sees the other; at worst the consumer wakes for nothing.

        Raises:
            queue.Empty: That took longer than ``timeout`` seconds.
        """
        self._has_waiter = True
        try:
            if self.slots[index] is PENDING:
                self._news.get(timeout=timeout)
        finally:
            self._has_waiter = False


class Bundle(Task):
    """Items ``index`` to ``index + size`` of a ``map``, as one task.

    Attributes:
        name: What the function goes as.
        rows: Of all items of which this bundle was once a part, from the one whose index is ``base``.
        outcomes: Where their outcomes go.
        ticket: The number under which it was sent.
        is_stopped: Its worker was told to begin with no more items than it must.
    """

    __slots__ = ("base", "fn", "index", "is_stopped", "name", "outcomes", "rows", "size", "ticket")

    def __init__(
        self,
        fn: Callable[..., Any],
        name: bytes,
        rows: list[Row | None],
        outcomes: Outcomes,
        terms: Terms,
        *,
        base: int,
        index: int,
        size: int,
    ) -> None:
        number = next(_numbers)
        super().__init__(number, SafeFuture(), (fn, (), {}), b"", terms)
        self.fn = fn
        self.name = name
        self.rows = rows
        self.outcomes = outcomes
        self.base = base
        self.index = index
        self.size = size
        self.ticket = number
        self.is_stopped = False

    def pack(self) -> bytes:
        """Return what it goes as."""
        start = self.index - self.base
        return pack_bundle(self.name, [row[0] for row in self.rows[start : start + self.size] if row is not None])

    def renew(self) -> None:
        """Take a number that nobody has heard of; for one that is about to be given to a worker."""
        self.number = self.ticket = next(_numbers)
        self.is_stopped = False

    def absorb(self, next_one: Task) -> bool:
        """Take in a bundle of the items that follow; return False if that is none. Before either was divided."""
        if not isinstance(next_one, Bundle) or next_one.outcomes is not self.outcomes:
            return False
        if next_one.index != self.index + self.size:  # an item in between went by itself
            return False
        self.rows += next_one.rows
        self.size += next_one.size
        return True

    def cut(self, size: int) -> Bundle:
        """Divide it: return the first so many items, and keep the rest."""
        first = self._part(self.index, size)
        self._skip(size)
        return first

    def cut_behind(self, last: int) -> Bundle | None:
        """Divide it: keep the first item, and those up to this number; return the rest, if there is one."""
        size = max(1, last - self.number + 1)
        if size >= self.size:
            return None
        rest = self._part(self.index + size, self.size - size)
        self.size = size
        return rest

    def step(self, count: int) -> list[Any]:
        """Let go of the first so many items, whose outcomes are here; return those arguments that are not plain."""
        where = self.index - self.base
        rows = self.rows[where : where + count]
        self.rows[where : where + count] = [None] * count
        self._skip(count)
        self.number += count
        return [row[1] for row in rows if row is not None and not row[2]]

    def take_first(self) -> Task:
        """Have the first item leave, as a task of its own with a future, in which the consumer finds its outcome."""
        number, index, attempts = self.number, self.index, self.attempts
        row = self.rows[index - self.base]
        assert row is not None
        packed, args, is_plain = row
        self.step(1)
        task = Task(number, SafeFuture(), (self.fn, args, {}), self.name + packed, self.terms, is_plain=is_plain)
        task.attempts, task.put_backs, task.state = attempts, self.put_backs, self.state
        task.future._task = task
        if self.state is TaskState.RUNNING:
            task.future.set_running_or_notify_cancel()
        self.outcomes.slots[index] = task.future
        self.outcomes.wake()
        return task

    def each(self) -> Iterator[Task]:
        """Have all items leave."""
        while self.size:
            yield self.take_first()

    def holds(self, number: int) -> bool:
        """Return True if this is the number of one of its items."""
        return self.number <= number < self.number + self.size

    def take_begun(self, last: int) -> list[Task]:
        """Have the first item leave, and those up to this number."""
        return [self.take_first() for _ in range(min(self.size, max(1, last - self.number + 1)))]

    def _part(self, index: int, size: int) -> Bundle:
        return Bundle(self.fn, self.name, self.rows, self.outcomes, self.terms, base=self.base, index=index, size=size)

    def _skip(self, count: int) -> None:
        self.index += count
        self.size -= count
