"""``detached="spare"``: who has made a session of his own is left alone, and everybody else is ended as ever."""

from __future__ import annotations

import contextlib
import signal

import pytest

from containment import acts
from safepool import SafeProcessPoolExecutor, TaskKilledError, TaskTimeoutError, WorkerDiedError
from safepool.cli import main
from safepool.tools.leftbehind import find
from safepool.tools.marked import scan
from support import tasks
from support.descendants import KEEPING, KINDS, TRACELESS
from support.eventually import eventually
from support.handles import Handle, gone, none_alive
from support.handles import hold as hold_all
from support.scenes import STATUS, hang_everywhere, labels_of, strike

pytestmark = pytest.mark.timeout(120)

EVERYBODY = (*KINDS, *KEEPING, *TRACELESS)
STAYING = ("setsid", "daemon", *TRACELESS)  # those that lead a session, or are in one that is not the worker's
GOING = tuple(kind for kind in EVERYBODY if kind not in STAYING)


@pytest.fixture
def hold(stack):
    """Take hold of processes; those that are to stay are ended with the test."""

    def take(pids):
        handles = hold_all(pids, stack)
        for handle in handles.values():
            stack.callback(handle.send, signal.SIGKILL)
        return handles

    return take


@pytest.fixture
def sparing(make_pool):
    return make_pool(2, detached="spare")


def divide(everybody):
    """Who is to stay, and who is to go, by name."""
    staying = {name: handle for name, handle in everybody.items() if name.rpartition(".")[2] in STAYING}
    return staying, {name: handle for name, handle in everybody.items() if name not in staying}


def exactly_they_are_left(everybody):
    staying, going = divide(everybody)
    assert len(staying) == len(STAYING)
    none_alive(going)
    assert all(handle.alive() for handle in staying.values())


@pytest.mark.parametrize("how", ["kill", "segfault", "exit"])
def test_worker_that_dies_takes_along_who_has_stayed_in_its_session(sparing, meeting, make_gate, hold, how):
    gate = make_gate()
    victim = sparing.submit(tasks.work_then_die, meeting.path, "victim", gate.path, how, EVERYBODY)
    everybody = hold(meeting.pids(labels_of("victim", EVERYBODY)))
    gate.open()

    error = victim.exception(60)
    assert isinstance(error, WorkerDiedError)
    exactly_they_are_left(everybody)
    ended = {process.pid for process in error.ended}
    assert not ended & {handle.pid for handle in divide(everybody)[0].values()}
    assert sparing.submit(tasks.square, 3).result(60) == 9


def test_task_past_its_deadline_takes_along_who_has_stayed_in_its_session(sparing, meeting, hold):
    hung = sparing.submit(tasks.work_then_hang, meeting.path, "hung", "c", EVERYBODY, task_timeout=5.0)
    everybody = hold(meeting.pids(labels_of("hung", EVERYBODY)))
    assert isinstance(hung.exception(60), TaskTimeoutError)
    exactly_they_are_left(everybody)


def test_killed_future_takes_along_who_has_stayed_in_its_session(sparing, meeting, hold):
    hung = sparing.submit(tasks.work_then_hang, meeting.path, "hung", "stopped", EVERYBODY)
    everybody = hold(meeting.pids(labels_of("hung", EVERYBODY)))
    assert hung.kill()
    assert isinstance(hung.exception(60), TaskKilledError)
    exactly_they_are_left(everybody)


@pytest.mark.parametrize("kill", [False, True])
def test_shutdown_ends_who_has_stayed_in_the_session_of_a_worker(sparing, meeting, make_gate, hold, kill):
    gate = make_gate()
    task = sparing.submit(tasks.work_then_wait, meeting.path, "done", gate.path, EVERYBODY)
    everybody = hold(meeting.pids(labels_of("done", EVERYBODY)))
    gate.open()
    assert task.result(60) == everybody["done"].pid
    sparing.shutdown(kill=kill)
    exactly_they_are_left(everybody)


@pytest.mark.parametrize("death", ["SIGKILL", "SIGTERM", "exit"])
def test_host_that_dies_takes_along_who_has_stayed_in_the_sessions_of_its_workers(make_host, stack, death):
    host = make_host(max_workers=2, detached="spare")
    canary = host.canary()
    host.open_pool()
    everybody = hang_everywhere(host, "c", leave=EVERYBODY)
    for handle in everybody.values():
        stack.callback(handle.send, signal.SIGKILL)
    staying, going = divide(everybody)
    host.spared += [handle.pid for handle in staying.values()]

    strike(host, death)

    gone(going)
    assert host.finish() == STATUS[death]
    host.leaves_nothing()  # its janitor has swept, and left
    assert len(staying) == 2 * len(STAYING)
    assert all(handle.alive() for handle in staying.values())
    assert canary.alive()


def test_one_whose_parent_is_to_be_ended_is_spared_when_the_host_dies(make_host, stack):
    """The parent survives the kernel's kill of the group, and is found by its session: it leads to its child."""
    host = make_host(max_workers=1, detached="spare")
    host.open_pool()
    host.submit("task", "detach_from_another_group", host.rendezvous.path, "task")
    everybody = host.hold_reported(["task", "task.parent", "task.detached"])
    detached = everybody.pop("task.detached")
    stack.callback(detached.send, signal.SIGKILL)
    host.spared.append(detached.pid)
    strike(host, "SIGKILL")
    gone(everybody)
    host.leaves_nothing()
    assert detached.alive()


def test_what_was_spared_is_not_taken_for_left_behind(make_host, stack, capsys):
    host = make_host(max_workers=1, detached="spare")
    host.open_pool()
    everybody = hang_everywhere(host, "loop", workers=1, leave=("setsid", "daemon"))
    worker = everybody.pop("w0")
    for handle in everybody.values():
        stack.callback(handle.send, signal.SIGKILL)
    host.spared += [handle.pid for handle in everybody.values()]
    strike(host, "SIGKILL")
    gone({"worker": worker})
    host.leaves_nothing()

    assert find(host.process.pid).processes == ()
    assert main(["reap", "--host", str(host.process.pid)]) == 0
    assert capsys.readouterr().out == "nothing is left behind by pools of this user\n"
    seen = [origin for handle in everybody.values() for origin in scan().marked[handle.pid]]
    assert {origin.is_sparing for origin in seen} == {True}, "each of them carries what spares it"
    assert all(handle.alive() for handle in everybody.values())


BOTH = """
import sys
from safepool import SafeProcessPoolExecutor
from support.rendezvous import report
from support.tasks import work_then_hang

if __name__ == "__main__":
    ending, sparing = SafeProcessPoolExecutor(1), SafeProcessPoolExecutor(1, detached="spare")
    ending.submit(work_then_hang, sys.argv[1], "ending", "c", ["setsid", "daemon"])
    sparing.submit(work_then_hang, sys.argv[1], "sparing", "c", ["setsid", "daemon"])
    sys.stdin.read()
"""


def test_pools_of_one_host_are_told_apart_at_its_death(make_program, stack):
    program = make_program()
    program.run_text(BOTH)
    kinds = ("setsid", "daemon")
    everybody = program.hold_reported([*labels_of("ending", kinds), *labels_of("sparing", kinds)])
    staying = {name: everybody.pop(name) for name in labels_of("sparing", kinds)[1:]}
    program.spared += [handle.pid for handle in staying.values()]

    program.send(signal.SIGKILL)

    gone(everybody)
    program.leaves_nothing()
    assert all(handle.alive() for handle in staying.values())


def test_what_a_task_detached_is_no_leftover_of_it(make_pool, meeting, make_gate, hold):
    pool, gate = make_pool(1, detached="spare", leftovers="end"), make_gate()
    task = pool.submit(tasks.work_then_wait, meeting.path, "done", gate.path, EVERYBODY)
    everybody = hold(meeting.pids(labels_of("done", EVERYBODY)))
    worker = everybody.pop("done")
    gate.open()

    assert task.result(60) == worker.pid
    exactly_they_are_left(everybody)
    left = {process.pid for process in task.leftovers}
    assert not left & {handle.pid for handle in divide(everybody)[0].values()}
    assert worker.alive()


def test_pool_within_a_task_ends_with_it_though_its_workers_have_sessions(sparing, meeting, hold):
    hung = sparing.submit(tasks.nest, meeting.path, "nest", 1, ["setsid"])
    everybody = hold(meeting.pids(["nest", "nest.setsid", "nest0", "nest1", "nest0.setsid", "nest1.setsid"]))
    spared = everybody.pop("nest.setsid")
    assert hung.kill()
    assert isinstance(hung.exception(60), TaskKilledError)
    gone(everybody)  # the inner ones by the inner pool's own means: its host is dead
    assert spared.alive()


def test_server_that_a_task_detached_outlives_the_pool(make_pool):
    with make_pool(1, detached="spare") as pool, contextlib.ExitStack() as stack:
        server = stack.enter_context(Handle(pool.submit(acts.leave_a_server).result(60)))
        stack.callback(server.send, signal.SIGKILL)
        pool.shutdown()
        eventually(lambda: not pool._processes)
        assert server.alive()


def test_it_is_one_of_two_and_none_with_strict_containment():
    with pytest.raises(ValueError, match="detached must be one of 'end', 'spare', not 'keep'"):
        SafeProcessPoolExecutor(1, detached="keep")


def test_strict_containment_spares_nobody():
    with pytest.raises(ValueError, match="detached must not be 'spare' with containment=\"strict\""):
        SafeProcessPoolExecutor(1, detached="spare", containment="strict")
