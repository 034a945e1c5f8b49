"""Workers that die or are ended go with their descendants (the quick choice; all of it is in ``torture``)."""

from __future__ import annotations

import signal

import pytest

from safepool import TaskKilledError, TaskTimeoutError, WorkerDiedError
from support import tasks
from support.descendants import ESCAPING, KEEPING, KINDS
from support.handles import Handle, gone, hold, none_alive
from support.proofs import new_counter, prove
from support.scenes import labels_of

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def pool(make_pool):
    return make_pool(2)


def pids_of(everybody, kinds):
    return {handle.pid for name, handle in everybody.items() if name.rpartition(".")[2] in kinds}


def pids_ended(error):
    return {process.pid for process in error.ended}


def test_killed_worker_takes_its_descendants_and_no_other_task(pool, meeting, make_gate, stack):
    gate = make_gate()
    neighbour = pool.submit(tasks.work_then_wait, meeting.path, "neighbour", gate.path)
    victim = pool.submit(tasks.work_then_hang, meeting.path, "victim", "c", KINDS)
    queue = [pool.submit(tasks.square, number) for number in range(20)]
    everybody = hold(meeting.pids([*labels_of("victim"), "neighbour"]), stack)
    unharmed = everybody.pop("neighbour")

    everybody["victim"].send(signal.SIGKILL)

    error = victim.exception(60)
    none_alive(everybody)
    assert isinstance(error, WorkerDiedError)
    assert (error.pid, error.exitcode) == (everybody["victim"].pid, -signal.SIGKILL)
    assert pids_of(everybody, ESCAPING) <= pids_ended(error)
    gate.open()
    assert neighbour.result(60) == unharmed.pid
    assert [future.result(60) for future in queue] == [number * number for number in range(20)]


@pytest.mark.parametrize("kind", ["c", "deaf"])
def test_deadline_ends_a_task_with_its_descendants(pool, meeting, stack, tmp_path, kind):
    beat = new_counter(tmp_path, kind)
    hung = pool.submit(tasks.work_then_hang, meeting.path, "hung", kind, KINDS, beat, task_timeout=5.0)
    everybody = hold(meeting.pids(labels_of("hung")), stack)
    prove(kind, everybody["hung"].pid, beat)

    error = hung.exception(60)

    none_alive(everybody)
    assert isinstance(error, TaskTimeoutError)
    assert pids_of(everybody, KINDS) <= pids_ended(error)
    assert pool.submit(tasks.square, 7).result(60) == 49


def test_shutdown_with_kill_ends_running_tasks_with_their_descendants(pool, meeting, stack):
    running = [pool.submit(tasks.work_then_hang, meeting.path, name, "stopped", KINDS) for name in ("w0", "w1")]
    everybody = hold(meeting.pids([*labels_of("w0"), *labels_of("w1")]), stack)

    pool.shutdown(kill=True)

    none_alive(everybody)
    assert all(isinstance(future.exception(60), TaskKilledError) for future in running)


def test_descendants_that_keep_every_descriptor_do_not_delay_the_notice(pool, meeting, make_gate, stack):
    gate = make_gate()
    victim = pool.submit(tasks.work_then_die, meeting.path, "victim", gate.path, "exit", KEEPING)
    everybody = hold(meeting.pids(labels_of("victim", KEEPING)), stack)

    gate.open()

    error = victim.exception(60)
    assert isinstance(error, WorkerDiedError)
    assert error.exitcode == 3
    none_alive(everybody)


def test_idle_worker_that_is_killed_costs_no_task(make_pool):
    pool = make_pool(1)
    for number in range(5):
        with Handle(pool.submit(tasks.own_pid).result(60)) as worker:
            worker.send(signal.SIGKILL)
            assert pool.submit(tasks.square, number).result(60) == number * number
            gone({"worker": worker})
