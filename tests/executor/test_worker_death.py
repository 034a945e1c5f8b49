"""A worker that dies fails the task it was running, with the reason, and nothing else."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import pytest

from contract.gate import Gate, pass_gate
from contract.patience import error_of, eventually, is_gone, result_of
from executor import calls
from safepool import SafeFuture, SafeProcessPoolExecutor, WorkerDiedError
from safepool._os import contained

NewPool = Callable[..., SafeProcessPoolExecutor]
Pool = SafeProcessPoolExecutor

DEATHS = [
    pytest.param(calls.die_by, signal.SIGKILL, -9, "SIGKILL", id="killed"),
    pytest.param(calls.die_by, signal.SIGSEGV, -11, "SIGSEGV", id="segfault"),
    pytest.param(calls.die_by, signal.SIGABRT, -6, "SIGABRT", id="abort"),
    pytest.param(calls.exit_with, 0, 0, "status 0", id="exit-0"),
    pytest.param(calls.exit_with, 3, 3, "status 3", id="exit-3"),
]


def death_of(future: SafeFuture[Any]) -> WorkerDiedError:
    """Wait for the error of a task whose worker died."""
    error = error_of(future)
    assert isinstance(error, WorkerDiedError), repr(error)
    return error


@pytest.mark.parametrize(("die", "how", "exitcode", "words"), DEATHS)
def test_worker_death_tells_the_facts(
    pool: Pool, die: Callable[[int], object], how: int, exitcode: int, words: str
) -> None:
    error = death_of(pool.submit(die, how))
    assert error.exitcode == exitcode
    assert words in str(error)
    assert error.task is not None
    assert die.__name__ in error.task
    assert error.pid is not None
    assert is_gone(error.pid)
    assert error.elapsed is not None
    assert error.elapsed >= 0
    assert result_of(pool.submit(calls.square, 3)) == 9


def test_worker_death_is_a_broken_process_pool(pool: Pool) -> None:
    with pytest.raises(BrokenProcessPool):
        result_of(pool.submit(calls.exit_with, 1))


@pytest.mark.parametrize(("die", "how", "exitcode", "words"), DEATHS)
def test_worker_death_leaves_a_running_neighbour_alone(
    pool: Pool, gate: Gate, die: Callable[[int], object], how: int, exitcode: int, words: str
) -> None:
    neighbour = pool.submit(pass_gate, gate.folder, words)
    gate.wait_until_arrived()
    assert death_of(pool.submit(die, how)).exitcode == exitcode
    assert not neighbour.done()
    gate.let_through()
    assert result_of(neighbour) == words


def test_worker_death_leaves_what_waits_behind_it_alone(new_pool: NewPool, gate: Gate) -> None:
    pool = new_pool(max_workers=1)
    dying = pool.submit(calls.pass_gate_and_die, gate.folder)
    waiting = [pool.submit(calls.square, number) for number in range(20)]
    gate.wait_until_arrived()
    gate.let_through()
    death_of(dying)
    assert [result_of(future) for future in waiting] == [number * number for number in range(20)]


def test_worker_deaths_one_after_another_each_fail_one_task(pool: Pool) -> None:
    futures = [pool.submit(calls.die_or_square, number) for number in (1, -1, 2, -1, 3, -1, 4)]
    outcomes = [error_of(future) for future in futures]
    assert [type(outcome) for outcome in outcomes if outcome] == [WorkerDiedError] * 3
    assert [future.result() for future, outcome in zip(futures, outcomes, strict=True) if not outcome] == [1, 4, 9, 16]


def test_worker_death_when_idle_fails_nothing(new_pool: NewPool) -> None:
    pool = new_pool(max_workers=1)
    worker = result_of(pool.submit(os.getpid))
    os.kill(worker, signal.SIGKILL)
    assert eventually(lambda: is_gone(worker))
    assert result_of(pool.submit(os.getpid)) != worker


def test_worker_death_at_the_moment_of_submit_fails_at_most_that_task(new_pool: NewPool) -> None:
    """The kernel may have ended it before or after it began with the task."""
    pool = new_pool(max_workers=1)
    worker = result_of(pool.submit(os.getpid))
    os.kill(worker, signal.SIGKILL)
    outcome = error_of(pool.submit(calls.square, 3))
    assert outcome is None or isinstance(outcome, WorkerDiedError)
    assert result_of(pool.submit(calls.square, 4)) == 16


def test_worker_killed_from_outside_fails_its_task(new_pool: NewPool, gate: Gate) -> None:
    pool = new_pool(max_workers=1)
    future = pool.submit(pass_gate, gate.folder, None)
    (worker,) = gate.wait_until_arrived()
    os.kill(worker, signal.SIGKILL)
    error = death_of(future)
    assert (error.pid, error.exitcode) == (worker, -9)


def test_worker_that_takes_its_time_to_die_has_not_closed_its_channel(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its descriptors are closed, one after the other, before it counts as dead: the last frees much memory."""
    monkeypatch.setattr(contained, "_DYING", 0.0)  # nobody waits for it to be dead
    error = death_of(pool.submit(calls.die_holding_memory_in_a_file, 256 << 20))

    assert error.exitcode == -signal.SIGKILL
    assert "channel" not in str(error)
    assert result_of(pool.submit(calls.square, 3)) == 9


def test_worker_that_never_comes_to_its_end_holds_up_its_task_no_longer_than_others(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1. It exits, and gives up its channel. 2. Something, a driver perhaps, keeps it there, undead."""
    monkeypatch.setattr(contained.ContainedProgram, "is_dying", lambda _: True)

    error = death_of(pool.submit(calls.close_every_socket_and_hang))

    assert error.exitcode == -signal.SIGKILL
    assert "channel" not in str(error)
    assert result_of(pool.submit(calls.square, 3)) == 9


def test_worker_death_ends_what_the_task_started(new_pool: NewPool, gate: Gate) -> None:
    pool = new_pool(max_workers=1)
    future = pool.submit(calls.leave_sleeping_and_die, gate.folder)
    children = gate.wait_until_arrived(2)
    death_of(future)
    assert eventually(lambda: all(is_gone(child) for child in children))
    assert result_of(pool.submit(calls.square, 3)) == 9


def test_with_block_after_deaths_and_errors_serves_and_ends(gate: Gate) -> None:
    with SafeProcessPoolExecutor(1) as pool:
        death_of(pool.submit(calls.exit_with, 1))
        assert isinstance(error_of(pool.submit(calls.raise_value_error)), ValueError)
        last = pool.submit(calls.square, 3)
    assert last.result(timeout=0) == 9


def test_worker_death_wakes_shutdown(new_pool: NewPool) -> None:
    pool = new_pool(max_workers=1)
    futures: list[SafeFuture[Any]] = [pool.submit(calls.exit_with, 1), pool.submit(calls.square, 3)]
    pool.shutdown(wait=True)
    assert isinstance(futures[0].exception(timeout=0), WorkerDiedError)
    assert futures[1].result(timeout=0) == 9
