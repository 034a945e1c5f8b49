"""``soft_timeout``: an exception inside the task, once, which it may catch to finish in order."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from contract.patience import error_of, eventually, is_gone, result_of
from executor import calls
from features import acts
from safepool import SoftTimeoutError, TaskTimeoutError, WorkerDiedError
from safepool._worker.boot import SOFT_TIMEOUT_SIGNAL

SOON = 0.3  # seconds; only tasks that hang get it, since a busy machine takes that long to begin


@pytest.mark.parametrize("kind", ["asleep", "looping", "reading", "waiting"])
def test_task_catches_its_soft_timeout_whatever_it_does(new_pool, kind) -> None:
    limit, elapsed = result_of(new_pool(soft_timeout=SOON).submit(acts.catch_soft_timeout, kind))

    assert limit == SOON
    assert elapsed >= SOON


def test_task_that_does_not_catch_it_fails_with_it_and_the_worker_goes_on(new_pool) -> None:
    pool = new_pool(soft_timeout=SOON)
    unhurried = pool.options(soft_timeout=None)
    worker = result_of(unhurried.submit(acts.tell_pid))

    error = error_of(pool.submit(calls.hang))

    assert isinstance(error, SoftTimeoutError)
    assert isinstance(error, TimeoutError)
    assert error.timeout == SOON
    assert "hang_in_a_python_loop" in str(error.__cause__)
    assert result_of(unhurried.submit(acts.tell_pid)) == worker


def test_task_that_hangs_on_is_warned_once_and_ended_at_the_hard_limit(new_pool, tmp_path: Path) -> None:
    pool = new_pool(soft_timeout=SOON, task_timeout=2.0)

    error = error_of(pool.submit(acts.hang_through_soft_timeout, str(tmp_path / "notes")))

    assert isinstance(error, TaskTimeoutError)
    assert error.elapsed >= 2.0
    assert (tmp_path / "notes").read_text() == "warned\n"


def test_task_that_never_returns_to_python_is_ended_at_the_hard_limit(new_pool) -> None:
    error = error_of(new_pool(soft_timeout=SOON, task_timeout=1.0).submit(calls.hang_holding_the_gil))

    assert isinstance(error, TaskTimeoutError)


def test_signal_that_comes_late_does_not_strike_the_next_task(new_pool, gate) -> None:
    """1. The host signals. 2. The task ends. 3. The signal arrives, while another task runs."""
    pool = new_pool(soft_timeout=SOON)
    result_of(pool.submit(acts.catch_soft_timeout, "asleep"))
    future = pool.options(soft_timeout=None).submit(acts.pass_gate_and_tell_pid, gate.folder)
    (worker,) = gate.wait_until_arrived()

    os.kill(worker, SOFT_TIMEOUT_SIGNAL)
    gate.let_through()

    assert result_of(future) == worker


def test_signal_that_comes_between_two_tasks_strikes_nobody(new_pool) -> None:
    pool = new_pool(soft_timeout=SOON)
    future = pool.submit(calls.hang)
    assert isinstance(error_of(future), SoftTimeoutError)  # of all tasks, it is the last to have begun
    assert future.pid is not None

    os.kill(future.pid, SOFT_TIMEOUT_SIGNAL)

    assert result_of(pool.options(soft_timeout=None).submit(acts.tell_pid)) == future.pid


def test_worker_that_dies_after_the_warning_fails_its_task_as_ever(new_pool, tmp_path: Path) -> None:
    pool = new_pool(soft_timeout=SOON)
    notes = tmp_path / "notes"
    future = pool.submit(acts.hang_through_soft_timeout, str(notes))
    eventually(notes.exists)
    assert future.pid is not None

    os.kill(future.pid, signal.SIGKILL)

    assert isinstance(error_of(future), WorkerDiedError)
    assert result_of(pool.options(soft_timeout=None).submit(acts.square, 3)) == 9


def test_host_that_blocks_all_signals_has_soft_timeouts_and_stacks(new_pool) -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        pool = new_pool(soft_timeout=SOON)
        limit, _ = result_of(pool.submit(acts.catch_soft_timeout, "asleep"))
        view = pool.options(soft_timeout=None, timeout=2.0)
        stacks = [error_of(view.submit(calls.hang)).stack for _ in range(3)]  # one may be late
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)

    assert limit == SOON
    assert "hang_in_a_python_loop" in "".join(stacks)


def test_each_attempt_is_warned(new_pool, tmp_path: Path) -> None:
    pool = new_pool(soft_timeout=SOON, task_timeout=1.0, retries=1)

    error = error_of(pool.submit(acts.hang_through_soft_timeout, str(tmp_path / "notes")))

    assert isinstance(error, TaskTimeoutError)
    assert (tmp_path / "notes").read_text() == "warned\nwarned\n"


def test_options_change_it_for_some_tasks(new_pool) -> None:
    patient, hasty = new_pool(soft_timeout=600), new_pool(soft_timeout=SOON)

    assert isinstance(error_of(patient.options(soft_timeout=SOON).submit(calls.hang)), SoftTimeoutError)
    assert result_of(hasty.options(soft_timeout=None).submit(calls.take_longer_than, 3 * SOON)) == "took its time"


def test_map_warns_each_item_for_itself(new_pool) -> None:
    view = new_pool(2).options(soft_timeout=2.0)

    outcomes = list(view.map(calls.hang_or_square, [1, -1, 2, -1, 3], return_exceptions=True))

    assert [outcome for outcome in outcomes if not isinstance(outcome, SoftTimeoutError)] == [1, 4, 9]
    assert [isinstance(outcome, SoftTimeoutError) for outcome in outcomes] == [False, True, False, True, False]


def test_child_that_it_waited_for_is_its_own_to_end(new_pool, gate) -> None:
    """The task goes on, so nothing is ended for it: ``subprocess.run`` kills its child itself when it is left."""
    future = new_pool(soft_timeout=2.0).submit(acts.wait_for_child, gate.folder)
    (child,) = gate.wait_until_arrived()

    assert result_of(future) == "warned"
    assert is_gone(child)
    assert future.pid is not None
    assert not is_gone(future.pid)


def test_items_of_a_chunk_are_warned_each_for_itself(new_pool) -> None:
    """Three items of 0.6 s in one task would be too much for a second."""
    view = new_pool().options(soft_timeout=1.5)

    assert list(view.map(calls.take_longer_than, [0.6] * 4, chunksize=4)) == ["took its time"] * 4


def test_task_that_begins_late_is_warned_all_the_same(new_pool) -> None:
    """1. The worker is stopped. 2. A task is sent, and its soft timeout passes. 3. The worker goes on, and begins."""
    pool = new_pool(soft_timeout=SOON)
    worker = result_of(pool.options(soft_timeout=None).submit(acts.tell_pid))
    os.kill(worker, signal.SIGSTOP)
    future = pool.submit(acts.catch_soft_timeout, "asleep")
    eventually(lambda: future.running() and pool._pool._state.workers[1].due is not None)
    time.sleep(1.5)  # past the grace for beginning and the soft timeout: that it is late is the fault
    assert future.started_at is None
    os.kill(worker, signal.SIGCONT)

    limit, elapsed = result_of(future)
    assert limit == SOON
    assert elapsed >= SOON
