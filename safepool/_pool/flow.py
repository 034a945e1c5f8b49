"""Results as they come: the tasks of one ``map_unordered``."""

from __future__ import annotations

import concurrent.futures
import itertools
import queue
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future
from typing import Any

__all__ = ["Flow"]


class Flow:
    """Submits calls, no more than may be ahead, and gives out their outcomes in the order of their ends."""

    def __init__(
        self, submit: Callable[[tuple[Any, ...]], Future[Any]], rows: Iterator[tuple[Any, ...]], keep: bool
    ) -> None:
        self._submit = submit
        self._rows = rows
        self._keep = keep
        self._pending: set[Future[Any]] = set()
        self._done: queue.SimpleQueue[Future[Any]] = queue.SimpleQueue()

    def submit(self, count: int | None) -> None:
        """Submit so many more calls, or all there are."""
        for row in itertools.islice(self._rows, count):
            future = self._submit(row)
            self._pending.add(future)
            future.add_done_callback(self._done.put)

    def take_all(self, until: float | None) -> Iterator[Any]:
        """Yield each outcome as it comes; cancel what has not started when the caller stops or an item fails."""
        try:
            while self._pending:
                yield self._take(until)
        finally:
            for future in self._pending:
                future.cancel()

    def _take(self, until: float | None) -> Any:
        try:
            future = self._done.get(timeout=None if until is None else max(0.0, until - time.monotonic()))
        except queue.Empty:
            raise concurrent.futures.TimeoutError from None  # not the built-in one before 3.11; `map` raises this, too
        self._pending.discard(future)
        error: BaseException | None = CancelledError() if future.cancelled() else future.exception()
        if error is not None and not (self._keep and isinstance(error, Exception)):
            raise error
        self.submit(1)
        return error if error is not None else future.result()
