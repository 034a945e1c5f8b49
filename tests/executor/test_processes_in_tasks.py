"""Tasks may start processes of every kind, and fork."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from contract.patience import PATIENCE, error_of, result_of
from executor import calls
from safepool import SafeProcessPoolExecutor

NewPool = Callable[..., SafeProcessPoolExecutor]
Pool = SafeProcessPoolExecutor


def test_worker_is_no_daemon(pool: Pool) -> None:
    assert not result_of(pool.submit(calls.is_daemon))


def test_task_with_a_pool_of_multiprocessing_works(pool: Pool) -> None:
    future = pool.submit(calls.map_by_pool_of_multiprocessing, [1, 2, 3])
    assert future.result(timeout=2 * PATIENCE) == [1, 4, 9]


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_task_with_a_process_of_multiprocessing_works(pool: Pool, method: str) -> None:
    future = pool.submit(calls.run_process_and_return_its_exitcode, 7, method)
    assert future.result(timeout=2 * PATIENCE) == 7


def test_task_with_a_safepool_of_its_own_works(pool: Pool) -> None:
    from contract.calls import squares_by_nested_pool

    future = pool.submit(squares_by_nested_pool, "safepool", [1, 2, 3])
    assert future.result(timeout=2 * PATIENCE) == [1, 4, 9]


@pytest.mark.parametrize("fork", [calls.fork_and_return_in_both, calls.fork_and_raise_in_the_child])
def test_fork_whose_child_leaves_the_task_does_not_answer_for_it(new_pool: NewPool, fork: Callable[[], str]) -> None:
    pool = new_pool(max_workers=1)
    for number in range(3):
        assert result_of(pool.submit(fork)) == "parent"
        assert result_of(pool.submit(calls.square, number)) == number * number
    pool.shutdown(wait=True)


def test_fork_whose_child_leaves_the_task_ends_there(pool: Pool) -> None:
    future = pool.submit(calls.fork_and_wait_for_the_child_that_returns)
    assert future.result(timeout=3 * PATIENCE) == ("parent", True)


def test_system_exit_in_a_task_arrives(pool: Pool) -> None:
    error = error_of(pool.submit(calls.call_sys_exit, 3))
    assert isinstance(error, SystemExit)
    assert error.code == 3
    assert result_of(pool.submit(calls.square, 3)) == 9
