"""A worker dies or is ended while its task has descendants: they go with it, and nobody else notices."""

from __future__ import annotations

import signal

import pytest

from safepool import TaskKilledError, TaskTimeoutError, WorkerDiedError
from support import census, tasks
from support.descendants import ESCAPING, KEEPING, KINDS
from support.handles import Handle, gone, hold, none_alive
from support.proofs import new_counter, prove
from support.scenes import labels_of

pytestmark = [pytest.mark.torture, pytest.mark.timeout(180)]

LIMIT = 5.0  # seconds: long enough to prove the hang first, however busy the machine is
EXIT_CODES = {"kill": -signal.SIGKILL, "segfault": -signal.SIGSEGV, "abort": -signal.SIGABRT, "exit": 3}


@pytest.fixture
def pool(make_pool):
    return make_pool(2)


def pids_of(everybody, kinds):
    return {handle.pid for name, handle in everybody.items() if name.rpartition(".")[2] in kinds}


def pids_ended(error):
    return {process.pid for process in error.ended}


@pytest.mark.parametrize("how", EXIT_CODES)
def test_worker_that_dies_takes_its_descendants_and_no_other_task(pool, meeting, make_gate, stack, how):
    neighbours_gate, gate = make_gate(), make_gate()
    neighbour = pool.submit(tasks.work_then_wait, meeting.path, "neighbour", neighbours_gate.path)
    meeting.expect("neighbour")
    victim = pool.submit(tasks.work_then_die, meeting.path, "victim", gate.path, how, KINDS)
    queue = [pool.submit(tasks.square, number) for number in range(50)]
    everybody = hold(meeting.pids(labels_of("victim")), stack)

    gate.open()

    error = victim.exception(60)
    none_alive(everybody)
    assert isinstance(error, WorkerDiedError)
    assert (error.pid, error.exitcode) == (everybody["victim"].pid, EXIT_CODES[how])
    assert "work_then_die" in error.task
    assert error.elapsed > 0
    assert pids_of(everybody, ESCAPING) <= pids_ended(error)

    neighbours_gate.open()
    assert neighbour.result(60) == meeting.expect("neighbour").pid, "the neighbour was disturbed"
    assert [future.result(60) for future in queue] == [number * number for number in range(50)]


@pytest.mark.parametrize("kind", [kind for kind in tasks.HANGS if kind != "idle"])
def test_task_past_its_deadline_is_ended_with_its_descendants(pool, meeting, stack, tmp_path, kind):
    beat = new_counter(tmp_path, kind)
    hung = pool.submit(tasks.work_then_hang, meeting.path, "hung", kind, KINDS, beat, task_timeout=LIMIT)
    everybody = hold(meeting.pids(labels_of("hung")), stack)
    prove(kind, everybody["hung"].pid, beat)

    error = hung.exception(60)

    none_alive(everybody)
    assert isinstance(error, TaskTimeoutError)
    assert (error.pid, error.timeout) == (everybody["hung"].pid, LIMIT)
    assert error.elapsed >= LIMIT
    assert "work_then_hang" in error.task
    assert pids_of(everybody, KINDS) <= pids_ended(error)
    if kind not in ("stopped", "deaf"):  # a stopped process cannot tell where it is, nor one that ignores the question
        assert "work_then_hang" in error.stack
    assert pool.submit(tasks.square, 7).result(60) == 49


@pytest.mark.parametrize("kind", [kind for kind in tasks.HANGS if kind != "idle"])
def test_killed_future_is_ended_with_its_descendants(pool, meeting, stack, kind):
    hung = pool.submit(tasks.work_then_hang, meeting.path, "hung", kind, KINDS)
    everybody = hold(meeting.pids(labels_of("hung")), stack)

    hung.kill()

    error = hung.exception(60)
    none_alive(everybody)
    assert isinstance(error, TaskKilledError)
    assert error.pid == everybody["hung"].pid == hung.pid
    assert pids_of(everybody, KINDS) <= pids_ended(error)
    assert pool.submit(tasks.square, 7).result(60) == 49


@pytest.mark.parametrize("end", ["shutdown", "timeout", "kill_workers", "terminate_workers"])
def test_ending_the_pool_ends_running_tasks_with_their_descendants(pool, meeting, stack, end):
    running = [pool.submit(tasks.work_then_hang, meeting.path, name, "deaf", KINDS) for name in ("w0", "w1")]
    waiting = [pool.submit(tasks.square, number) for number in range(5)]
    everybody = hold(meeting.pids([*labels_of("w0"), *labels_of("w1")]), stack)

    if end == "shutdown":
        pool.shutdown(kill=True)
    elif end == "timeout":
        pool.shutdown(timeout=0.5)
    else:
        getattr(pool, end)()

    none_alive(everybody)
    assert all(isinstance(future.exception(60), TaskKilledError) for future in running)
    assert all(future.cancelled() for future in waiting)


def test_normal_shutdown_sweeps_what_finished_tasks_left_behind(pool, meeting, stack):
    assert pool.submit(tasks.work_then_hang, meeting.path, "done", "idle", KINDS).result(60) == "done"
    everybody = hold(meeting.pids(labels_of("done")), stack)

    pool.shutdown()

    none_alive(everybody)


def test_retiring_worker_is_swept_and_replaced(make_pool, meeting, make_gate, stack):
    pool, gate = make_pool(1, max_tasks_per_child=1), make_gate()
    first = pool.submit(tasks.work_then_wait, meeting.path, "first", gate.path, KINDS)
    descendants = hold(meeting.pids(labels_of("first")[1:]), stack)
    gate.open()
    assert first.result(60) == meeting.expect("first").pid
    assert pool.submit(tasks.own_pid).result(60) != first.result()
    gone(descendants)


def test_idle_worker_that_is_killed_costs_no_task(make_pool):
    pool = make_pool(1)
    for number in range(20):
        with Handle(pool.submit(tasks.own_pid).result(60)) as worker:
            worker.send(signal.SIGKILL)
            # Sent while the host may or may not have noticed: the task had not started either way.
            assert pool.submit(tasks.square, number).result(60) == number * number
            gone({"worker": worker})


@pytest.mark.parametrize("how", EXIT_CODES)
def test_descendants_that_keep_every_descriptor_do_not_delay_the_notice(pool, meeting, make_gate, stack, how):
    gate = make_gate()
    victim = pool.submit(tasks.work_then_die, meeting.path, "victim", gate.path, how, KEEPING)
    everybody = hold(meeting.pids(labels_of("victim", KEEPING)), stack)
    worker = everybody["victim"].pid
    held = set(census.open_files(everybody["victim.keeper_exec"].pid).values())
    assert held & {target for target in census.open_files(worker).values() if target.startswith("socket:")}

    gate.open()

    error = victim.exception(60)
    assert isinstance(error, WorkerDiedError)
    assert error.exitcode == EXIT_CODES[how]
    none_alive(everybody)
    assert pool.submit(tasks.square, 7).result(60) == 49


def test_descendants_that_keep_every_descriptor_do_not_hold_back_a_result(pool, meeting, stack):
    done = pool.submit(tasks.work_then_hang, meeting.path, "done", "idle", KEEPING)
    everybody = hold(meeting.pids(labels_of("done", KEEPING)), stack)
    assert done.result(60) == "done"
    assert [pool.submit(tasks.square, number).result(60) for number in range(5)] == [0, 1, 4, 9, 16]
    assert all(handle.alive() for handle in everybody.values()), "descendants live as long as their worker"

    everybody["done"].send(signal.SIGKILL)

    gone(everybody)
    assert pool.submit(tasks.square, 7).result(60) == 49
