"""``future.cancel(cancel_running=True)``: what waits is cancelled, what runs is ended, what is over stays as it is."""

from __future__ import annotations

from concurrent.futures import CancelledError, wait
from pathlib import Path

import pytest

from contract.gate import pass_gate
from contract.patience import PATIENCE, error_of, is_gone, result_of
from executor import calls
from features import acts, careers
from safepool import TaskKilledError


def test_running_task_is_ended_with_all_that_it_started(new_pool, gate) -> None:
    pool = new_pool()
    future = pool.submit(calls.hang_with_children, gate.folder)
    children = gate.wait_until_arrived(2)
    assert not any(is_gone(pid) for pid in (*children, future.pid))

    assert future.cancel(cancel_running=True) is True

    error = error_of(future)
    assert isinstance(error, TaskKilledError)
    assert all(is_gone(pid) for pid in (*children, future.pid))
    assert {ended.pid for ended in error.ended} == set(children)
    assert result_of(pool.submit(acts.square, 3)) == 9


def test_error_says_who_asked_for_the_end(new_pool, gate) -> None:
    future = new_pool().submit(careers.arrive_and_hang, gate.folder)
    (pid,) = gate.wait_until_arrived()

    future.cancel(cancel_running=True)

    error = error_of(future)
    assert isinstance(error, TaskKilledError)
    assert (error.pid, error.reason) == (pid, "future.cancel(cancel_running=True)")
    assert "arrive_and_hang" in error.task
    assert future.done()
    assert not future.cancelled()  # it has run


def test_task_that_hears_no_signal_is_ended(new_pool, gate) -> None:
    pool = new_pool()
    future = pool.submit(careers.arrive_and_hang, gate.folder, deaf=True)
    (pid,) = gate.wait_until_arrived()

    assert future.cancel(cancel_running=True)

    assert isinstance(error_of(future), TaskKilledError)
    assert is_gone(pid)
    assert result_of(pool.submit(acts.square, 3)) == 9


def test_neighbours_are_undisturbed(new_pool, gate) -> None:
    pool = new_pool(2)
    neighbour = pool.submit(pass_gate, gate.folder, "undisturbed")
    gate.wait_until_arrived()
    future = pool.submit(careers.arrive_and_hang, gate.folder)
    gate.wait_until_arrived()
    behind = pool.submit(acts.square, 3)

    assert future.cancel(cancel_running=True)

    assert isinstance(error_of(future), TaskKilledError)
    assert result_of(behind) == 9
    assert not neighbour.done()
    gate.let_through()
    assert result_of(neighbour) == "undisturbed"


def test_waiting_task_is_cancelled_and_never_runs(new_pool, gate, tmp_path: Path) -> None:
    pool = new_pool()
    running = pool.submit(pass_gate, gate.folder, "undisturbed")
    gate.wait_until_arrived()
    waiting = pool.submit(acts.note, str(tmp_path / "runs"), "run")

    assert waiting.cancel(cancel_running=True) is True

    assert waiting.cancelled()
    with pytest.raises(CancelledError):
        waiting.result(0)
    gate.let_through()
    assert result_of(running) == "undisturbed"
    pool.shutdown()
    assert not (tmp_path / "runs").exists()


def test_task_that_is_over_stays_as_it_is(pool) -> None:
    good, bad = pool.submit(acts.square, 3), pool.submit(acts.square_or_raise, -1)
    assert isinstance(error_of(bad), ValueError)
    assert result_of(good) == 9

    assert good.cancel(cancel_running=True) is False
    assert bad.cancel(cancel_running=True) is False

    assert result_of(good) == 9
    assert isinstance(error_of(bad), ValueError)
    assert result_of(pool.submit(acts.square, 2)) == 4


def test_task_that_is_cancelled_already_stays_cancelled(new_pool, gate) -> None:
    """As with the standard library, the answer is that it is so."""
    pool = new_pool()
    running = pool.submit(pass_gate, gate.folder, 1)
    gate.wait_until_arrived()
    waiting = pool.submit(acts.square, 3)
    assert waiting.cancel()

    assert waiting.cancel(cancel_running=True)

    assert waiting.cancelled()
    gate.let_through()
    assert result_of(running) == 1


def test_asked_for_twice_it_is_ended_once(new_pool, gate) -> None:
    pool = new_pool()
    outcomes: list[object] = []
    future = pool.submit(careers.arrive_and_hang, gate.folder)
    future.add_done_callback(outcomes.append)
    gate.wait_until_arrived()

    assert future.cancel(cancel_running=True)
    future.cancel(cancel_running=True)

    assert isinstance(error_of(future), TaskKilledError)
    assert future.cancel(cancel_running=True) is False
    assert result_of(pool.submit(acts.square, 3)) == 9
    pool.shutdown()
    assert outcomes == [future]


def test_whoever_waits_for_it_is_woken(new_pool, gate) -> None:
    future = new_pool().submit(careers.arrive_and_hang, gate.folder)
    gate.wait_until_arrived()
    future.cancel(cancel_running=True)
    assert wait([future], PATIENCE).done == {future}


def test_ended_task_is_not_run_again(new_pool, gate) -> None:
    pool = new_pool(retries=3)
    future = pool.submit(careers.arrive_and_hang, gate.folder)
    gate.wait_until_arrived()

    assert future.cancel(cancel_running=True)

    assert isinstance(error_of(future), TaskKilledError)
    assert future.attempts == 1
    assert result_of(pool.submit(acts.square, 3)) == 9
    assert gate.nobody_arrived()


@pytest.mark.parametrize("options", [{}, {"cancel_running": False}])
def test_plain_cancel_leaves_a_running_task_alone(new_pool, gate, options: dict[str, bool]) -> None:
    pool = new_pool()
    running = pool.submit(pass_gate, gate.folder, "undisturbed")
    gate.wait_until_arrived()
    waiting = pool.submit(acts.square, 3)

    assert running.cancel(**options) is False
    assert waiting.cancel(**options) is True

    assert running.running()
    gate.let_through()
    assert result_of(running) == "undisturbed"
    assert waiting.cancelled()


def test_it_is_asked_for_by_name(pool) -> None:
    future = pool.submit(acts.square, 3)
    with pytest.raises(TypeError):
        future.cancel(True)  # what must not be possible
    assert result_of(future) == 9
