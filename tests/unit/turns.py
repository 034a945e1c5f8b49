"""Words in shared memory that two threads, "worker" and "host", touch in every order that there is."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator

__all__ = ["Turns", "Word", "schedules"]


class Turns:
    """Lets two threads touch the words in the order of a schedule; whoever is through lets the other go on."""

    def __init__(self, schedule: tuple[str, ...]) -> None:
        self._schedule = list(schedule)
        self._through: set[str] = set()
        self._news = threading.Condition()

    def take(self, who: str) -> None:
        with self._news:
            assert self._news.wait_for(lambda: self._is_next(who), 30)
            if self._schedule:
                self._schedule.pop(0)
            self._news.notify_all()

    def leave(self, who: str) -> None:
        with self._news:
            self._through.add(who)
            self._news.notify_all()

    def _is_next(self, who: str) -> bool:
        while self._schedule and self._schedule[0] in self._through:
            self._schedule.pop(0)
        return not self._schedule or self._schedule[0] == who


class Word:
    """A word that is touched when it is one's turn."""

    def __init__(self, word: memoryview, turns: Turns) -> None:
        self._word = word
        self._turns = turns

    def __getitem__(self, index: int) -> int:
        self._turns.take(threading.current_thread().name)
        value: int = self._word[index]
        return value

    def __setitem__(self, index: int, value: int) -> None:
        self._turns.take(threading.current_thread().name)
        self._word[index] = value


def schedules(touches: int, host_touches: int) -> Iterator[tuple[str, ...]]:
    """Every order of so many touches by the worker, and so many by the host."""
    for host in itertools.combinations(range(touches + host_touches), host_touches):
        yield tuple("host" if at in host else "worker" for at in range(touches + host_touches))
