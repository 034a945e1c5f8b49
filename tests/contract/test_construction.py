"""The constructor's door, and what other libraries expect to find on a pool."""

from __future__ import annotations

from concurrent.futures import Executor, Future, ProcessPoolExecutor
from typing import Any

import pytest

from contract import calls
from contract.kinds import NewPool, class_of
from contract.patience import result_of


@pytest.mark.parametrize("count", [0, -1])
def test_max_workers_below_one_raises_value_error(new_pool: NewPool, count: int) -> None:
    with pytest.raises(ValueError, match="max_workers"):
        new_pool(max_workers=count)


def test_max_workers_left_out_is_at_least_one(new_pool: NewPool) -> None:
    assert new_pool(max_workers=None)._max_workers >= 1  # type: ignore[attr-defined]  # dask reads it


def test_max_workers_given_can_be_read(new_pool: NewPool) -> None:
    assert new_pool(max_workers=3)._max_workers == 3  # type: ignore[attr-defined]


def test_initializer_not_callable_raises_type_error(new_pool: NewPool) -> None:
    with pytest.raises(TypeError, match="callable"):
        new_pool(initializer="not callable")


def test_pool_takes_attributes(new_pool: NewPool) -> None:
    pool = new_pool()
    pool.note = "mine"  # type: ignore[attr-defined]
    assert pool.note == "mine"  # type: ignore[attr-defined]


def test_pool_is_not_callable(new_pool: NewPool) -> None:
    """dask takes a callable for a scheduler function and a pool for a pool."""
    assert not callable(new_pool())


def test_subclass_that_overrides_submit_sees_every_call(kind: str) -> None:
    seen: list[Any] = []

    class Watched(class_of(kind)):  # type: ignore[misc]
        def submit(self, fn: Any, /, *args: Any, **keywords: Any) -> Future[Any]:
            seen.append(args)
            future: Future[Any] = super().submit(fn, *args, **keywords)
            return future

    pool: Executor
    with Watched(1) as pool:
        assert result_of(pool.submit(calls.square, 2)) == 4
        assert list(pool.map(calls.square, [3, 4])) == [9, 16]
    assert len(seen) == 3


def test_pool_is_a_process_pool_executor_to_whoever_asks(pool: Executor) -> None:
    assert isinstance(pool, ProcessPoolExecutor)
