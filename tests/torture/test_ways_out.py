"""The ways out of a process group that shells, terminals and daemons know: all are shut but those that are documented.

A descendant that is in a session of its own, without a parent of ours, and without the marker carries no trace of where
it came from. That those three together are missed is asserted here, so that neither more nor less is.
"""

from __future__ import annotations

import signal
import struct
import threading

import pytest

from safepool import TaskTimeoutError, WorkerDiedError
from support import census, tasks
from support.eventually import eventually
from support.handles import Handle, gone, hold, none_alive
from support.scenes import strike
from torture import acts

pytestmark = [pytest.mark.torture, pytest.mark.timeout(120)]

LIMIT = 6.0  # seconds; enough to get there first
STILL_FOR = 0.5  # seconds in which the bomb would have gone off many times more


@pytest.mark.parametrize("end", ["killed", "deadline"])
def test_what_shells_and_terminals_start_goes_with_its_worker(make_pool, meeting, stack, end):
    pool = make_pool(1)
    limit = LIMIT if end == "deadline" else None
    task = pool.submit(acts.start_shells, meeting.path, "task", task_timeout=limit)
    everybody = hold(meeting.pids(["task", *(f"task.{kind}" for kind in acts.SHELLS)]), stack)
    seen = {kind: census.look_at(everybody[f"task.{kind}"].pid) for kind in acts.SHELLS}
    worker = everybody["task"].pid
    assert seen["nohup"].pgid == worker
    assert seen["bash_m"].pgid != worker == seen["bash_m"].sid
    assert seen["terminal"].terminal != 0
    assert seen["terminal"].sid != worker

    if end == "killed":
        everybody["task"].send(signal.SIGKILL)

    assert isinstance(task.exception(60), WorkerDiedError if end == "killed" else TaskTimeoutError)
    none_alive(everybody)


@pytest.mark.parametrize("end", ["killed", "deadline", "host killed"])
def test_who_carries_no_trace_is_missed_and_nobody_else(make_program, stack, end):
    """The documented miss, exactly; at a deadline a living parent leads to its child, at a death it dies as well."""
    program = make_program()
    gate = program.gate("gate")
    limit = LIMIT if end == "deadline" else None
    program.run_text(UNTRACEABLE, gate.path, str(limit))
    kinds = ("cleared", "retitled", "same_session", "with_parent", "plain")
    everybody = program.hold_reported(["task", *(f"task.{kind}" for kind in kinds)])
    missed = {name: everybody.pop(f"task.{name}") for name in ("cleared", "retitled")}
    lucky: dict[str, Handle] = {}
    for name, handle in missed.items():
        assert census.look_at(handle.pid).sid not in (everybody["task"].pid, program.process.pid)
        assert b"SAFEPOOL" not in census.environment_of(handle.pid), name
    try:
        if end == "killed":
            everybody["task"].send(signal.SIGKILL)
        elif end == "host killed":
            program.send(signal.SIGKILL)
        if end != "host killed":
            outcome = "WorkerDiedError" if end == "killed" else "TaskTimeoutError"
            assert program.rendezvous.expect("outcome").detail == outcome
        if end != "deadline":  # its parent goes in the same instant: whether it leads to it first is a matter of luck
            lucky["task.with_parent"] = everybody.pop("task.with_parent")
        gone(everybody)
        assert all(handle.alive() for handle in missed.values())
    finally:
        for handle in (*missed.values(), *lucky.values()):
            handle.send(signal.SIGKILL)
        gone(missed | lucky)


UNTRACEABLE = """
import sys
from safepool import SafeProcessPoolExecutor
from support.rendezvous import report
from torture import acts

if __name__ == "__main__":
    reports, gate, limit = sys.argv[1:]
    pool = SafeProcessPoolExecutor(1, task_timeout=None if limit == "None" else float(limit))
    task = pool.submit(acts.start_untraceable, reports, "task", gate)
    report(reports, "outcome", type(task.exception()).__name__)
    sys.stdin.read()
"""


def test_worker_cannot_leave_its_group(make_pool, meeting, make_gate):
    pool, gate = make_pool(1), make_gate()
    task = pool.submit(acts.move_oneself, meeting.path, "task", gate.path)
    assert meeting.expect("task").detail == "refused,refused,refused"
    gate.open()
    pid, group, session = task.result(60)
    assert pid == group == session == meeting.expect("task").pid


def test_worker_that_becomes_a_daemon_has_died_and_so_does_the_daemon(make_pool, meeting, make_gate):
    pool, gate = make_pool(1), make_gate()
    task = pool.submit(acts.become_a_daemon, meeting.path, "task", gate.path)
    gate.open()
    error = task.exception(60)
    assert isinstance(error, WorkerDiedError)
    assert error.exitcode == 0
    assert not census.in_session(error.pid)
    if (daemon := meeting.find("task")) is not None:  # it may not have come so far
        assert census.look_at(daemon.pid) is None or census.look_at(daemon.pid).state == "Z"
    assert pool.submit(tasks.square, 7).result(60) == 49


@pytest.mark.parametrize("end", ["killed", "deadline", "host killed"])
def test_bomb_that_stays_in_the_group_is_put_out(make_host, tmp_path, end):
    """A signal to a group is atomic against fork: of ten chains without a pause not one link gets away."""
    host = make_host(max_workers=1, reaped=True)
    canary = host.canary()
    host.open_pool()
    counter = str(tmp_path / "bomb")
    with open(counter, "wb") as file:
        file.write(bytes(8 * acts.CHAINS))
    host.submit("task", "torture.acts:explode", host.rendezvous.path, "task", counter, timeout=LIMIT)
    worker = host.hold_reported(["task"])["task"]
    eventually(lambda: min(counts(counter)) > 3)

    if end == "killed":
        worker.send(signal.SIGKILL)
    elif end == "host killed":
        strike(host, "SIGKILL")
    if end != "host killed":
        assert host.outcome("task")["error"] == ("WorkerDiedError" if end == "killed" else "TaskTimeoutError")

    gone({"worker": worker})
    if end == "host killed":
        host.leaves_nothing()
    before = counts(counter)
    threading.Event().wait(STILL_FOR)  # that nothing happens is announced by nobody
    assert counts(counter) == before
    assert max(before) < acts.MOST_LINKS - 1
    assert not census.in_group(worker.pid)
    assert canary.alive()


def counts(counter):
    with open(counter, "rb") as file:
        return struct.unpack(f"{acts.CHAINS}q", file.read())
