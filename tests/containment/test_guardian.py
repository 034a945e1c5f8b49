"""The guardian of a strict worker where there is no control group: what it takes on, what it leaves be, its death."""

from __future__ import annotations

import json
import os
import signal
import sys

import pytest

from containment import acts
from safepool import TaskKilledError, TaskTimeoutError, WorkerDiedError
from safepool._os import guardian as guardian_module
from support import census, tasks
from support.descendants import KINDS, TRACELESS
from support.eventually import eventually
from support.halves import guardian_of, launcher_for, take
from support.handles import Handle, gone, hold, none_alive
from support.scenes import hang_everywhere, hold_janitor, labels_of, stop_guardians, strike

pytestmark = pytest.mark.timeout(120)

EVERYBODY = (*KINDS, *TRACELESS)
OF_A_WORKER = 10  # descriptors in the host: two more than in a standard pool, a socket and a pidfd


@pytest.fixture
def half(monkeypatch):
    return take("guardian", monkeypatch)


# --- what a worker is born with ---

# Compares, in one host, a worker of a strict pool with one of a standard pool: every setting is made right before.
_COMPARE = """
import json, os, resource, signal, sys
from containment.acts import circumstances
from safepool import SafeProcessPoolExecutor
from support.rendezvous import report

def settle():
    os.chdir("/usr")
    os.umask(0o27)
    os.nice(3)
    os.sched_setaffinity(0, [max(os.sched_getaffinity(0))])
    resource.setrlimit(resource.RLIMIT_CORE, (4096, 8192))
    resource.setrlimit(resource.RLIMIT_NOFILE, (333, 444))
    os.environ["LATE"] = "a value\\nof two lines, = and all"
    os.environ.pop("LC_ALL", None), os.environ.pop("LANG", None)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    if sys.argv[2] == "ignored":
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2, signal.SIGCHLD})

if __name__ == "__main__":
    pools = [SafeProcessPoolExecutor(1, containment=name) for name in ("standard", "strict")]
    assert pools[1].strict_by == "guardian"
    settle()
    for pool in pools:
        told = pool.submit(circumstances).result(60)
        report(sys.argv[1], pool.strict_by or "standard", json.dumps({**told, "CPUs": list(told["CPUs"])}))
        pool.shutdown()
"""


@pytest.mark.parametrize("children", ["ignored", "default"])
def test_worker_has_the_settings_of_its_host_at_that_instant(make_program, children):
    program = make_program()
    source = program.directory / "program.py"
    source.write_text(_COMPARE)
    command = [*launcher_for("guardian"), sys.executable, str(source), program.rendezvous.path, children]
    program.run(command, environment={"PYTHONCOERCECLOCALE": "0"})
    assert program.finish() == 0, program.stderr
    standard, guarded = (json.loads(program.rendezvous.expect(name).detail) for name in ("standard", "guardian"))
    assert guarded == standard
    assert guarded["directory"] == "/usr"
    assert guarded["umask"] == ["0027"]
    assert guarded["limits"]["RLIMIT_NOFILE"] == [333, 444]
    assert guarded["environment"]["LATE"] == "a value\nof two lines, = and all"
    assert guarded["leads its session"]


def test_worker_is_a_child_of_its_guardian_which_is_one_of_the_host(strict):
    worker = strict(1).submit(tasks.own_pid).result(60)
    seen = census.look_at(guardian_of(worker))
    assert (seen.ppid, seen.pgid, seen.sid, seen.terminal) == (os.getpid(), seen.pid, seen.pid, 0)
    assert census.look_at(worker).sid == worker


def test_guardian_carries_no_marker_and_holds_nothing_of_its_worker_s(strict):
    """But for the one socket to the host, a pipe to wake itself and two pidfds."""
    worker = strict(1).submit(tasks.own_pid).result(60)
    guardian = guardian_of(worker)
    assert b"\0SAFEPOOL_" not in b"\0" + census.environment_of(guardian)
    assert b"\0SAFEPOOL_" in b"\0" + census.environment_of(worker)
    eventually(lambda: len(census.open_files(guardian)) >= 8)  # it is ready a moment after its worker was started
    files = census.open_files(guardian)
    assert {files[fd] for fd in (0, 1, 2)} == {"/dev/null"}
    kinds = sorted(name.partition(":")[0] for fd, name in files.items() if fd > 2)
    assert [kind for kind in kinds if kind != "anon_inode"] == ["pipe", "pipe", "socket"]
    assert os.readlink(f"/proc/{guardian}/cwd") == "/"


def test_guardian_is_deaf_to_polite_signals(strict, stack):
    pool = strict(1)
    guardian = stack.enter_context(Handle(guardian_of(pool.submit(tasks.own_pid).result(60))))
    for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGALRM):
        guardian.send(signum)
    assert pool.submit(tasks.square, 7).result(60) == 49
    assert guardian.alive()
    pool.shutdown()
    assert not guardian.alive()


# --- exit statuses ---


@pytest.mark.parametrize("reaping", [None, "ignore_children", "reap_everything", "reap_in_a_handler"])
@pytest.mark.parametrize(("how", "status"), [("exit", 3), ("kill", -signal.SIGKILL), ("segfault", -signal.SIGSEGV)])
def test_exit_status_is_true_whoever_reaps(make_strict_host, reaping, how, status):
    """On every kernel: the guardian waits for the worker, and the host's children are none of its business."""
    host = make_strict_host(max_workers=1)
    gate = host.gate("gate")
    if reaping is not None:
        host.tell(reaping)
    host.open_pool()
    for label in ("first", "second"):
        host.submit(label, "work_then_die", host.rendezvous.path, label, gate.path, how, list(EVERYBODY))
        everybody = host.hold_reported(labels_of(label, EVERYBODY))
        gate.open(1)
        outcome = host.outcome(label)
        assert (outcome["error"], outcome["exitcode"]) == ("WorkerDiedError", status)
        none_alive(everybody)
    host.submit("next", "square", 7)
    assert host.outcome("next") == {"value": 49}
    host.tell("return")
    assert host.finish() == 0
    host.leaves_nothing()


@pytest.mark.parametrize("reaping", ["ignore_children", "reap_everything"])
def test_deadlines_hold_whoever_reaps(make_strict_host, reaping):
    host = make_strict_host(max_workers=2)
    host.tell(reaping)
    host.open_pool()
    everybody = hang_everywhere(host, "deaf", leave=EVERYBODY, timeout=4.0)
    for name in ("w0", "w1"):
        assert host.outcome(name)["error"] == "TaskTimeoutError"
    none_alive(everybody)
    host.tell("return")
    assert host.finish() == 0
    host.leaves_nothing()


# --- orphans ---


def test_orphans_that_die_are_reaped_while_the_worker_lives(strict):
    pool = strict(1)
    worker = pool.submit(tasks.own_pid).result(60)
    pool.submit(acts.leave_many, 50).result(60)
    guardian = guardian_of(worker)
    eventually(lambda: {seen.pid for seen in census.children_of(guardian)} == {worker})
    eventually(lambda: not census.zombies_of(guardian))


def test_orphans_that_die_behind_a_dead_worker_are_reaped_while_its_host_is_stopped(make_strict_host):
    host = make_strict_host(max_workers=1)
    host.open_pool()
    everybody = hang_everywhere(host, "loop", workers=1, leave=TRACELESS)
    worker = everybody.pop("w0")
    guardian = guardian_of(worker.pid)
    host.stop()
    worker.send(signal.SIGKILL)
    gone({"worker": worker})
    for handle in everybody.values():
        assert handle.alive()
        handle.send(signal.SIGKILL)
    gone(everybody)
    eventually(lambda: [seen.pid for seen in census.zombies_of(guardian)] == [worker.pid])
    host.resume()
    assert host.outcome("w0")["exitcode"] == -signal.SIGKILL


def test_a_hundred_workers_leave_nothing(strict):
    pool = strict(2, max_tasks_per_child=1)
    assert pool.submit(tasks.square, 3).result(60) == 9
    pids = [pool.submit(tasks.own_pid) for _ in range(100)]
    assert len({future.result(60) for future in pids}) == 100
    pool.shutdown()
    assert not [seen for seen in census.children_of(os.getpid()) if "guardian_main" in seen.command]
    assert not census.zombies_of(os.getpid())


# --- the host's death ---


@pytest.mark.parametrize("kind", ["c", "stopped", "deaf"])
def test_host_that_is_sigkilled_while_its_janitor_is_stopped_leaves_nothing(make_strict_host, kind):
    host = make_strict_host(max_workers=2)
    canary = host.canary()
    host.open_pool()
    everybody = hang_everywhere(host, kind, leave=EVERYBODY)
    janitor = hold_janitor(host)
    janitor.send(signal.SIGSTOP)
    eventually(lambda: census.look_at(janitor.pid).state == "T")
    strike(host, "SIGKILL")
    gone(everybody)
    janitor.send(signal.SIGCONT)
    host.leaves_nothing()
    assert canary.alive()


@pytest.mark.parametrize("stopped", ["once", "again and again"])
def test_guardian_that_is_stopped_when_its_host_dies_is_continued(make_strict_host, stopped):
    host = make_strict_host(max_workers=2)
    canary = host.canary()
    host.open_pool()
    everybody = hang_everywhere(host, "c", leave=EVERYBODY if stopped == "once" else (*EVERYBODY, "stopper"))
    guardians = stop_guardians(host, everybody)
    strike(host, "SIGKILL")
    gone(everybody)
    gone(guardians)
    host.leaves_nothing()
    assert canary.alive()


@pytest.mark.parametrize("holding", [False, True], ids=["forked", "holding everything"])
def test_host_that_dies_while_others_hold_its_descriptors_leaves_nothing(make_strict_host, holding):
    host = make_strict_host(max_workers=2)
    host.open_pool()
    everybody = hang_everywhere(host, "loop", leave=EVERYBODY)
    host.tell("fork", label="helper", holding=holding)
    name = "helper.keeper_exec" if holding else "helper"
    helper = host.hold_reported([name])[name]
    host.spared.append(helper.pid)
    strike(host, "SIGKILL")
    gone(everybody)
    assert helper.alive()
    helper.send(signal.SIGKILL)  # the resource tracker waits for the last who holds its pipe
    host.leaves_nothing()


def test_host_that_execs_another_program_leaves_nothing(make_strict_host):
    host = make_strict_host(max_workers=1)
    host.open_pool()
    everybody = hang_everywhere(host, "c", workers=1, leave=EVERYBODY)
    strike(host, "exec")
    gone(everybody)
    host.spared.append(host.rendezvous.expect("reborn").pid)
    host.leaves_nothing()


def test_host_sigkilled_at_any_moment_of_a_start_leaves_nothing(make_strict_host):
    for attempt in range(12):
        host = make_strict_host(max_workers=2)
        host.open_pool()
        for name in ("w0", "w1"):
            host.submit(name, "work_then_hang", host.rendezvous.path, name, "loop", list(TRACELESS))
        host.rendezvous.listen(attempt * 0.008)
        strike(host, "SIGKILL")
        host.finish()
        host.leaves_nothing()
        left = [report.pid for report in host.rendezvous.reports if report.label.partition(".")[2] in TRACELESS]
        eventually(lambda left=left: not [seen for pid in left if (seen := census.look_at(pid)) and seen.state != "Z"])
        host.close()


def test_fork_of_the_host_in_c_holds_up_no_end(make_program):
    """Its child has a copy of the link to every guardian, for as long as it lives."""
    program = make_program()
    source = program.directory / "program.py"
    source.write_text(
        "import ctypes, os, signal\n"
        "from safepool import SafeProcessPoolExecutor, WorkerDiedError\n"
        "from safepool._os import guardian\n"
        "if __name__ == '__main__':\n"
        "    guardian._LEAVE_LIMIT = 600.0\n"
        "    pool = SafeProcessPoolExecutor(1, containment='strict')\n"
        "    assert pool.strict_by == 'guardian'\n"
        "    assert pool.submit(abs, -1).result() == 1\n"
        "    child = ctypes.CDLL(None).fork()\n"
        "    while not child:\n"
        "        signal.pause()\n"
        "    assert type(pool.submit(os._exit, 3).exception()) is WorkerDiedError\n"
        "    pool.shutdown()\n"
        "    os.kill(child, signal.SIGKILL)\n"
    )
    program.run([*launcher_for("guardian"), sys.executable, str(source)])
    assert program.finish() == 0, program.stderr
    program.leaves_nothing()


def test_guardian_beneath_a_standard_pool_finishes_what_the_death_of_its_host_leaves_to_it(make_pool, meeting, stack):
    """The outer pool sweeps by its marker, which the guardian of the inner one must not carry: it has work to do."""
    pool, gate = make_pool(1), meeting.path + ".gate"
    os.mkfifo(gate)
    nested = pool.submit(acts.wait_in_a_strict_pool, "guardian", meeting.path, "inner", gate, EVERYBODY)
    everybody = hold(meeting.pids(labels_of("inner", EVERYBODY)), stack)
    guardian = stack.enter_context(Handle(guardian_of(everybody["inner"].pid)))
    assert b"SAFEPOOL_" in census.environment_of(everybody["inner"].pid)
    assert b"SAFEPOOL_" not in census.environment_of(guardian.pid)
    with Handle(census.look_at(guardian.pid).ppid) as outer_worker:
        outer_worker.send(signal.SIGKILL)
    assert isinstance(nested.exception(60), WorkerDiedError)
    gone({**everybody, "guardian": guardian})


# --- the guardian's own end ---


def test_guardian_that_is_sigkilled_takes_its_worker_along(strict, meeting, stack):
    """What had come to it by then, and carries no trace, is lost: it is nobody's any more. This is what is missed."""
    pool = strict(1)
    hung = pool.submit(tasks.work_then_hang, meeting.path, "hung", "c", EVERYBODY)
    everybody = hold(meeting.pids(labels_of("hung", EVERYBODY)), stack)
    guardian = stack.enter_context(Handle(guardian_of(everybody["hung"].pid)))
    guardian.send(signal.SIGKILL)
    error = hung.exception(60)
    assert isinstance(error, WorkerDiedError)
    assert error.exitcode in (-signal.SIGKILL, None)  # it was another's to wait for, by then
    missed = {name: everybody.pop(name) for name in list(everybody) if name.partition(".")[2] in TRACELESS}
    none_alive(everybody)
    assert all(handle.alive() for handle in missed.values())
    for handle in missed.values():
        handle.send(signal.SIGKILL)
    assert pool.submit(tasks.square, 7).result(60) == 49
    assert pool.strict_by == "guardian"


@pytest.mark.parametrize("end", ["kill", "deadline", "shutdown", "death"])
def test_guardian_that_a_task_has_stopped_does_not_hinder_the_end(strict, meeting, stack, end):
    pool = strict(1)
    guardian = pool.submit(acts.stop_parent).result(60)
    eventually(lambda: census.look_at(guardian).state == "T")
    limit = {"task_timeout": 5.0} if end == "deadline" else {}
    hung = pool.submit(tasks.work_then_hang, meeting.path, "hung", "deaf", EVERYBODY, **limit)
    everybody = hold(meeting.pids(labels_of("hung", EVERYBODY)), stack)
    assert census.look_at(guardian).state == "T"
    if end == "kill":
        hung.kill()
    elif end == "shutdown":
        pool.shutdown(kill=True)
    elif end == "death":
        everybody["hung"].send(signal.SIGKILL)
    expected = {"death": WorkerDiedError, "deadline": TaskTimeoutError}.get(end, TaskKilledError)
    error = hung.exception(60)
    assert isinstance(error, expected)
    if end == "death":
        assert error.exitcode == -signal.SIGKILL
    none_alive(everybody)
    eventually(lambda: census.look_at(guardian) is None)


# How a guardian begins that does not do its part: it never says how its worker has ended, or does not leave.
_KEPT_FROM = {
    "telling": "from safepool._os import guarding; guarding.tell = lambda *_: None; ",
    "leaving": "import time; from safepool._os import guarding; guarding._reap_all = lambda: time.sleep(900); ",
}


def hang_beneath_a_guardian_kept_from(part, seconds, pool, meeting, stack, monkeypatch):
    """As if it slept where no signal reaches it, or somebody beneath it did; return the future, and both to look at.

    It has so many seconds to tell, and to leave.
    """
    for limit in ("_TOLD_LIMIT", "_LEAVE_LIMIT"):
        monkeypatch.setattr(guardian_module, limit, seconds)
    with monkeypatch.context() as fault:
        fault.setattr(guardian_module, "_PROGRAM", _KEPT_FROM[part] + guardian_module._PROGRAM)
        hung = pool.submit(tasks.work_then_hang, meeting.path, "hung", "c")
        (worker,) = hold(meeting.pids(["hung"]), stack).values()
    guardian = stack.enter_context(Handle(guardian_of(worker.pid)))
    stack.callback(guardian.send, signal.SIGKILL)  # whatever comes, nobody is to wait for it for long
    return hung, worker, guardian


@pytest.mark.parametrize("part", ["telling", "leaving"])
def test_guardian_that_does_not_do_its_part_holds_up_no_other_worker(strict, meeting, stack, monkeypatch, part):
    pool = strict(2)
    hung, worker, guardian = hang_beneath_a_guardian_kept_from(part, 900.0, pool, meeting, stack, monkeypatch)
    assert hung.kill()
    gone({"worker": worker})

    late = pool.submit(tasks.loop, task_timeout=0.5)
    assert isinstance(late.exception(60), TaskTimeoutError)
    assert pool.submit(tasks.square, 7).result(60) == 49

    assert guardian.alive(), "the fault never happened"
    assert not hung.done(), "it is not over as long as its guardian is there"
    guardian.send(signal.SIGKILL)
    assert isinstance(hung.exception(60), TaskKilledError)


@pytest.mark.parametrize("part", ["telling", "leaving"])
def test_guardian_that_does_not_do_its_part_is_gone_when_its_pool_is(strict, meeting, stack, monkeypatch, part):
    pool = strict(1)
    hung, worker, guardian = hang_beneath_a_guardian_kept_from(part, 0.2, pool, meeting, stack, monkeypatch)
    pool.shutdown(kill=True)
    assert not worker.alive()
    assert not guardian.alive()
    assert census.look_at(guardian.pid) is None, "not reaped"
    assert isinstance(hung.exception(0), TaskKilledError)


# --- starts that fail ---


@pytest.mark.parametrize("room", range(0, 17, 2))
def test_host_without_descriptors_cannot_start_a_worker_and_says_so(make_strict_host, room):
    host = make_strict_host(max_workers=1)
    host.open_pool()
    host.submit("before", "square", 7)
    assert host.outcome("before") == {"value": 49}
    (guardian,) = (seen for seen in census.children_of(host.process.pid) if "guardian_main" in seen.command)
    files = len(census.open_files(host.process.pid))
    (worker,) = census.children_of(guardian.pid)
    with Handle(worker.pid) as handle:
        handle.send(signal.SIGKILL)
    eventually(lambda: len(census.open_files(host.process.pid)) <= files - OF_A_WORKER)
    host.tell("limit_descriptors", room=room)
    host.rendezvous.expect("limited")
    host.submit("starved", "square", 7)
    outcome = host.outcome("starved")
    assert outcome == {"value": 49} or (
        outcome["error"] == "WorkerDiedError" and "Too many open files" in outcome["text"]
    ), outcome
    host.tell("limit_descriptors", room=None)
    host.submit("after", "square", 7)
    assert host.outcome("after") == {"value": 49}
    host.tell("return")
    assert host.finish() == 0
    host.leaves_nothing()
