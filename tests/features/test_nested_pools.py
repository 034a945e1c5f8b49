"""Pools in tasks of pools in tasks of pools: four levels of processes, three pools deep."""

from __future__ import annotations

import os

import pytest

from contract.patience import PATIENCE, error_of, is_gone, result_of
from features import acts, nests
from safepool import TaskTimeoutError, WorkerDiedError

DEPTH = 3  # pools inside the task of the host's pool
SECONDS = 20.0  # until the deadline; the nest has to be complete by then
pytestmark = pytest.mark.timeout(120)


def test_results_come_up_from_three_pools_below(new_pool) -> None:
    pids = new_pool().submit(nests.pids_below, DEPTH).result(2 * PATIENCE)

    assert len({*pids, os.getpid()}) == DEPTH + 2
    assert all(is_gone(pid) for pid in pids[1:])


def test_nest_may_be_wide_and_deep(new_pool) -> None:
    assert new_pool().submit(nests.count_leaves, 2, 3).result(2 * PATIENCE) == 9


def test_large_result_comes_up_whole(new_pool) -> None:
    size = 3_000_000

    assert len(new_pool().submit(nests.call_at_depth, DEPTH, "hold", size).result(2 * PATIENCE)) == size


def test_exception_comes_up_as_itself(new_pool) -> None:
    pool = new_pool()

    error = pool.submit(nests.call_at_depth, DEPTH, "raise").exception(2 * PATIENCE)

    assert isinstance(error, LookupError)
    assert str(error) == "from the bottom"
    assert "_fail" in str(error.__cause__)
    assert result_of(pool.submit(acts.square, 3)) == 9


def test_death_at_the_bottom_comes_up_as_its_error_and_ends_nobody_else(new_pool) -> None:
    pool = new_pool()
    pid = result_of(pool.submit(acts.tell_pid))

    error = pool.submit(nests.call_at_depth, DEPTH, "die").exception(2 * PATIENCE)

    assert isinstance(error, WorkerDiedError)
    assert error.exitcode == 7
    assert error.pid != pid
    assert result_of(pool.submit(acts.tell_pid)) == pid


@pytest.mark.torture
def test_deadline_of_the_outermost_ends_all_levels(new_pool, gate) -> None:
    pool = new_pool()
    future = pool.submit(nests.hang_at_depth, gate.folder, DEPTH, task_timeout=SECONDS)
    everybody = gate.wait_until_arrived(2 * (DEPTH + 1))
    assert not any(is_gone(pid) for pid in everybody)
    assert not future.done()

    error = error_of(future)

    assert isinstance(error, TaskTimeoutError)
    assert [pid for pid in everybody if not is_gone(pid)] == []
    assert {process.pid for process in error.ended} >= set(everybody[1:])
    assert result_of(pool.submit(acts.square, 3)) == 9


def test_kill_of_the_outermost_ends_all_levels(new_pool, gate) -> None:
    pool = new_pool()
    future = pool.submit(nests.hang_at_depth, gate.folder, DEPTH)
    everybody = gate.wait_until_arrived(2 * (DEPTH + 1))
    assert not any(is_gone(pid) for pid in everybody)

    pool.kill_workers()

    assert future.done()
    assert [pid for pid in everybody if not is_gone(pid)] == []


@pytest.mark.torture
def test_deadline_of_an_inner_level_ends_what_is_below_it_and_nothing_above(new_pool, gate) -> None:
    pool = new_pool()
    future = pool.submit(nests.limit_what_is_below, gate.folder, DEPTH - 1, SECONDS)
    outermost, *below = gate.wait_until_arrived(1 + 2 * DEPTH)
    assert not any(is_gone(pid) for pid in below)

    assert future.result(2 * PATIENCE) == "TaskTimeoutError, then 2 more"

    assert [pid for pid in below if not is_gone(pid)] == []
    assert result_of(pool.submit(acts.tell_pid)) == outermost
