"""A task may use a pool of its own."""

from __future__ import annotations

from concurrent.futures import Executor, ThreadPoolExecutor

from contract import calls
from contract.patience import PATIENCE, result_of


def test_task_with_a_pool_of_its_own_works(kind: str, pool: Executor) -> None:
    future = pool.submit(calls.squares_by_nested_pool, kind, [1, 2, 3])
    assert future.result(timeout=2 * PATIENCE) == [1, 4, 9]


def test_pool_inside_a_thread_pool_works(pool: Executor) -> None:
    with ThreadPoolExecutor(4) as threads:
        results = threads.map(lambda number: result_of(pool.submit(calls.square, number)), range(8))
        assert list(results) == [number * number for number in range(8)]
