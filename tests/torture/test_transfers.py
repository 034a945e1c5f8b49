"""A worker dies with half of a task or half of a result on its way."""

from __future__ import annotations

import signal

import pytest

from safepool import TransferError
from support import census, tasks
from support.eventually import eventually
from support.handles import Handle, gone

pytestmark = [pytest.mark.torture, pytest.mark.timeout(180)]


def stopped(pid):
    return census.look_at(pid).state == "T"


def blocked_in_a_write(pid):
    """Asleep in the kernel, sending into a socket or a pipe that nobody empties."""
    with open(f"/proc/{pid}/wchan") as file:
        place = file.read()
    return census.look_at(pid).state == "S" and ("sock_alloc_send" in place or "pipe_write" in place)


@pytest.mark.parametrize("make", [bytes, lambda size: "x" * size], ids=["beside the frame", "inside the frame"])
def test_worker_killed_while_100_mb_are_on_their_way_to_it(make_pool, meeting, make_gate, make):
    """The receiver is stopped before it has read anything: the task has not started, and is given to another."""
    pool, gate = make_pool(2), make_gate()
    neighbour = pool.submit(tasks.work_then_wait, meeting.path, "neighbour", gate.path)
    meeting.expect("neighbour")
    with Handle(pool.submit(tasks.own_pid).result(60)) as receiver:
        receiver.send(signal.SIGSTOP)
        eventually(lambda: stopped(receiver.pid))
        large = pool.submit(tasks.size_of, make(100_000_000))
        eventually(lambda: large.pid == receiver.pid)

        gate.open()
        assert neighbour.result(60) == meeting.expect("neighbour").pid
        assert pool.submit(tasks.square, 9).result(60) == 81, "one stuck worker holds up the others"
        assert stopped(receiver.pid)

        receiver.send(signal.SIGKILL)
        assert large.result(60) == 100_000_000
        gone({"receiver": receiver})


def test_worker_killed_while_300_mb_are_on_their_way_from_it(make_host):
    """The host is stopped, so that the worker cannot get rid of its result; then the worker is killed."""
    host = make_host(max_workers=1)
    gate = host.gate("gate")
    host.open_pool()
    host.submit("large", "make_text", host.rendezvous.path, "large", gate.path, 300_000_000)
    worker = host.hold_reported(["large"])["large"]
    host.stop()
    gate.open()

    eventually(lambda: blocked_in_a_write(worker.pid), within=60)
    worker.send(signal.SIGKILL)
    gone({"worker": worker})
    host.resume()

    outcome = host.outcome("large")
    assert (outcome["error"], outcome["exitcode"]) == ("WorkerDiedError", -signal.SIGKILL)
    host.submit("next", "square", 7)
    assert host.outcome("next") == {"value": 49}
    host.submit("larger", "make_text", host.rendezvous.path, "larger", gate.path, 300_000_000)
    assert host.outcome("larger") == {"value": "large"}


def test_result_that_was_complete_before_the_kill_is_delivered(make_host):
    host = make_host(max_workers=1)
    gate = host.gate("gate")
    host.open_pool()
    host.submit("small", "work_then_wait", host.rendezvous.path, "small", gate.path)
    worker = host.hold_reported(["small"])["small"]
    host.stop()
    before = census.look_at(worker.pid)
    gate.open()
    eventually(lambda: is_back_at_rest(worker.pid, before.ticks), within=60)
    worker.send(signal.SIGKILL)
    gone({"worker": worker})
    host.resume()

    assert host.outcome("small") == {"value": worker.pid}
    host.submit("next", "square", 7)
    assert host.outcome("next") == {"value": 49}


def is_back_at_rest(pid, ticks):
    """It has left the gate and waits for the next task."""
    gates = [target for target in census.open_files(pid).values() if target.endswith("/gate")]
    return not gates and census.look_at(pid).state == "S"


def test_results_that_cannot_be_rebuilt_fail_their_own_task_only(make_pool):
    pool = make_pool(2)
    futures = [pool.submit(tasks.make_unreadable if number % 2 else tasks.square, number) for number in range(10)]
    for number, future in enumerate(futures):
        if number % 2:
            assert isinstance(future.exception(60), TransferError)
        else:
            assert future.result(60) == number * number
