"""``memory_limit``: what a task holds, with all that it has started, while it runs."""

from __future__ import annotations

import os
import signal

import pytest

from contract.patience import error_of, eventually, is_gone, result_of
from features import acts
from safepool import TaskMemoryError, WorkerDiedError
from safepool._os.memory import measure_trees
from safepool._pool import limits

LIMIT = "96MiB"
ABOVE = 400  # mebibytes; several looks happen while they are taken
BELOW = 20


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Collect what each look saw, in bytes."""
    seen: list[int] = []

    def look(trees):
        sizes = measure_trees(trees)
        seen.extend(sizes)
        return sizes

    monkeypatch.setattr(limits, "measure_trees", look)
    return seen


def test_task_that_grows_above_it_is_ended(new_pool) -> None:
    pool = new_pool(memory_limit=LIMIT)

    error = error_of(pool.submit(acts.grow_and_stay, ABOVE))

    assert isinstance(error, TaskMemoryError)
    assert isinstance(error, MemoryError)
    assert error.limit == 96 << 20
    assert error.limit < error.used < (128 + ABOVE) << 20
    assert error.elapsed > 0
    assert "grow" in error.task
    assert is_gone(error.pid)
    assert result_of(pool.submit(acts.grow, BELOW)) == BELOW


def test_error_shows_where_it_was(new_pool) -> None:
    pool = new_pool(memory_limit=LIMIT)

    errors = [error_of(pool.submit(acts.grow_and_stay, ABOVE)) for _ in range(3)]

    assert any("acts.py" in error.stack for error in errors)  # on a machine that is very busy, one may be late
    assert all(error.stack.strip() in str(error) for error in errors)


def test_process_in_a_session_of_its_own_counts_and_is_ended(new_pool) -> None:
    error = error_of(new_pool(memory_limit=LIMIT).submit(acts.grow_beneath, ABOVE))

    assert isinstance(error, TaskMemoryError)
    assert error.ended
    assert all(is_gone(process.pid) for process in error.ended)


def test_task_that_stays_below_it_is_left_alone(new_pool, gate) -> None:
    pool = new_pool(2, memory_limit=LIMIT)
    quiet = pool.submit(acts.pass_gate_and_tell_pid, gate.folder)
    (worker,) = gate.wait_until_arrived()

    assert isinstance(error_of(pool.submit(acts.grow_and_stay, ABOVE)), TaskMemoryError)

    gate.let_through()
    assert result_of(quiet) == worker


def test_memory_that_processes_share_counts_once(new_pool, gate, looks) -> None:
    """Five processes with 64 MiB in common are not 320 MiB."""
    pool = new_pool(memory_limit="200MiB")
    future = pool.submit(acts.share, gate.folder, 64, 4)
    gate.wait_until_arrived()
    before = len(looks)
    eventually(lambda: len(looks) >= before + 2)

    assert max(looks[before:]) >= 64 << 20
    gate.let_through()
    assert result_of(future) == 64 << 20


def test_task_that_grew_is_not_run_again(new_pool) -> None:
    future = new_pool(memory_limit=LIMIT, retries=3).submit(acts.grow_and_stay, ABOVE)

    assert isinstance(error_of(future), TaskMemoryError)
    assert future.attempts == 1


def test_grace_is_not_for_a_task_that_grows(new_pool) -> None:
    pool = new_pool(memory_limit=LIMIT, grace=600.0)

    assert isinstance(error_of(pool.submit(acts.grow_and_stay, ABOVE)), TaskMemoryError)


def test_worker_that_dies_meanwhile_fails_its_task_as_ever(new_pool, gate) -> None:
    pool = new_pool(memory_limit=LIMIT)
    future = pool.submit(acts.pass_gate_and_tell_pid, gate.folder)
    (worker,) = gate.wait_until_arrived()

    os.kill(worker, signal.SIGKILL)

    assert isinstance(error_of(future), WorkerDiedError)
    assert result_of(pool.submit(acts.square, 3)) == 9


def test_options_set_it_and_lift_it(new_pool) -> None:
    pool = new_pool(memory_limit=LIMIT)

    assert result_of(pool.options(memory_limit=None).submit(acts.grow, ABOVE // 2)) == ABOVE // 2
    assert isinstance(error_of(pool.options(memory_limit="80MB").submit(acts.grow_and_stay, ABOVE)), TaskMemoryError)


def test_pool_without_tasks_looks_at_nothing(new_pool, gate) -> None:
    pool = new_pool(memory_limit=LIMIT)
    future = pool.submit(acts.pass_gate_and_tell_pid, gate.folder)
    gate.wait_until_arrived()
    assert pool._pool._state.measure_at is not None

    gate.let_through()
    result_of(future)

    eventually(lambda: pool._pool._state.measure_at is None)
