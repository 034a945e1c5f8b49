"""A deadline is a deadline: from the start of the task, whatever the task does, and for that task alone."""

from __future__ import annotations

import concurrent.futures
import os
import time
from collections.abc import Callable
from typing import Any

import pytest

from contract.gate import Gate, pass_gate
from contract.patience import PATIENCE, error_of, eventually, is_gone, result_of
from executor import calls
from safepool import SafeFuture, SafeProcessPoolExecutor, TaskTimeoutError

NewPool = Callable[..., SafeProcessPoolExecutor]
Pool = SafeProcessPoolExecutor

SHORT = 0.3  # long enough to be seen running, short enough to be waited for; only tasks that hang get it


def timeout_of(future: SafeFuture[Any]) -> TaskTimeoutError:
    """Wait for the timeout error of a task."""
    error = error_of(future)
    assert isinstance(error, TaskTimeoutError), repr(error)
    return error


def first_with_stack(pool: Pool, hang: Callable[[], object]) -> TaskTimeoutError:
    """Let it hang until a stack could be had: at a deadline nobody waits long for a machine too busy to tell."""
    for _ in range(4):
        error = timeout_of(pool.submit(hang, task_timeout=2))
        if error.stack:
            break
    return error


def test_task_timeout_of_the_pool_ends_a_hanging_task(new_pool: NewPool) -> None:
    pool = new_pool(task_timeout=SHORT)
    assert timeout_of(pool.submit(calls.hang)).timeout == SHORT


def test_task_timeout_of_submit_ends_a_hanging_task(pool: Pool) -> None:
    assert timeout_of(pool.submit(calls.hang, task_timeout=SHORT)).timeout == SHORT


def test_task_timeout_of_submit_goes_before_that_of_the_pool(new_pool: NewPool) -> None:
    pool = new_pool(task_timeout=1000)
    assert timeout_of(pool.submit(calls.hang, task_timeout=SHORT)).timeout == SHORT


def test_task_timeout_of_options_ends_a_hanging_task(pool: Pool) -> None:
    assert timeout_of(pool.options(timeout=SHORT).submit(calls.hang)).timeout == SHORT


def test_task_timeout_of_map_ends_a_hanging_task(pool: Pool) -> None:
    with pytest.raises(TaskTimeoutError):
        list(pool.map(calls.hang_or_square, [-1], task_timeout=SHORT))


def test_task_timeout_none_at_submit_switches_the_default_off(new_pool: NewPool) -> None:
    pool = new_pool(task_timeout=0.2)
    future = pool.submit(calls.take_longer_than, 0.6, task_timeout=None)
    assert result_of(future) == "took its time"


def test_task_timeout_none_of_options_switches_the_default_off(new_pool: NewPool) -> None:
    view = new_pool(task_timeout=0.2).options(timeout=None)
    assert result_of(view.submit(calls.take_longer_than, 0.6)) == "took its time"


def test_task_timeout_none_of_map_switches_the_default_off(new_pool: NewPool) -> None:
    pool = new_pool(task_timeout=0.2)
    assert list(pool.map(calls.take_longer_than, [0.6], task_timeout=None)) == ["took its time"]


def test_timeout_error_tells_the_facts(new_pool: NewPool, gate: Gate) -> None:
    pool = new_pool()
    future = pool.submit(calls.hang, gate.folder, task_timeout=2)
    (worker,) = gate.wait_until_arrived()
    error = timeout_of(future)
    assert "hang" in error.task
    assert error.pid == worker
    assert error.timeout == 2
    assert error.elapsed >= 2
    assert "hang" in str(error)


@pytest.mark.parametrize(
    "hang", [calls.hang_in_a_python_loop, calls.hang_holding_the_gil, calls.hang_asleep], ids=lambda hang: hang.__name__
)
def test_timeout_error_shows_where_the_task_hung(pool: Pool, hang: Callable[[], object]) -> None:
    error = first_with_stack(pool, hang)
    assert hang.__name__ in error.stack
    assert "calls.py" in error.stack
    assert error.stack.strip() in str(error)


@pytest.mark.parametrize("hang", [calls.hang_stopped, calls.hang_deaf], ids=lambda hang: hang.__name__)
def test_timeout_reaches_a_worker_that_no_signal_reaches(pool: Pool, hang: Callable[[], object]) -> None:
    error = timeout_of(pool.submit(hang, task_timeout=SHORT))
    assert is_gone(error.pid)


def test_timeout_ends_the_worker_before_the_future_tells(pool: Pool) -> None:
    assert is_gone(timeout_of(pool.submit(calls.hang, task_timeout=SHORT)).pid)


def test_timeout_ends_what_the_task_started_and_lists_it(new_pool: NewPool, gate: Gate) -> None:
    pool = new_pool()
    future = pool.submit(calls.hang_with_children, gate.folder, task_timeout=4)
    children = gate.wait_until_arrived(2)
    assert not any(is_gone(child) for child in children)
    error = timeout_of(future)
    assert eventually(lambda: all(is_gone(child) for child in children))
    ended = {process.pid: process.command for process in error.ended}
    assert set(children) <= set(ended)
    assert all("sleep" in ended[child] for child in children)


def test_timeout_starts_with_the_task_not_with_its_submission(new_pool: NewPool, gate: Gate) -> None:
    """It waits longer than it may run."""
    pool = new_pool(max_workers=1)
    first = pool.submit(pass_gate, gate.folder, None)
    waiting = pool.submit(calls.square, 3, task_timeout=3)
    gate.wait_until_arrived()
    assert concurrent.futures.wait([waiting], timeout=3.2).not_done
    gate.let_through()
    assert result_of(first) is None
    assert result_of(waiting) == 9


def test_timeout_leaves_a_running_neighbour_alone(new_pool: NewPool, gate: Gate) -> None:
    pool = new_pool(max_workers=2)
    neighbour = pool.submit(pass_gate, gate.folder, "undisturbed")
    (worker,) = gate.wait_until_arrived()
    timeout_of(pool.submit(calls.hang, task_timeout=SHORT))
    assert not neighbour.done()
    assert not is_gone(worker)
    gate.let_through()
    assert result_of(neighbour) == "undisturbed"


def test_timeout_leaves_what_waits_behind_it_alone(new_pool: NewPool) -> None:
    pool = new_pool(max_workers=1)
    hanging = pool.submit(calls.hang, task_timeout=SHORT)
    waiting = [pool.submit(calls.square, number) for number in range(10)]
    timeout_of(hanging)
    assert [result_of(future) for future in waiting] == [number * number for number in range(10)]


def test_timeouts_of_many_tasks_hit_each_of_them(pool: Pool) -> None:
    errors = [timeout_of(future) for future in [pool.submit(calls.hang, task_timeout=SHORT) for _ in range(4)]]
    assert len({error.pid for error in errors}) == 4
    assert result_of(pool.submit(calls.square, 3)) == 9


def test_timeout_among_good_tasks_hits_the_hanging_one_only(pool: Pool) -> None:
    futures = [
        pool.submit(calls.hang_or_square, number, task_timeout=SHORT if number < 0 else None)
        for number in (1, 2, -1, 3, -1, 4)
    ]
    outcomes = [error_of(future) for future in futures]
    assert [type(outcome) for outcome in outcomes if outcome] == [TaskTimeoutError] * 2
    assert [future.result() for future, outcome in zip(futures, outcomes, strict=True) if not outcome] == [1, 4, 9, 16]


def test_timeout_long_enough_changes_nothing(pool: Pool) -> None:
    assert [result_of(pool.submit(calls.square, number, task_timeout=60)) for number in range(20)] == [
        number * number for number in range(20)
    ]


@pytest.mark.parametrize("seconds", [1e6, 1e7, 1e10, 10**12], ids=str)
def test_timeout_of_years_is_no_trouble(new_pool: NewPool, gate: Gate, seconds: float) -> None:
    pool = new_pool(max_workers=2)
    future = pool.submit(pass_gate, gate.folder, "served", task_timeout=seconds)
    gate.wait_until_arrived()
    assert result_of(pool.submit(calls.square, 3, task_timeout=seconds)) == 9
    gate.let_through()
    assert result_of(future) == "served"


def test_result_timeout_ends_nothing(pool: Pool, gate: Gate) -> None:
    future = pool.submit(pass_gate, gate.folder, "went on", task_timeout=1000)
    with pytest.raises(concurrent.futures.TimeoutError) as caught:
        future.result(timeout=0.05)
    assert not isinstance(caught.value, TaskTimeoutError)
    gate.let_through()
    assert result_of(future) == "went on"


def test_timeout_error_raised_by_the_task_arrives_as_it_is(pool: Pool) -> None:
    error = error_of(pool.submit(calls.raise_own_timeout, task_timeout=60))
    assert type(error) is TimeoutError
    assert str(error) == "the task's own"


def test_timeout_error_can_be_caught_as_both_kinds(pool: Pool) -> None:
    with pytest.raises(TimeoutError):
        result_of(pool.submit(calls.hang, task_timeout=SHORT))
    with pytest.raises(concurrent.futures.TimeoutError):
        result_of(pool.submit(calls.hang, task_timeout=SHORT))


def test_future_tells_worker_and_start_of_a_running_task(new_pool: NewPool, gate: Gate) -> None:
    pool = new_pool(max_workers=1)
    before = time.monotonic()
    running = pool.submit(pass_gate, gate.folder, None)
    waiting = pool.submit(calls.square, 3)
    workers = gate.wait_until_arrived()
    assert eventually(lambda: running.pid is not None and running.started_at is not None)
    assert [running.pid] == workers
    assert running.started_at is not None
    assert before <= running.started_at <= time.monotonic()
    assert (waiting.running(), waiting.done(), waiting.started_at) == (False, False, None)
    gate.let_through()
    assert result_of(waiting) == 9
    assert [running.pid] == workers
    assert running.started_at <= time.monotonic()


def test_future_of_another_worker_tells_another_pid(new_pool: NewPool) -> None:
    pool = new_pool(max_workers=1, max_tasks_per_child=1)
    futures = [pool.submit(os.getpid) for _ in range(2)]
    pids = [result_of(future) for future in futures]
    assert [future.pid for future in futures] == pids


def test_shutdown_waits_for_a_hanging_task_until_its_deadline(new_pool: NewPool) -> None:
    pool = new_pool(task_timeout=SHORT)
    futures = [pool.submit(calls.hang), pool.submit(calls.hang)]
    pool.shutdown(wait=True)
    assert all(isinstance(future.exception(timeout=0), TaskTimeoutError) for future in futures)


def test_waiting_for_a_deadline_wakes_wait_and_as_completed(pool: Pool) -> None:
    futures: list[SafeFuture[Any]] = [pool.submit(calls.hang, task_timeout=SHORT), pool.submit(calls.square, 3)]
    assert set(concurrent.futures.as_completed(futures, timeout=PATIENCE)) == set(futures)
