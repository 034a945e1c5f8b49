"""Ending on request: one task, or the whole pool, with everything that was started."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable
from concurrent.futures import CancelledError
from typing import Any

import pytest

from contract.gate import Gate, pass_gate
from contract.patience import PATIENCE, error_of, eventually, is_gone, result_of
from executor import calls
from safepool import SafeFuture, SafeProcessPoolExecutor, TaskKilledError

NewPool = Callable[..., SafeProcessPoolExecutor]
Pool = SafeProcessPoolExecutor


def killed(future: SafeFuture[Any]) -> TaskKilledError:
    """Wait for the error of a task that was ended on request."""
    error = error_of(future)
    assert isinstance(error, TaskKilledError), repr(error)
    return error


def test_kill_running_task_ends_it_and_tells_the_facts(pool: Pool, gate: Gate) -> None:
    future = pool.submit(calls.hang, gate.folder)
    (worker,) = gate.wait_until_arrived()
    future.kill()
    error = killed(future)
    assert error.pid == worker
    assert "hang" in error.task
    assert "kill" in error.reason
    assert is_gone(worker)
    assert result_of(pool.submit(calls.square, 3)) == 9


def test_kill_task_that_holds_the_gil_ends_it(pool: Pool) -> None:
    future = pool.submit(calls.hang_holding_the_gil)
    assert eventually(lambda: future.started_at is not None)
    future.kill()
    assert is_gone(killed(future).pid)


def test_kill_waiting_task_cancels_it(new_pool: NewPool, gate: Gate) -> None:
    pool = new_pool(max_workers=1)
    running = pool.submit(pass_gate, gate.folder, "undisturbed")
    waiting = pool.submit(calls.square, 3)
    gate.wait_until_arrived()
    waiting.kill()
    assert waiting.cancelled()
    gate.let_through()
    assert result_of(running) == "undisturbed"


def test_kill_finished_task_changes_nothing(pool: Pool) -> None:
    future = pool.submit(calls.square, 3)
    assert result_of(future) == 9
    future.kill()
    assert future.result() == 9
    assert result_of(pool.submit(calls.square, 4)) == 16


def test_kill_twice_kills_once(pool: Pool, gate: Gate) -> None:
    future = pool.submit(calls.hang, gate.folder)
    gate.wait_until_arrived()
    future.kill()
    future.kill()
    killed(future)
    future.kill()
    assert [result_of(pool.submit(calls.square, number)) for number in range(5)] == [0, 1, 4, 9, 16]


def test_kill_leaves_a_running_neighbour_alone(pool: Pool, gate: Gate) -> None:
    neighbour = pool.submit(pass_gate, gate.folder, "undisturbed")
    gate.wait_until_arrived()
    future = pool.submit(calls.hang, gate.folder)
    gate.wait_until_arrived()
    future.kill()
    killed(future)
    assert not neighbour.done()
    gate.let_through()
    assert result_of(neighbour) == "undisturbed"


def test_kill_leaves_what_waits_behind_it_alone(new_pool: NewPool, gate: Gate) -> None:
    pool = new_pool(max_workers=1)
    future = pool.submit(calls.hang, gate.folder)
    waiting = [pool.submit(calls.square, number) for number in range(5)]
    gate.wait_until_arrived()
    future.kill()
    killed(future)
    assert [result_of(each) for each in waiting] == [0, 1, 4, 9, 16]


def test_kill_ends_what_the_task_started(pool: Pool, gate: Gate) -> None:
    future = pool.submit(calls.hang_with_children, gate.folder)
    children = gate.wait_until_arrived(2)
    future.kill()
    error = killed(future)
    assert eventually(lambda: all(is_gone(child) for child in children))
    assert set(children) <= {process.pid for process in error.ended}


def test_kill_wakes_wait(pool: Pool, gate: Gate) -> None:
    future = pool.submit(calls.hang, gate.folder)
    gate.wait_until_arrived()
    future.kill()
    assert concurrent.futures.wait([future], PATIENCE).done == {future}


def test_cancel_right_behind_the_running_task_succeeds(new_pool: NewPool, gate: Gate) -> None:
    """No task says that it runs before it does."""
    pool = new_pool(max_workers=1)
    running = pool.submit(pass_gate, gate.folder, "undisturbed")
    gate.wait_until_arrived()
    waiting = [pool.submit(calls.square, number) for number in range(3)]
    assert [future.running() for future in waiting] == [False] * 3
    assert [future.cancel() for future in waiting] == [True] * 3
    gate.let_through()
    assert result_of(running) == "undisturbed"
    assert result_of(pool.submit(calls.square, 4)) == 16


def _start_two_and_queue_three(
    pool: Pool, gate: Gate
) -> tuple[list[SafeFuture[Any]], list[SafeFuture[Any]], list[int]]:
    running = [pool.submit(calls.hang, gate.folder) for _ in range(2)]
    workers = gate.wait_until_arrived(2)
    return running, [pool.submit(calls.square, number) for number in range(3)], workers


@pytest.mark.parametrize(
    "end",
    [
        lambda pool: pool.shutdown(kill=True),
        lambda pool: pool.shutdown(wait=False, kill=True),
        lambda pool: pool.shutdown(timeout=0),
        lambda pool: pool.shutdown(timeout=0.2),
        lambda pool: pool.shutdown(wait=False, timeout=0.2),
        lambda pool: pool.kill_workers(),
        lambda pool: pool.terminate_workers(),
    ],
    ids=[
        "shutdown-kill",
        "shutdown-kill-without-wait",
        "shutdown-timeout-0",
        "shutdown-timeout",
        "shutdown-timeout-without-wait",
        "kill-workers",
        "terminate-workers",
    ],
)
def test_pool_ended_by_force_settles_everything(new_pool: NewPool, gate: Gate, end: Callable[[Pool], None]) -> None:
    pool = new_pool(max_workers=2)
    running, waiting, workers = _start_two_and_queue_three(pool, gate)
    end(pool)
    assert [type(killed(future)) for future in running] == [TaskKilledError] * 2
    assert eventually(lambda: all(future.cancelled() for future in waiting))
    assert eventually(lambda: all(is_gone(worker) for worker in workers))
    with pytest.raises(RuntimeError, match="after shutdown"):
        pool.submit(calls.square, 3)
    with pytest.raises(CancelledError):
        waiting[0].result(timeout=0)


def test_shutdown_kill_has_ended_everything_when_it_returns(new_pool: NewPool, gate: Gate) -> None:
    pool = new_pool(max_workers=1)
    future = pool.submit(calls.hang_with_children, gate.folder)
    children = gate.wait_until_arrived(2)
    pool.shutdown(kill=True)
    assert isinstance(future.exception(timeout=0), TaskKilledError)
    assert all(is_gone(child) for child in children)


def test_shutdown_timeout_long_enough_completes_the_work(new_pool: NewPool) -> None:
    pool = new_pool(max_workers=2)
    futures = [pool.submit(calls.square, number) for number in range(10)]
    pool.shutdown(timeout=60)
    assert [future.result(timeout=0) for future in futures] == [number * number for number in range(10)]


def test_shutdown_kill_after_shutdown_without_wait_ends_what_runs(new_pool: NewPool, gate: Gate) -> None:
    pool = new_pool(max_workers=1)
    future = pool.submit(calls.hang, gate.folder)
    gate.wait_until_arrived()
    pool.shutdown(wait=False)
    assert not future.done()
    pool.shutdown(kill=True)
    assert isinstance(future.exception(timeout=0), TaskKilledError)


@pytest.mark.parametrize("end", ["shutdown", "kill_workers", "terminate_workers"])
def test_pool_ended_before_its_first_task_ends(new_pool: NewPool, end: str) -> None:
    pool = new_pool(max_workers=1)
    getattr(pool, end)()
    with pytest.raises(RuntimeError):
        pool.submit(calls.square, 3)


def test_kill_workers_twice_changes_nothing(new_pool: NewPool, gate: Gate) -> None:
    pool = new_pool(max_workers=1)
    future = pool.submit(calls.hang, gate.folder)
    gate.wait_until_arrived()
    pool.kill_workers()
    pool.kill_workers()
    killed(future)
