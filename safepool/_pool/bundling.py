"""``map`` in bundles: where the function goes by its name, its items share what a task costs (``bundle``)."""

from __future__ import annotations

import concurrent.futures
import itertools
import queue
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from typing import Any

from safepool._pool.bundle import PENDING, Bundle, Outcomes, Row
from safepool._pool.terms import Terms
from safepool._worker.calls import CallPickler

__all__ = ["Bundling"]

_MOST = 256  # items that are submitted at a time; the first of them run while the rest are pickled
_AT_HAND = frozenset({list, tuple, range, str, bytes, dict, set, frozenset, itertools.repeat})
_LARGEST = 1 << 12  # bytes; a larger row costs so much by itself that it may as well be a task of its own


class Bundling:
    """One ``map``: submits its rows, and gives out what comes of them in their order.

    Args:
        fn: What to call.
        name: What it goes as.
        terms: On what terms.
        pickler: Of the pool's calls.
        submit: Submits a bundle.
        submit_row: Submits the arguments of one item as a task of its own.
        cancel: Has no more items run whose outcomes would go there.
    """

    def __init__(
        self,
        fn: Callable[..., Any],
        name: bytes,
        terms: Terms,
        pickler: CallPickler,
        *,
        submit: Callable[[Bundle], None],
        submit_row: Callable[[tuple[Any, ...]], Future[Any]],
        cancel: Callable[[Outcomes], None],
    ) -> None:
        self._fn = fn
        self._name = name
        self._terms = terms
        self._pickler = pickler
        self._submit = submit
        self._submit_row = submit_row
        self._cancel = cancel
        self._outcomes = Outcomes()

    def submit(self, rows: Iterator[tuple[Any, ...]], sources: Iterable[Iterable[Any]]) -> None:
        """Submit all rows, as they come; if one cannot be had, cancel those before it.

        Args:
            rows: The arguments of each item.
            sources: Where they come from. If that may take a while, be it until the item before has run, each row is
                submitted before the next one is asked for.
        """
        most = _MOST if _AT_HAND.issuperset(map(type, sources)) else 1
        try:
            while some := list(itertools.islice(rows, most)):
                self._submit_some(some)
        except BaseException:
            self.cancel()
            raise

    def take(self, index: int, until: float | None) -> Future[Any] | Any:
        """Return an item's value, or the future that has its outcome; wait no longer than until then.

        Raises:
            TimeoutError: Neither is there yet (``concurrent.futures.TimeoutError`` before Python 3.11).
        """
        slots = self._outcomes.slots
        while slots[index] is PENDING:
            remaining = None if until is None else max(0.0, until - time.monotonic())
            try:
                self._outcomes.wait(index, remaining)
            except queue.Empty:
                raise concurrent.futures.TimeoutError from None
        taken = slots[index]
        slots[index] = None
        return taken

    def __len__(self) -> int:
        return len(self._outcomes.slots)

    def cancel(self) -> None:
        """Have no more items run; what comes of those that do is nobody's business any more."""
        for slot in self._outcomes.abandon():
            if isinstance(slot, Future):
                slot.cancel()
        self._cancel(self._outcomes)

    def __del__(self) -> None:
        """An iterator that was never asked for anything has no end of its own; its items are run all the same."""
        self._outcomes.abandon()

    def _submit_some(self, some: Iterable[tuple[Any, ...]]) -> None:
        rows: list[Row | None] = []
        for args in some:
            row = self._pickle(args)
            if row is not None:
                rows.append(row)
                continue
            self._submit_bundle(rows)
            rows = []
            future = self._submit_row(args)
            self._outcomes.slots.append(future)
        self._submit_bundle(rows)

    def _pickle(self, args: tuple[Any, ...]) -> Row | None:
        """Return a row, ready for a bundle; None if it has to go by itself, be it to fail."""
        try:
            packed, is_plain = self._pickler.dumps_row(args)
        except Exception:
            return None
        return (packed, args, is_plain) if len(packed) <= _LARGEST else None

    def _submit_bundle(self, rows: list[Row | None]) -> None:
        if not rows:
            return
        first = len(self._outcomes.slots)
        self._outcomes.slots += [PENDING] * len(rows)
        self._submit(
            Bundle(self._fn, self._name, rows, self._outcomes, self._terms, base=first, index=first, size=len(rows))
        )
