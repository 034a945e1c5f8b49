"""A queue with priorities: the lowest number first, and within a number first in, first out."""

from __future__ import annotations

from bisect import insort
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import groupby
from operator import attrgetter

from safepool._pool.task import Task

__all__ = ["Lanes"]


class Lanes:
    """Tasks by priority. There are few priorities, so an ordered list of them beats a heap of tasks."""

    def __init__(self) -> None:
        self._lanes: dict[int, deque[Task]] = {}
        self._order: list[int] = []

    def extend(self, tasks: Sequence[Task]) -> None:
        """Put tasks behind those of their priority."""
        for terms, alike in groupby(tasks, key=attrgetter("terms")):
            self._lane(terms.priority).extend(alike)

    def appendleft(self, task: Task) -> None:
        """Put a task before those of its priority."""
        self._lane(task.terms.priority).appendleft(task)

    def popleft(self) -> Task:
        """Take the first task of the first priority."""
        priority = self._order[0]
        lane = self._lanes[priority]
        task = lane.popleft()
        if not lane:
            del self._lanes[priority]
            del self._order[0]
        return task

    def __bool__(self) -> bool:
        return bool(self._order)

    def __iter__(self) -> Iterator[Task]:
        return (task for priority in self._order for task in self._lanes[priority])

    def _lane(self, priority: int) -> deque[Task]:
        lane = self._lanes.get(priority)
        if lane is None:
            lane = self._lanes[priority] = deque()
            insort(self._order, priority)
        return lane
