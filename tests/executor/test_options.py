"""``options``: a view of the pool with limits of its own, for whoever takes an Executor."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor

import pytest

from contract.patience import PATIENCE, error_of, result_of
from executor import calls
from safepool import SafeFuture, SafeProcessPoolExecutor, TaskTimeoutError

NewPool = Callable[..., SafeProcessPoolExecutor]
Pool = SafeProcessPoolExecutor


def test_view_is_an_executor(pool: Pool) -> None:
    view = pool.options(timeout=60)
    assert isinstance(view, Executor)
    assert isinstance(view.submit(calls.square, 3), SafeFuture)


def test_view_submit_passes_every_keyword_to_the_function(pool: Pool) -> None:
    given = {"task_timeout": 1, "timeout": 2, "self": 3, "fn": 4}
    assert result_of(pool.options(timeout=60).submit(calls.keywords, **given)) == given


def test_pool_submit_keeps_task_timeout_for_itself(pool: Pool) -> None:
    assert result_of(pool.submit(calls.keywords, task_timeout=60, timeout=2)) == {"timeout": 2}


def test_view_map_gives_results(pool: Pool) -> None:
    assert list(pool.options(timeout=60).map(calls.square, range(5))) == [0, 1, 4, 9, 16]


def test_view_leaves_the_limit_of_the_pool_alone(new_pool: NewPool) -> None:
    pool = new_pool(task_timeout=0.3)
    pool.options(timeout=None)
    assert isinstance(error_of(pool.submit(calls.hang)), TaskTimeoutError)


def test_view_without_options_has_the_limit_of_the_pool(new_pool: NewPool) -> None:
    view = new_pool(task_timeout=0.3).options()
    assert isinstance(error_of(view.submit(calls.hang)), TaskTimeoutError)


def test_view_works_with_asyncio(pool: Pool) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        await asyncio.wait_for(loop.run_in_executor(pool.options(timeout=0.3), calls.hang), PATIENCE)

    with pytest.raises(TaskTimeoutError):
        asyncio.run(main())


def test_view_after_shutdown_of_the_pool_takes_nothing(new_pool: NewPool) -> None:
    pool = new_pool()
    view = pool.options(timeout=60)
    pool.shutdown()
    with pytest.raises(RuntimeError):
        view.submit(calls.square, 3)
