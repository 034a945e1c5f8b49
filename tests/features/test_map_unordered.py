"""``map_unordered``: each result as soon as it is there."""

from __future__ import annotations

import concurrent.futures
import itertools

import pytest

from features import acts
from safepool import WorkerDiedError


def test_quick_items_overtake_slow_ones(pool, gate) -> None:
    results = pool.map_unordered(acts.pass_gate_if_first, itertools.repeat(gate.folder), range(4))

    assert sorted(itertools.islice(results, 3)) == [1, 2, 3]
    gate.let_through()
    assert list(results) == [0]


def test_failed_item_raises_when_it_comes(pool) -> None:
    with pytest.raises(ValueError, match="-1"):
        list(pool.map_unordered(acts.square_or_raise, [-1]))


def test_failed_items_are_given_in_place_if_asked_for(pool) -> None:
    outcomes = list(pool.map_unordered(acts.square_or_die, [2, -1, 3], return_exceptions=True))

    assert sorted(outcome for outcome in outcomes if isinstance(outcome, int)) == [4, 9]
    assert [type(outcome) for outcome in outcomes if not isinstance(outcome, int)] == [WorkerDiedError]


def test_endless_input_is_taken_as_far_as_the_buffer_goes(pool) -> None:
    taken = []
    numbers = (taken.append(number) or number for number in itertools.count())

    results = pool.map_unordered(acts.square, numbers, buffersize=4)

    assert len(taken) == 4
    assert len({next(results) for _ in range(10)}) == 10
    assert len(taken) <= 14
    results.close()


def test_waiting_longer_than_the_timeout_raises(pool, gate) -> None:
    results = pool.map_unordered(acts.pass_gate_if_first, [gate.folder], [0], timeout=0.05)

    with pytest.raises(concurrent.futures.TimeoutError):
        next(results)
    gate.let_through()


@pytest.mark.parametrize("buffersize", [0, -1, "1"])
def test_bad_buffersize_is_refused_by_name(pool, buffersize) -> None:
    with pytest.raises((TypeError, ValueError), match="buffersize"):
        pool.map_unordered(acts.square, [1], buffersize=buffersize)
