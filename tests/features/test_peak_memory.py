"""``measure_memory``: what a task held at its highest, with all that it had started, as far as that was seen."""

from __future__ import annotations

import os
import signal

import pytest

from contract.patience import error_of, eventually, result_of
from features import acts
from safepool import TaskMemoryError, TaskTimeoutError, WorkerDiedError
from safepool._pool import limits

MIB = 1 << 20
MUCH = 200  # mebibytes
BARE = 100 * MIB  # more than a worker holds that has run nothing


@pytest.fixture
def pool(new_pool):
    return new_pool(measure_memory=True)


def measured(future):
    result_of(future)
    assert future.peak_memory is not None
    return future.peak_memory


def test_what_a_task_held_for_a_moment_is_reported(pool) -> None:
    assert MUCH * MIB < measured(pool.submit(acts.hold_for_a_moment, MUCH)) < MUCH * MIB + BARE


def test_next_task_on_the_same_worker_is_measured_by_itself(pool) -> None:
    first = pool.submit(acts.hold_for_a_moment, MUCH)
    second = pool.submit(acts.square, 3)
    assert measured(first) > MUCH * MIB
    assert 0 < measured(second) < BARE
    assert first.pid == second.pid


def test_order_of_submission_does_not_matter(pool) -> None:
    futures = [pool.submit(acts.hold_for_a_moment, MUCH * (number % 2)) for number in range(6)]
    assert [measured(future) > MUCH * MIB for future in futures] == [False, True] * 3


def test_process_in_a_session_of_its_own_counts(new_pool, gate, monkeypatch) -> None:
    """As far as it is looked at: here it stays until it was."""
    seen = []
    measure_trees = limits.measure_trees
    monkeypatch.setattr(
        limits, "measure_trees", lambda trees: [seen.append(size) or size for size in measure_trees(trees)]
    )
    future = new_pool(measure_memory=True).submit(acts.hold_beneath, gate.folder, MUCH)
    gate.wait_until_arrived()
    before = len(seen)
    eventually(lambda: len(seen) >= before + 2)
    gate.let_through()
    assert MUCH * MIB < measured(future) < MUCH * MIB + 2 * BARE


def test_memory_that_processes_share_counts_once(new_pool, gate) -> None:
    pool = new_pool(measure_memory=True)
    future = pool.submit(acts.share, gate.folder, 64, 4)
    gate.wait_until_arrived()
    (worker,) = pool._pool._state.workers.values()
    eventually(lambda: worker.peak and worker.peak > 64 * MIB)
    gate.let_through()
    assert measured(future) < 64 * MIB + 2 * BARE


def test_task_that_raises_is_measured(pool) -> None:
    future = pool.submit(acts.hold_and_raise, MUCH)
    assert isinstance(error_of(future), LookupError)
    assert future.peak_memory is not None
    assert future.peak_memory > MUCH * MIB


def test_task_past_its_deadline_says_what_it_held(new_pool) -> None:
    future = new_pool(measure_memory=True, task_timeout=3.0).submit(acts.grow_and_stay, MUCH)
    error = error_of(future)
    assert isinstance(error, TaskTimeoutError)
    assert error.peak_memory == future.peak_memory
    assert error.peak_memory is not None
    assert error.peak_memory > MUCH * MIB
    assert f"It had held up to {error.peak_memory / MIB:.0f} MiB." in str(error)


def test_task_above_its_limit_says_what_it_held(new_pool) -> None:
    future = new_pool(measure_memory=True, memory_limit="96MiB").submit(acts.grow_and_stay, 400)
    error = error_of(future)
    assert isinstance(error, TaskMemoryError)
    assert error.peak_memory == future.peak_memory
    assert error.peak_memory is not None
    assert error.peak_memory >= error.used * 0.9  # the figure of the look counts shared pages in part
    assert error.peak_memory > error.limit


def test_killed_task_is_measured(pool, gate) -> None:
    future = pool.submit(acts.hold_at_gate, gate.folder, MUCH)
    gate.wait_until_arrived()
    assert future.kill()
    error_of(future)
    assert future.peak_memory is not None
    assert future.peak_memory > MUCH * MIB


def test_worker_that_dies_leaves_what_was_seen_of_it(pool, gate) -> None:
    """The kernel keeps nothing of the dead: the looks tell."""
    future = pool.submit(acts.hold_at_gate, gate.folder, MUCH)
    (pid,) = gate.wait_until_arrived()
    (worker,) = pool._pool._state.workers.values()
    eventually(lambda: worker.peak and worker.peak > MUCH * MIB)
    os.kill(pid, signal.SIGKILL)
    assert isinstance(error_of(future), WorkerDiedError)
    assert future.peak_memory is not None
    assert future.peak_memory > MUCH * MIB


def refuse(_pid: int) -> None:
    raise PermissionError


def test_where_the_kernel_does_not_forget_what_exceeds_all_before_is_reported(new_pool, monkeypatch) -> None:
    """Else what the worker held before would be taken for the task's."""
    monkeypatch.setattr(limits, "forget_highest_size", refuse)
    pool = new_pool(measure_memory=True)
    assert MUCH * MIB < measured(pool.submit(acts.hold_for_a_moment, MUCH)) < MUCH * MIB + BARE
    less = pool.submit(acts.square, 3)
    assert result_of(less) == 9
    assert less.peak_memory is None or less.peak_memory < BARE  # a look has found it, on a busy machine
    assert 2 * MUCH * MIB < measured(pool.submit(acts.hold_for_a_moment, 2 * MUCH)) < 2 * MUCH * MIB + BARE


def test_where_the_kernel_neither_forgets_nor_tells_only_looks_count(new_pool, monkeypatch, gate) -> None:
    monkeypatch.setattr(limits, "forget_highest_size", refuse)
    monkeypatch.setattr(limits, "highest_size", lambda _pid: 0)
    pool = new_pool(measure_memory=True)
    future = pool.submit(acts.hold_at_gate, gate.folder, MUCH)
    gate.wait_until_arrived()
    (worker,) = pool._pool._state.workers.values()
    eventually(lambda: worker.peak and worker.peak > MUCH * MIB)
    assert worker.peak_before > MUCH * MIB
    gate.let_through()
    assert MUCH * MIB < measured(future) < MUCH * MIB + BARE


def test_task_that_makes_its_worker_undumpable_takes_no_figure_from_those_after_it(pool) -> None:
    """Its files in /proc are root's then."""
    assert result_of(pool.submit(acts.make_undumpable)) == 0
    assert MUCH * MIB < measured(pool.submit(acts.hold_for_a_moment, MUCH)) < MUCH * MIB + BARE


def test_pool_that_does_not_measure_reports_nothing_and_looks_at_nothing(new_pool, gate) -> None:
    pool = new_pool()
    future = pool.submit(acts.hold_at_gate, gate.folder, 1)
    gate.wait_until_arrived()
    assert pool._pool._state.measure_at is None
    gate.let_through()
    result_of(future)
    assert future.peak_memory is None


def test_items_of_a_map_have_their_results_as_ever(pool) -> None:
    assert list(pool.map(acts.square, range(50))) == [number * number for number in range(50)]
