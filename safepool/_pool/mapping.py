"""``map``, for whatever has a ``submit``: the executor and its views."""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError, Executor, Future
from functools import partial
from typing import Any, TypeVar

from safepool._pool.bundling import Bundling
from safepool._pool.door import check_callable, check_count, check_terms
from safepool._pool.flow import Flow
from safepool._pool.terms import Terms

__all__ = ["DEFAULT", "MappingExecutor"]

T = TypeVar("T")

DEFAULT: Any = ...  # "as the pool was made": None already means "no limit"


class MappingExecutor(Executor):
    """An executor whose ``map`` has limits, chunks and a bounded buffer."""

    _terms: Terms

    def _submit_timed(self, timeout: Any, fn: Callable[..., Any], args: tuple[Any, ...]) -> Future[Any]:
        raise NotImplementedError

    def _bundling(self, timeout: Any, fn: Callable[..., Any]) -> Bundling | None:
        """Return what submits calls of this function in bundles; None if each has to be submitted by itself."""
        raise NotImplementedError

    def _limit(self, timeout: Any) -> float | None:
        return self._terms.timeout if timeout is DEFAULT else check_terms(self._terms, task_timeout=timeout).timeout

    def map(
        self,
        fn: Callable[..., T],
        /,
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
        task_timeout: float | None = DEFAULT,
        return_exceptions: bool = False,
    ) -> Iterator[T]:
        """Return an iterator over ``fn`` of the items, in their order; the calls are made at the same time.

        Args:
            fn: What to call.
            *iterables: Where its arguments come from, one from each; the shortest ends it.
            timeout: Seconds from now after which waiting for the next result raises ``TimeoutError``. It stops the
                waiting, not the tasks: those that have not started are cancelled.
            chunksize: Items per task. Fewer, larger tasks cost less; a worker's death fails the whole chunk, and a
                limit of memory is the chunk's. With a time limit per item, hard or soft, every item is a task of its
                own, whatever the chunksize.
            buffersize: The most tasks that are submitted ahead of the result that was taken last, so that endless
                input can be mapped. None submits everything at once.
            task_timeout: Seconds that each item may run; ``...`` for the pool's own limit, None for no limit.
            return_exceptions: Give an item's exception in place of its result, and go on.

        Raises:
            TypeError: ``fn`` cannot be called, or an option has the wrong type.
            ValueError: An option is out of range.
            RuntimeError: The pool is shut down.
        """
        check_callable("fn", fn)
        size = check_count("chunksize", chunksize)
        ahead = check_count("buffersize", buffersize)
        limit = self._limit(task_timeout)
        waiting_ends = None if timeout is None else time.monotonic() + timeout
        rows = zip(*iterables, strict=False)  # as the built-in ``map``: the shortest ends it
        if size is None or size == 1 or limit is not None or self._terms.soft_timeout is not None:
            bundling = self._bundling(task_timeout, fn) if ahead is None else None
            if bundling is not None:
                return _each_bundled(bundling, rows, iterables, return_exceptions, waiting_ends)
            submit = partial(self._submit_row, task_timeout, fn, return_exceptions)
            return _each_result(submit, rows, ahead, waiting_ends)
        run = _run_chunk_keeping if return_exceptions else _run_chunk
        chunks = iter(lambda: tuple(itertools.islice(rows, size)), ())
        bundling = self._bundling(task_timeout, run) if ahead is None else None
        if bundling is not None:
            calls = ((fn, chunk) for chunk in chunks)
            each = _each_bundled(bundling, calls, iterables, return_exceptions, waiting_ends, is_chunked=True)
        else:
            submit = partial(self._submit_chunk, task_timeout, fn, return_exceptions)
            each = _each_result(submit, chunks, ahead, waiting_ends)
        return itertools.chain.from_iterable(each)

    def map_unordered(
        self,
        fn: Callable[..., T],
        /,
        *iterables: Iterable[Any],
        timeout: float | None = None,
        buffersize: int | None = None,
        task_timeout: float | None = DEFAULT,
        return_exceptions: bool = False,
    ) -> Iterator[T]:
        """Return an iterator over ``fn`` of the items, each as soon as it is there, in whatever order that is.

        Args and errors as of ``map``; ``buffersize`` bounds the tasks whose results have not been taken.
        """
        check_callable("fn", fn)
        ahead = check_count("buffersize", buffersize)
        self._limit(task_timeout)
        waiting_ends = None if timeout is None else time.monotonic() + timeout
        rows = zip(*iterables, strict=False)
        flow = Flow(partial(self._submit_timed, task_timeout, fn), rows, return_exceptions)
        flow.submit(ahead)
        return flow.take_all(waiting_ends)

    def _submit_row(self, timeout: Any, fn: Callable[..., Any], keep: bool, row: tuple[Any, ...]) -> _Pending:
        return _Pending(self._submit_timed(timeout, fn, row), keep, None)

    def _submit_chunk(self, timeout: Any, fn: Callable[..., Any], keep: bool, chunk: tuple[Any, ...]) -> _Pending:
        run = _run_chunk_keeping if keep else _run_chunk
        return _Pending(self._submit_timed(timeout, run, (fn, chunk)), keep, len(chunk))


class _Pending:
    """A task of ``map``, and how its outcome is to be given out."""

    def __init__(self, future: Future[Any], keep: bool, items: int | None) -> None:
        self._future = future
        self._keep = keep
        self._items = items

    def take(self, until: float | None) -> Any:
        """Return the outcome; wait no longer than ``until``."""
        remaining = None if until is None else until - time.monotonic()
        try:
            error = self._future.exception(remaining)
        except CancelledError as cancelled:
            error = cancelled
        if error is None:
            return self._future.result()
        if not self._keep or not isinstance(error, Exception):
            raise error
        return error if self._items is None else [error] * self._items

    def cancel(self) -> None:
        self._future.cancel()


def _each_result(
    submit: Callable[[Any], _Pending], calls: Iterator[Any], ahead: int | None, until: float | None
) -> Iterator[Any]:
    """Submit now, all or as many as may be ahead; give out results as they are asked for."""
    pending: deque[_Pending] = deque()
    try:
        pending.extend(map(submit, calls if ahead is None else itertools.islice(calls, ahead)))
    except BaseException:
        for task in pending:
            task.cancel()
        raise
    return _take_each(submit, calls, pending, until)


def _take_each(
    submit: Callable[[Any], _Pending], calls: Iterator[Any], pending: deque[_Pending], until: float | None
) -> Iterator[Any]:
    try:
        while pending:
            yield _take_first(submit, calls, pending, until)  # no name holds the result while the caller has it
    finally:
        for task in pending:
            task.cancel()


def _take_first(
    submit: Callable[[Any], _Pending], calls: Iterator[Any], pending: deque[_Pending], until: float | None
) -> Any:
    first = pending.popleft()
    try:
        outcome = first.take(until)
    except BaseException:
        first.cancel()
        raise
    pending.extend(map(submit, itertools.islice(calls, 1)))
    return outcome


def _each_bundled(
    bundling: Bundling,
    rows: Iterator[tuple[Any, ...]],
    sources: tuple[Iterable[Any], ...],
    keep: bool,
    until: float | None,
    *,
    is_chunked: bool = False,
) -> Iterator[Any]:
    """Submit now, all; give out results as they are asked for."""
    sizes: list[int] = []
    if is_chunked and keep:
        rows = _note_sizes(rows, sizes)
    bundling.submit(rows, sources)
    return _take_bundled(bundling, keep, sizes, until)


def _note_sizes(rows: Iterator[tuple[Any, ...]], sizes: list[int]) -> Iterator[tuple[Any, ...]]:
    for row in rows:
        sizes.append(len(row[1]))
        yield row


def _take_bundled(bundling: Bundling, keep: bool, sizes: list[int], until: float | None) -> Iterator[Any]:
    is_over = False
    try:
        for index in range(len(bundling)):
            yield _take_one(bundling, index, keep, sizes[index] if sizes else None, until)
        is_over = True
    finally:
        if not is_over:
            bundling.cancel()


def _take_one(bundling: Bundling, index: int, keep: bool, items: int | None, until: float | None) -> Any:
    taken = bundling.take(index, until)
    if not isinstance(taken, Future):
        return taken
    try:
        return _Pending(taken, keep, items).take(until)
    except BaseException:
        taken.cancel()  # it is in its slot no more
        raise


def _run_chunk(fn: Callable[..., T], chunk: tuple[tuple[Any, ...], ...]) -> list[T]:
    return [fn(*row) for row in chunk]


def _run_chunk_keeping(fn: Callable[..., T], chunk: tuple[tuple[Any, ...], ...]) -> list[Any]:
    return [_outcome(fn, row) for row in chunk]


def _outcome(fn: Callable[..., T], row: tuple[Any, ...]) -> T | Exception:
    try:
        return fn(*row)
    except Exception as error:
        return error
