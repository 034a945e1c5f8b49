"""What ``map`` promises: order, laziness, chunks, its own timeout, and what becomes of the rest."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from typing import Any

import pytest

from contract import calls
from contract.gate import Gate, pass_gate
from contract.kinds import NewPool
from contract.patience import PATIENCE, error_of


@contextmanager
def recorded_submits(pool: Executor) -> Iterator[list[Future[Any]]]:
    """Collect the futures that ``map`` makes, by a ``submit`` put on the instance as tqdm does."""
    futures: list[Future[Any]] = []
    original = pool.submit

    def submit(*args: Any, **keywords: Any) -> Future[Any]:
        futures.append(original(*args, **keywords))
        return futures[-1]

    pool.submit = submit  # type: ignore[method-assign]
    try:
        yield futures
    finally:
        del pool.submit


def test_map_keeps_the_order(pool: Executor) -> None:
    assert list(pool.map(calls.square, range(40))) == [number * number for number in range(40)]


def test_map_first_task_slow_keeps_the_order(pool: Executor, gate: Gate) -> None:
    """The second one is finished long before the first."""
    with recorded_submits(pool) as futures:
        results = pool.map(pass_gate, [gate.folder] * 2, ["first", "second"])
        gate.wait_until_arrived(2)
        gate.let_through()
        concurrent.futures.wait(futures, PATIENCE, concurrent.futures.FIRST_COMPLETED)
        gate.let_through()
    assert list(results) == ["first", "second"]


def test_map_several_iterables_passes_one_of_each(pool: Executor) -> None:
    assert list(pool.map(calls.add, [1, 2, 3], [10, 20, 30])) == [11, 22, 33]


def test_map_iterables_of_different_length_stops_at_the_shortest(pool: Executor) -> None:
    assert list(pool.map(calls.add, [1, 2, 3], (10, 20))) == [11, 22]


def test_map_nothing_gives_nothing(pool: Executor) -> None:
    assert list(pool.map(calls.square, [])) == []


@pytest.mark.parametrize("chunksize", [1, 2, 3, 7, 100])
def test_map_chunksize_changes_no_result(pool: Executor, chunksize: int) -> None:
    numbers = range(13)
    results = list(pool.map(calls.add, numbers, numbers, chunksize=chunksize))
    assert results == [2 * number for number in numbers]


@pytest.mark.parametrize("chunksize", [0, -1])
def test_map_chunksize_below_one_raises_value_error(pool: Executor, chunksize: int) -> None:
    with pytest.raises(ValueError, match="chunksize"):
        pool.map(calls.square, range(3), chunksize=chunksize)


def test_map_returns_an_iterator(pool: Executor) -> None:
    results = pool.map(calls.square, [1, 2])
    assert iter(results) is results
    assert (next(results), next(results)) == (1, 4)
    with pytest.raises(StopIteration):
        next(results)


def test_map_first_result_is_given_before_the_last_is_there(pool: Executor, gate: Gate) -> None:
    results = pool.map(pass_gate, [gate.folder] * 2, ["first", "second"])
    gate.wait_until_arrived(2)
    gate.let_through(2)
    assert next(results) == "first"
    assert list(results) == ["second"]


def test_map_starts_work_before_anybody_asks_for_results(pool: Executor, gate: Gate) -> None:
    results = pool.map(pass_gate, [gate.folder] * 2, range(2))
    assert gate.wait_until_arrived(2)
    gate.let_through(2)
    assert list(results) == [0, 1]


def test_map_reads_its_iterables_at_once(pool: Executor) -> None:
    numbers = iter(range(10))
    results = pool.map(calls.square, numbers)
    assert next(numbers, "exhausted") == "exhausted"
    assert len(list(results)) == 10


def test_map_iterable_that_raises_raises_in_the_caller(pool: Executor) -> None:
    def numbers() -> Iterator[int]:
        yield 1
        raise LookupError("no more numbers")

    with pytest.raises(LookupError, match="no more numbers"):
        list(pool.map(calls.square, numbers()))


def test_map_exception_is_raised_at_its_place(pool: Executor) -> None:
    results = pool.map(calls.square_unless, [3] * 5, range(1, 6))
    assert [next(results), next(results)] == [1, 4]
    with pytest.raises(ValueError, match="3 is refused"):
        next(results)


def test_map_exception_ends_the_iteration(pool: Executor) -> None:
    results = pool.map(calls.square_unless, [1] * 5, range(1, 6))
    with pytest.raises(ValueError, match="1 is refused"):
        next(results)
    assert list(results) == []


def test_map_exception_in_a_chunk_is_raised(pool: Executor) -> None:
    with pytest.raises(ValueError, match="3 is refused"):
        list(pool.map(calls.square_unless, [3] * 5, range(1, 6), chunksize=2))


def test_map_timeout_raises_timeout_error(pool: Executor, gate: Gate) -> None:
    results = pool.map(pass_gate, [gate.folder] * 2, range(2), timeout=0.1)
    with pytest.raises(concurrent.futures.TimeoutError):
        next(results)
    gate.let_through(2)


def test_map_timeout_long_enough_changes_nothing(pool: Executor) -> None:
    assert list(pool.map(calls.square, range(5), timeout=PATIENCE)) == [0, 1, 4, 9, 16]


def test_map_timeout_cancels_what_waits(new_pool: NewPool, gate: Gate) -> None:
    pool = new_pool(max_workers=1)
    with recorded_submits(pool) as futures:
        results = pool.map(pass_gate, [gate.folder] * 8, range(8), timeout=0.1)
        gate.wait_until_arrived()
        with pytest.raises(concurrent.futures.TimeoutError):
            next(results)
    assert futures[-1].cancelled()
    gate.close()
    assert error_of(futures[0]) is None


def test_map_closed_early_cancels_what_waits(new_pool: NewPool, gate: Gate) -> None:
    pool = new_pool(max_workers=1)
    with recorded_submits(pool) as futures:
        results = pool.map(pass_gate, [gate.folder] * 8, range(8))
        gate.let_through()
        assert next(results) == 0
        results.close()  # type: ignore[attr-defined]
    assert futures[-1].cancelled()
    gate.close()


def test_map_goes_through_a_replaced_submit(pool: Executor) -> None:
    with recorded_submits(pool) as futures:
        assert list(pool.map(calls.square, range(3))) == [0, 1, 4]
    assert len(futures) == 3


def test_map_from_inside_a_callback_of_another_result_works(pool: Executor) -> None:
    first = list(pool.map(calls.square, range(3)))
    assert list(pool.map(calls.square, first)) == [0, 1, 16]
