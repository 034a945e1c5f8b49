"""``map`` with errors in place, bounded input, and a deadline for each item."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import pytest

from contract.gate import Gate, pass_gate
from contract.patience import eventually
from executor import calls
from safepool import SafeProcessPoolExecutor, TaskTimeoutError, WorkerDiedError

NewPool = Callable[..., SafeProcessPoolExecutor]
Pool = SafeProcessPoolExecutor


def test_map_return_exceptions_gives_errors_in_their_places(pool: Pool) -> None:
    outcomes = list(pool.map(calls.square_unless, [2] * 4, range(4), return_exceptions=True))
    assert [outcomes[0], outcomes[1], outcomes[3]] == [0, 1, 9]
    assert isinstance(outcomes[2], ValueError)
    assert str(outcomes[2]) == "2 is refused"


def test_map_return_exceptions_in_a_chunk_gives_errors_in_their_places(pool: Pool) -> None:
    outcomes = list(pool.map(calls.square_unless, [2] * 7, range(7), chunksize=3, return_exceptions=True))
    assert [type(outcome) for outcome in outcomes] == [int, int, ValueError, int, int, int, int]


def test_map_return_exceptions_gives_deaths_in_their_places(pool: Pool) -> None:
    outcomes = list(pool.map(calls.die_or_square, [1, -1, 2], return_exceptions=True))
    assert [outcomes[0], outcomes[2]] == [1, 4]
    assert isinstance(outcomes[1], WorkerDiedError)


def test_map_without_return_exceptions_raises(pool: Pool) -> None:
    with pytest.raises(ValueError, match="2 is refused"):
        list(pool.map(calls.square_unless, [2] * 4, range(4)))


def test_map_task_timeout_is_for_each_item(pool: Pool) -> None:
    outcomes = list(pool.map(calls.hang_or_square, [1, -1, 2, -1, 3], task_timeout=3, return_exceptions=True))
    assert [outcomes[0], outcomes[2], outcomes[4]] == [1, 4, 9]
    assert [type(outcomes[1]), type(outcomes[3])] == [TaskTimeoutError] * 2


def test_map_task_timeout_with_chunksize_is_for_each_item(pool: Pool) -> None:
    outcomes = list(pool.map(calls.hang_or_square, [1, 2, -1, 3], chunksize=2, task_timeout=3, return_exceptions=True))
    assert [outcomes[0], outcomes[1], outcomes[3]] == [1, 4, 9]
    assert isinstance(outcomes[2], TaskTimeoutError)


def test_map_of_a_view_uses_its_limit(pool: Pool) -> None:
    outcomes = list(pool.options(timeout=3).map(calls.hang_or_square, [1, -1], return_exceptions=True))
    assert outcomes[0] == 1
    assert isinstance(outcomes[1], TaskTimeoutError)


@pytest.mark.parametrize("buffersize", [1, 2, 5])
def test_map_buffersize_takes_endless_input(pool: Pool, buffersize: int) -> None:
    results = pool.map(calls.square, itertools.count(), buffersize=buffersize)
    assert list(itertools.islice(results, 20)) == [number * number for number in range(20)]


@pytest.mark.parametrize("buffersize", [1, 3])
def test_map_buffersize_bounds_what_is_taken_ahead(pool: Pool, buffersize: int) -> None:
    taken: list[int] = []

    def numbers() -> Iterator[int]:
        for number in itertools.count():
            taken.append(number)
            yield number

    results = pool.map(calls.square, numbers(), buffersize=buffersize)
    assert len(taken) <= buffersize
    for given in range(1, 6):
        next(results)
        assert len(taken) <= buffersize + given


def test_map_buffersize_starts_work_before_anybody_asks(pool: Pool, gate: Gate) -> None:
    results = pool.map(pass_gate, itertools.repeat(gate.folder, 6), range(6), buffersize=2)
    assert gate.wait_until_arrived(2)
    gate.close()
    assert list(results) == list(range(6))


def test_map_buffersize_larger_than_the_input_changes_nothing(pool: Pool) -> None:
    assert list(pool.map(calls.square, range(5), buffersize=100)) == [0, 1, 4, 9, 16]


def test_map_buffersize_with_chunks_keeps_order(pool: Pool) -> None:
    results = pool.map(calls.square, range(17), chunksize=3, buffersize=2)
    assert list(results) == [number * number for number in range(17)]


def test_map_closed_early_leaves_the_pool_serving(pool: Pool) -> None:
    results = pool.map(calls.square, itertools.count(), buffersize=4)
    assert next(results) == 0
    results.close()  # type: ignore[attr-defined]
    assert list(pool.map(calls.square, range(3))) == [0, 1, 4]


def test_map_given_up_does_not_keep_its_input_running(new_pool: NewPool, gate: Gate) -> None:
    """Items that wait when the iteration is given up are cancelled."""
    pool = new_pool(max_workers=1)
    started: list[int] = []

    def folders() -> Iterator[str]:
        for number in range(10):
            started.append(number)
            yield gate.folder

    results = pool.map(pass_gate, folders(), itertools.count(), buffersize=3)
    gate.wait_until_arrived()
    gate.let_through()
    assert next(results) == 0
    results.close()  # type: ignore[attr-defined]
    taken = len(started)
    gate.close()
    pool.shutdown(wait=True)
    assert eventually(lambda: len(started) == taken)
    assert taken < 10


def test_map_generator_that_raises_in_the_middle_raises_to_the_caller(pool: Pool) -> None:
    def numbers() -> Iterator[int]:
        yield from range(3)
        raise LookupError("no more numbers")

    results = pool.map(calls.square, numbers(), buffersize=1)
    with pytest.raises(LookupError, match="no more numbers"):
        list(results)
    assert list(pool.map(calls.square, [5])) == [25]
