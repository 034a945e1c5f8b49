"""How many workers there are: ``min_workers``, ``spare_workers``, ``idle_timeout``."""

from __future__ import annotations

import errno
import os
from typing import NoReturn

import pytest

from contract.patience import error_of, eventually, is_gone, result_of
from features import acts
from safepool import SafeProcessPoolExecutor, WorkerDiedError
from safepool._pool.worker import WorkerState
from support import census


def test_idle_worker_leaves_after_its_time_and_another_comes_at_need(new_pool) -> None:
    pool = new_pool(idle_timeout=0.3)
    first = result_of(pool.submit(acts.tell_pid))

    assert eventually(lambda: is_gone(first))

    assert result_of(pool.submit(acts.tell_pid)) != first


def test_least_number_of_workers_stays(new_pool, gate) -> None:
    pool = new_pool(3, idle_timeout=0.2, min_workers=1)
    for _ in range(3):
        pool.submit(acts.pass_gate_and_tell_pid, gate.folder)
    gate.wait_until_arrived(3)
    gate.let_through(3)
    assert eventually(lambda: len(pool._processes) == 1)
    (pid,) = pool._processes

    assert result_of(pool.submit(acts.tell_pid)) == pid


def test_least_number_is_there_from_the_first_task_on(new_pool) -> None:
    pool = new_pool(3, min_workers=2)
    result_of(pool.submit(acts.square, 2))

    assert eventually(lambda: len(pool._processes) == 2)


def test_spare_worker_stands_by_and_takes_the_place_of_a_dead_one(new_pool) -> None:
    pool = new_pool(1, spare_workers=1)
    first = result_of(pool.submit(acts.tell_pid))
    workers = pool._pool._state.workers
    eventually(lambda: [worker.state for worker in list(workers.values())] == [WorkerState.IDLE] * 2)
    (standby,) = set(pool._processes) - {first}

    dying, next_one = pool.submit(acts.die), pool.submit(acts.tell_pid)  # at once: it is there before a third is up

    error = error_of(dying)
    assert isinstance(error, WorkerDiedError)
    assert result_of(next_one) == (standby if error.pid == first else first)
    assert eventually(lambda: len(pool._processes) == 2)


def test_spare_worker_is_given_nothing_while_the_others_work(new_pool, gate) -> None:
    pool = new_pool(1, spare_workers=1)
    working = pool.submit(acts.pass_gate_and_tell_pid, gate.folder)
    gate.wait_until_arrived()
    assert eventually(lambda: len(pool._processes) == 2)

    waiting = pool.submit(acts.pass_gate_and_tell_pid, gate.folder)

    assert not waiting.running()
    gate.let_through()
    result_of(working)
    gate.let_through()
    result_of(waiting)


def test_shutdown_lets_everybody_leave(new_pool) -> None:
    pool = new_pool(2, min_workers=2, spare_workers=1)
    result_of(pool.submit(acts.square, 2))
    assert eventually(lambda: len(pool._processes) == 3)
    pids = list(pool._processes)

    pool.shutdown()

    assert all(is_gone(pid) for pid in pids)


@pytest.mark.parametrize("option", ["min_workers", "spare_workers"])
@pytest.mark.parametrize("value", [-1, 1.5, "1", True, None])
def test_bad_number_of_workers_is_refused_by_name(option: str, value) -> None:
    with pytest.raises((TypeError, ValueError), match=option):
        SafeProcessPoolExecutor(1, **{option: value})


def test_more_least_than_most_workers_are_refused() -> None:
    with pytest.raises(ValueError, match="min_workers"):
        SafeProcessPoolExecutor(1, min_workers=2)


@pytest.mark.parametrize("value", [0, -1, "1", float("nan")])
def test_bad_idle_timeout_is_refused_by_name(value) -> None:
    with pytest.raises((TypeError, ValueError), match="idle_timeout"):
        SafeProcessPoolExecutor(1, idle_timeout=value)


def test_worker_that_cannot_be_started_costs_nothing_while_its_error_is_kept(new_pool, monkeypatch) -> None:
    """An error keeps the frames that it came through, and these keep descriptors, just where they are short."""

    def refuse(*_: object, **__: object) -> NoReturn:
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr("safepool._pool.staff.launch", refuse)
    error = error_of(new_pool(1).submit(acts.square, 7))

    assert isinstance(error, WorkerDiedError)
    assert "Resource temporarily unavailable" in str(error)
    eventually(lambda: not [target for target in census.open_files().values() if "safepool-start" in target])
