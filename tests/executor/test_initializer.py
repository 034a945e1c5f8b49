"""An initializer that fails breaks the pool, and the reason arrives."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from contract.patience import error_of, result_of
from executor import calls
from safepool import InitializerError, SafeProcessPoolExecutor

NewPool = Callable[..., SafeProcessPoolExecutor]


def _error_of_a_later_submit(pool: SafeProcessPoolExecutor) -> BaseException | None:
    with pytest.raises(InitializerError) as caught:
        result_of(pool.submit(calls.square, 3))
    return caught.value


def test_initializer_that_raises_gives_its_exception_as_cause(new_pool: NewPool) -> None:
    pool = new_pool(initializer=calls.raise_value_error, initargs=("not today",))
    futures = [pool.submit(calls.square, number) for number in range(3)]
    for error in [*map(error_of, futures), _error_of_a_later_submit(pool)]:
        assert isinstance(error, InitializerError)
        assert isinstance(error.__cause__, ValueError)
        assert str(error.__cause__) == "not today"
        assert "not today" in error.reason
        assert error.attempts >= 1


def test_initializer_that_exits_breaks_the_pool_and_tells_how(new_pool: NewPool) -> None:
    pool = new_pool(initializer=calls.exit_in_initializer, initargs=(7,))
    error = error_of(pool.submit(calls.square, 3))
    assert isinstance(error, InitializerError)
    assert "7" in error.reason
    assert isinstance(_error_of_a_later_submit(pool), InitializerError)


def test_initializer_arguments_that_break_in_the_worker_break_the_pool(new_pool: NewPool) -> None:
    pool = new_pool(initializer=calls.square, initargs=(calls.Brittle(),))
    error = error_of(pool.submit(calls.square, 3))
    assert isinstance(error, InitializerError)
    assert "broken in transit" in str(error)


def test_initializer_that_cannot_be_pickled_is_told_by_somebody(new_pool: NewPool) -> None:
    with pytest.raises((LookupError, InitializerError)):
        result_of(new_pool(initializer=calls.square, initargs=(calls.Shy(),)).submit(calls.square, 3))


def test_initializer_that_fails_once_is_tried_again(new_pool: NewPool, tmp_path: Path) -> None:
    pool = new_pool(initializer=calls.fail_in_first_workers, initargs=(str(tmp_path), 1))
    assert result_of(pool.submit(calls.square, 3)) == 9
    assert (tmp_path / "0").exists()


def test_broken_pool_can_be_shut_down(new_pool: NewPool) -> None:
    pool = new_pool(initializer=calls.raise_value_error)
    error_of(pool.submit(calls.square, 3))
    pool.shutdown(wait=True)


def test_initializer_as_lambda_runs(new_pool: NewPool) -> None:
    def prepare() -> None:
        import os

        os.environ["PREPARED"] = "by a closure"

    pool = new_pool(initializer=prepare)
    assert result_of(pool.submit(calls.variable, "PREPARED")) == "by a closure"
