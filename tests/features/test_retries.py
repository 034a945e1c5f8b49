"""``retries``: a task whose worker died, or whose time was up, is run again; what it raises itself is its outcome."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from contract.patience import error_of, eventually, result_of
from features import acts
from safepool import SafeProcessPoolExecutor, TaskKilledError, TaskTimeoutError, WorkerDiedError


def runs_of(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def test_task_whose_worker_dies_runs_again(new_pool, tmp_path: Path) -> None:
    future = new_pool(retries=2).submit(acts.fail_so_often, str(tmp_path / "runs"), 2, "die")

    assert result_of(future) == 3
    assert future.attempts == 3


def test_task_whose_time_is_up_runs_again(new_pool, tmp_path: Path) -> None:
    future = new_pool(retries=1, task_timeout=1.0).submit(acts.fail_so_often, str(tmp_path / "runs"), 1, "hang")

    assert result_of(future) == 2


def test_task_that_keeps_dying_tells_how_often_it_was_tried(new_pool, tmp_path: Path) -> None:
    future = new_pool(retries=2).submit(acts.fail_so_often, str(tmp_path / "runs"), 9, "die")

    error = error_of(future)

    assert isinstance(error, WorkerDiedError)
    assert error.attempts == future.attempts == runs_of(tmp_path / "runs") == 3
    assert "attempt 3" in str(error)


def test_task_that_keeps_hanging_ends_with_its_timeout(new_pool, tmp_path: Path) -> None:
    future = new_pool(retries=1, task_timeout=0.5).submit(acts.fail_so_often, str(tmp_path / "runs"), 9, "hang")

    error = error_of(future)

    assert isinstance(error, TaskTimeoutError)
    assert error.attempts == runs_of(tmp_path / "runs") == 2


def test_task_that_raises_is_not_run_again(new_pool, tmp_path: Path) -> None:
    future = new_pool(retries=5).submit(acts.fail_so_often, str(tmp_path / "runs"), 1, "raise")

    assert isinstance(error_of(future), ValueError)
    assert runs_of(tmp_path / "runs") == 1


def test_killed_task_is_not_run_again(new_pool, gate) -> None:
    pool = new_pool(retries=5)
    future = pool.submit(acts.pass_gate_and_tell_pid, gate.folder)
    gate.wait_until_arrived()

    assert future.kill()

    assert isinstance(error_of(future), TaskKilledError)
    assert gate.nobody_arrived()
    assert result_of(pool.submit(acts.square, 3)) == 9


def test_pool_without_retries_runs_a_task_once(new_pool, tmp_path: Path) -> None:
    future = new_pool().submit(acts.fail_so_often, str(tmp_path / "runs"), 1, "die")

    assert isinstance(error_of(future), WorkerDiedError)
    assert future.attempts == runs_of(tmp_path / "runs") == 1


def test_view_has_its_own_retries(new_pool, tmp_path: Path) -> None:
    view = new_pool().options(retries=1)

    assert result_of(view.submit(acts.fail_so_often, str(tmp_path / "runs"), 1, "die")) == 2


def test_death_before_the_task_began_does_not_count(new_pool, gate) -> None:
    """An idle worker is stopped, given a task, and killed: it never began with it."""
    pool: SafeProcessPoolExecutor = new_pool()
    pid = result_of(pool.submit(acts.tell_pid))
    os.kill(pid, signal.SIGSTOP)
    future = pool.submit(acts.tell_pid)
    assert eventually(future.running)
    os.kill(pid, signal.SIGKILL)

    assert result_of(future) != pid
    assert future.attempts == 1


@pytest.mark.parametrize("retries", [-1, 1.5, "2", True])
def test_bad_retries_are_refused_by_name(retries) -> None:
    with pytest.raises((TypeError, ValueError), match="retries"):
        SafeProcessPoolExecutor(1, retries=retries)
