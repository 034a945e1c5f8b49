"""One manner of speaking for the pools that are measured. What a library has no word for raises ``Lacks``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar

from safepool.bench import tasks

__all__ = ["Lacks", "Peer", "Retrieved"]

_MOST_ROUNDS = 50
_LONGEST_NAP = 0.5  # seconds


class Lacks(Exception):  # noqa: N818  it is an answer
    """There is no option, method or name for it."""


class Peer:
    """A library with its pool. What is here speaks to executors of the standard library's kind."""

    name: ClassVar[str]
    module: ClassVar[str] = ""  # what is imported; none for what every Python has
    distribution: ClassVar[str] = ""  # what is installed
    statement: ClassVar[str] = ""  # how a program imports it
    has_submit: ClassVar[bool] = True  # a call that hands in one task, and does not wait for it
    has_timeout: ClassVar[bool] = False  # a limit for each task, at which the task is ended
    has_kill: ClassVar[bool] = True  # a way to end a running task, alone or together with all others

    pool: Any = None

    def open(self, workers: int, *, spare: int = 0, unbounded: bool = False) -> None:
        """Make the pool.

        Args:
            workers: How many processes.
            spare: How many more stand by.
            unbounded: As many tasks as may be will be queued.
        """
        if spare:
            raise Lacks("workers that stand by")
        self.workers = workers
        self.pool = self.make(workers, unbounded)

    def make(self, workers: int, unbounded: bool) -> Any:
        """Return a pool of so many workers."""
        raise NotImplementedError

    def submit(self, fn: Callable[..., Any], /, *args: Any, timeout: float | None = None) -> Any:
        """Hand in a task; return something with ``result``."""
        if timeout is not None:
            raise Lacks("a timeout for a task")
        return self.pool.submit(fn, *args)

    def gather(self, fn: Callable[[Any], Any], items: Iterable[Any], timeout: float | None = None) -> list[Any]:
        """Hand in a task for each item; return all results."""
        submitted = [self.submit(fn, item, timeout=timeout) for item in items]
        return [task.result() for task in submitted]

    def map(self, fn: Callable[[Any], Any], items: Sequence[Any], chunk: int) -> Iterable[Any]:
        """Return the results in order, by the library's own map."""
        results: Iterable[Any] = self.pool.map(fn, items, chunksize=chunk)
        return results

    def kill(self, task: Any) -> None:
        """End a running task by what the library has for it, if need be together with all others."""
        raise NotImplementedError

    def close(self) -> None:
        """Let the pool end as programs do."""
        self.pool.shutdown()

    def warm_up(self) -> set[int]:
        """Have every worker run a task, and return who they are; fewer than asked for, if fewer are all that come."""
        pids: set[int] = set()
        length = 0.02
        for _ in range(_MOST_ROUNDS):
            pids.update(self.gather(tasks.nap, [length] * self.workers))
            if len(pids) >= self.workers:
                break
            length = min(length * 1.5, _LONGEST_NAP)
        return pids


class Retrieved:
    """A task whose library says ``get`` for ``result``."""

    def __init__(self, get: Callable[[float | None], Any]) -> None:
        self.result = get
