"""What cannot be pickled fails its own future, and nothing else."""

from __future__ import annotations

import os
import pickle
import threading
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any

import pytest

from contract import calls
from contract.kinds import NewPool
from contract.patience import error_of, result_of


def test_submit_argument_that_cannot_be_pickled_fails_the_future(pool: Executor) -> None:
    error = error_of(pool.submit(calls.same, threading.Lock()))
    assert isinstance(error, (TypeError, pickle.PicklingError))
    assert "pickle" in str(error)


def test_submit_argument_whose_pickling_raises_fails_the_future_with_that(pool: Executor) -> None:
    error = error_of(pool.submit(calls.same, calls.Shy()))
    assert isinstance(error, ValueError)
    assert str(error) == "too shy to be pickled"


def test_submit_function_that_cannot_be_pickled_fails_the_future(pool: Executor) -> None:
    error = error_of(pool.submit(threading.Lock().locked))
    assert isinstance(error, (TypeError, AttributeError, pickle.PicklingError))


def test_result_that_cannot_be_pickled_fails_the_future(pool: Executor) -> None:
    error = error_of(pool.submit(calls.return_lock))
    assert isinstance(error, (TypeError, pickle.PicklingError))
    assert "pickle" in str(error)


def test_result_whose_pickling_raises_fails_the_future_with_that(pool: Executor) -> None:
    error = error_of(pool.submit(calls.Shy))
    assert isinstance(error, ValueError)
    assert str(error) == "too shy to be pickled"


def test_exception_that_cannot_be_pickled_fails_the_future(pool: Executor) -> None:
    error = error_of(pool.submit(calls.raise_with_lock))
    assert isinstance(error, Exception)
    assert "pickle" in str(error)


def test_exception_that_cannot_be_pickled_arrives_as_text(pool: Executor) -> None:
    error = error_of(pool.submit(calls.raise_with_lock, "the reason"))
    assert "the reason" in str(error)


@pytest.mark.parametrize(
    "fails",
    [
        lambda pool: pool.submit(calls.same, threading.Lock()),
        lambda pool: pool.submit(calls.same, calls.Shy()),
        lambda pool: pool.submit(calls.return_lock),
        lambda pool: pool.submit(calls.raise_with_lock),
    ],
    ids=["argument", "argument-that-raises", "result", "exception"],
)
def test_pickling_error_leaves_the_neighbours_alone(pool: Executor, fails: Callable[[Executor], Any]) -> None:
    before = [pool.submit(calls.square, number) for number in range(5)]
    failing = fails(pool)
    after = [pool.submit(calls.square, number) for number in range(5)]
    assert error_of(failing) is not None
    assert [result_of(future) for future in before + after] == [0, 1, 4, 9, 16] * 2


def test_argument_that_breaks_in_the_worker_leaves_the_pool_usable(new_pool: NewPool) -> None:
    pool = new_pool(max_workers=1)
    assert error_of(pool.submit(calls.same, calls.Brittle())) is not None
    assert result_of(pool.submit(calls.square, 2)) == 4


def test_result_that_breaks_in_the_host_leaves_the_pool_usable(new_pool: NewPool) -> None:
    pool = new_pool(max_workers=1)
    assert error_of(pool.submit(calls.BreaksInHost, os.getpid())) is not None
    assert result_of(pool.submit(calls.square, 2)) == 4
