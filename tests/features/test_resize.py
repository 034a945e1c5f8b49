"""``resize``: more workers as tasks call for them, fewer as they finish; what runs is not touched."""

from __future__ import annotations

import os
import signal

import pytest

from contract.patience import error_of, eventually, is_gone, result_of
from features import acts
from safepool import SafeProcessPoolExecutor, WorkerDiedError


def test_pool_made_larger_starts_workers_for_what_waits(new_pool, gate) -> None:
    pool = new_pool(1)
    futures = [pool.submit(acts.pass_gate_and_tell_pid, gate.folder) for _ in range(3)]
    gate.wait_until_arrived()
    assert [future.running() for future in futures] == [True, False, False]

    pool.resize(3)

    gate.wait_until_arrived(2)
    gate.let_through(3)
    assert len({result_of(future) for future in futures}) == 3


def test_pool_made_larger_starts_nobody_without_need(new_pool) -> None:
    pool = new_pool(1)
    first = result_of(pool.submit(acts.tell_pid))

    pool.resize(4)

    assert result_of(pool.submit(acts.tell_pid)) == first
    assert list(pool._processes) == [first]


def test_pool_made_smaller_lets_idle_workers_leave(new_pool, gate) -> None:
    pool = new_pool(3)
    futures = [pool.submit(acts.pass_gate_and_tell_pid, gate.folder) for _ in range(3)]
    gate.wait_until_arrived(3)
    gate.let_through(3)
    pids = {result_of(future) for future in futures}

    pool.resize(1)

    assert eventually(lambda: sum(is_gone(pid) for pid in pids) == 2)
    assert result_of(pool.submit(acts.tell_pid)) in pids


def test_pool_made_smaller_ends_no_task_and_begins_the_next_when_there_is_room(new_pool, gate) -> None:
    pool = new_pool(3)
    running = [pool.submit(acts.pass_gate_and_tell_pid, gate.folder) for _ in range(3)]
    gate.wait_until_arrived(3)

    pool.resize(1)
    waiting = pool.submit(acts.pass_gate_and_tell_pid, gate.folder)
    gate.let_through(2)

    assert eventually(lambda: sum(future.done() for future in running) == 2)
    left = [future for future in running if future.done()]
    assert eventually(lambda: all(is_gone(result_of(future)) for future in left))
    assert gate.nobody_arrived()
    assert not waiting.running()
    gate.let_through(2)
    (last,) = {result_of(future) for future in running} - {result_of(future) for future in left}
    assert result_of(waiting) == last


def test_resize_while_a_worker_dies_fails_its_task_alone(new_pool, gate) -> None:
    pool = new_pool(2)
    futures = [pool.submit(acts.pass_gate_and_tell_pid, gate.folder) for _ in range(2)]
    gate.wait_until_arrived(2)
    victim, neighbour = futures

    os.kill(victim.pid, signal.SIGKILL)
    pool.resize(1)

    assert isinstance(error_of(victim), WorkerDiedError)
    gate.let_through()
    last = result_of(neighbour)
    assert [result_of(pool.submit(acts.tell_pid)) for _ in range(3)] == [last] * 3
    assert list(pool._processes) == [last]


def test_death_of_all_workers_of_a_smaller_pool_is_made_good_in_the_new_size(new_pool, gate) -> None:
    pool = new_pool(3)
    running = [pool.submit(acts.pass_gate_and_tell_pid, gate.folder) for _ in range(3)]
    gate.wait_until_arrived(3)

    pool.resize(1)
    for future in running:
        os.kill(future.pid, signal.SIGKILL)

    assert all(isinstance(error_of(future), WorkerDiedError) for future in running)
    assert len({result_of(pool.submit(acts.tell_pid)) for _ in range(5)}) == 1
    assert len(pool._processes) == 1


def test_cancelling_shutdown_of_a_pool_made_smaller_cancels_all_that_waits(new_pool, gate) -> None:
    pool = new_pool(3)
    running = [pool.submit(acts.pass_gate_and_tell_pid, gate.folder) for _ in range(3)]
    gate.wait_until_arrived(3)
    pool.resize(1)
    waiting = [pool.submit(acts.tell_pid) for _ in range(4)]

    pool.shutdown(wait=False, cancel_futures=True)

    assert eventually(lambda: all(future.cancelled() for future in waiting))
    gate.let_through(3)
    assert all(result_of(future) for future in running)


def test_size_shows_at_once_even_before_there_is_a_worker(new_pool) -> None:
    pool = new_pool(2)
    view = pool.options(timeout=5.0)

    pool.resize(5)

    assert (pool._max_workers, view._max_workers) == (5, 5)
    assert not pool._processes
    assert result_of(pool.submit(acts.square, 3)) == 9


def test_several_sizes_in_a_row_leave_the_last(new_pool, gate) -> None:
    pool = new_pool(1)
    for size in (4, 1, 3, 2):
        pool.resize(size)

    futures = [pool.submit(acts.pass_gate_and_tell_pid, gate.folder) for _ in range(4)]

    gate.wait_until_arrived(2)
    assert [future.running() for future in futures] == [True, True, False, False]
    assert len(pool._processes) == 2
    gate.let_through(4)
    assert len({result_of(future) for future in futures}) == 2


@pytest.mark.parametrize("size", [0, -1, 1.5, "2", None, True])
def test_bad_size_is_refused_by_name_and_changes_nothing(new_pool, size) -> None:
    pool = new_pool(2)

    with pytest.raises((TypeError, ValueError), match=f"max_workers must be .*not {size!r}"):
        pool.resize(size)

    assert pool._max_workers == 2


def test_size_below_the_least_is_refused_and_changes_nothing(new_pool) -> None:
    pool = new_pool(3, min_workers=2)

    with pytest.raises(ValueError, match=r"min_workers must not exceed max_workers \(1\), not 2"):
        pool.resize(1)

    assert pool._max_workers == 3


def test_pool_that_is_shut_down_is_not_resized() -> None:
    pool = SafeProcessPoolExecutor(1)
    pool.shutdown()

    with pytest.raises(RuntimeError, match="shutdown"):
        pool.resize(2)
