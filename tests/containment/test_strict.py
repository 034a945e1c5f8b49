"""Strict containment: what clears its environment and makes a session of its own is ended as everything else is.

Everything here holds in both ways of it, but that only a control group shows in /proc who is in it.
"""

from __future__ import annotations

import errno
import os
import re
import signal
import subprocess
import sys
import threading

import pytest

from containment import acts
from safepool import (
    ContainmentError,
    SafeProcessPoolExecutor,
    TaskKilledError,
    TaskMemoryError,
    TaskTimeoutError,
    WorkerDiedError,
)
from safepool._os import control_group, guardian
from safepool._os.process_table import list_rows
from support import tasks
from support.descendants import KINDS, MOST_GENERATIONS, SWARM, TRACELESS
from support.eventually import eventually
from support.halves import MASKED, launcher_for
from support.handles import gone, hold, none_alive
from support.proofs import count_in, new_counter
from support.scenes import STATUS, hang_everywhere, labels_of, strike
from tools.masked import is_possible
from torture.users import AS_A_USER, NEEDS_ROOT

pytestmark = pytest.mark.timeout(120)

EVERYBODY = (*KINDS, *TRACELESS)


def members_of_only_worker(pool):
    (worker,) = pool._pool._state.workers.values()
    return worker.contained.members


@pytest.mark.parametrize("how", ["kill", "segfault", "exit"])
def test_worker_that_dies_takes_everybody(strict, meeting, make_gate, stack, how):
    pool, gate = strict(2), make_gate()
    victim = pool.submit(tasks.work_then_die, meeting.path, "victim", gate.path, how, EVERYBODY)
    everybody = hold(meeting.pids(labels_of("victim", EVERYBODY)), stack)
    gate.open()

    error = victim.exception(60)
    none_alive(everybody)
    assert isinstance(error, WorkerDiedError)
    traceless = {everybody[f"victim.{kind}"].pid for kind in TRACELESS}
    assert traceless <= {process.pid for process in error.ended}
    assert pool.submit(tasks.square, 3).result(60) == 9


def test_standard_containment_misses_exactly_those_without_a_trace(make_pool, meeting, make_gate, stack):
    pool, gate = make_pool(1), make_gate()
    victim = pool.submit(tasks.work_then_die, meeting.path, "victim", gate.path, "kill", EVERYBODY)
    everybody = hold(meeting.pids(labels_of("victim", EVERYBODY)), stack)
    gate.open()
    assert isinstance(victim.exception(60), WorkerDiedError)
    missed = [everybody.pop(f"victim.{kind}") for kind in TRACELESS]
    none_alive(everybody)
    assert all(handle.alive() for handle in missed)
    for handle in missed:
        handle.send(signal.SIGKILL)


def test_task_past_its_deadline_is_ended_with_everybody(strict, meeting, stack):
    pool = strict(1)
    hung = pool.submit(tasks.work_then_hang, meeting.path, "hung", "c", EVERYBODY, task_timeout=5.0)
    everybody = hold(meeting.pids(labels_of("hung", EVERYBODY)), stack)
    assert isinstance(hung.exception(60), TaskTimeoutError)
    none_alive(everybody)


def test_killed_future_is_ended_with_everybody(strict, meeting, stack):
    pool = strict(1)
    hung = pool.submit(tasks.work_then_hang, meeting.path, "hung", "c", EVERYBODY)
    everybody = hold(meeting.pids(labels_of("hung", EVERYBODY)), stack)
    assert hung.kill()
    assert isinstance(hung.exception(60), TaskKilledError)
    none_alive(everybody)


def test_shutdown_ends_everybody_that_finished_tasks_have_left(strict, meeting, make_gate, stack):
    pool, gate = strict(1), make_gate()
    task = pool.submit(tasks.work_then_wait, meeting.path, "done", gate.path, EVERYBODY)
    everybody = hold(meeting.pids(labels_of("done", EVERYBODY)), stack)
    gate.open()
    assert task.result(60) == everybody["done"].pid
    pool.shutdown()
    none_alive(everybody)


@pytest.mark.parametrize("death", ["SIGKILL", "SIGTERM", "exit"])
def test_host_that_dies_takes_everybody(make_strict_host, death):
    host = make_strict_host()
    canary = host.canary()
    host.open_pool()
    everybody = hang_everywhere(host, "c", leave=EVERYBODY)
    strike(host, death)
    gone(everybody)
    assert host.finish() == STATUS[death]
    host.leaves_nothing()
    assert canary.alive()


def test_swarm_of_forks_and_those_that_never_stay_are_ended(strict, meeting, stack, tmp_path):
    pool = strict(1)
    counters = [new_counter(tmp_path, f"mover-{number}") for number in range(2)]
    hung = pool.submit(tasks.outrun, meeting.path, "hung", counters, [0.0005, 0.002])
    everybody = hold(meeting.pids(["hung"]), stack)
    members = members_of_only_worker(pool)
    eventually(lambda: len(members.find(list(list_rows()))) > SWARM)
    eventually(lambda: all(count_in(counter) for counter in counters))
    assert hung.kill()
    assert isinstance(hung.exception(60), TaskKilledError)
    none_alive(everybody)
    generations = [count_in(counter) for counter in counters]
    assert generations == [count_in(counter) for counter in counters]


def test_chains_that_carry_no_trace_are_ended(strict, meeting, stack, tmp_path):
    """Each link is in a session of its own, has no environment, and loses its parent."""
    pool = strict(1)
    counters = [new_counter(tmp_path, f"mover-{number}") for number in range(3)]
    hung = pool.submit(acts.outrun_without_a_trace, meeting.path, "hung", counters, [0.001, 0.01, 0.05])
    everybody = hold(meeting.pids(["hung"]), stack)
    eventually(lambda: all(count_in(counter) > 20 for counter in counters), within=60)
    assert hung.kill()
    assert isinstance(hung.exception(60), TaskKilledError)
    none_alive(everybody)
    generations = [count_in(counter) for counter in counters]
    threading.Event().wait(0.5)  # in which each would have gone on; that nothing happens is announced by nobody
    assert generations == [count_in(counter) for counter in counters]
    assert max(generations) < MOST_GENERATIONS - 1


def test_one_worker_s_daemons_are_ended_with_it_and_another_s_are_not(strict, meeting, make_gate, stack):
    pool, first, second = strict(2), make_gate(), make_gate()
    victim = pool.submit(tasks.work_then_die, meeting.path, "victim", first.path, "kill", TRACELESS)
    neighbour = pool.submit(tasks.work_then_wait, meeting.path, "neighbour", second.path, TRACELESS)
    doomed = hold(meeting.pids(labels_of("victim", TRACELESS)), stack)
    spared = hold(meeting.pids(labels_of("neighbour", TRACELESS)), stack)
    first.open()
    assert isinstance(victim.exception(60), WorkerDiedError)
    none_alive(doomed)
    assert all(handle.alive() for handle in spared.values())
    second.open()
    assert neighbour.result(60) == spared["neighbour"].pid
    pool.shutdown()
    none_alive(spared)


def test_daemon_without_a_trace_is_a_leftover_of_its_task(strict, meeting, make_gate, stack):
    pool, gate = strict(1, leftovers="end"), make_gate()
    task = pool.submit(tasks.work_then_wait, meeting.path, "done", gate.path, TRACELESS)
    everybody = hold(meeting.pids(labels_of("done", TRACELESS)), stack)
    members = members_of_only_worker(pool)
    present = {handle.pid for handle in everybody.values()}
    eventually(lambda: members.find(list(list_rows())) == present)  # without those who have only started them
    gate.open()
    assert task.result(60) == everybody["done"].pid
    worker = everybody.pop("done")
    none_alive(everybody)
    assert {process.pid for process in task.leftovers} == {handle.pid for handle in everybody.values()}
    assert worker.alive()
    assert pool.submit(tasks.own_pid).result(60) == worker.pid


@pytest.mark.parametrize("limit", [None, 5.0], ids=["killed", "deadline"])
def test_clean_up_process_of_the_worker_s_group_goes_last(strict, meeting, limit):
    pool = strict(1)
    hung = pool.submit(acts.leave_a_cleaner, meeting.path, "hung", task_timeout=limit)
    meeting.expect_all(["hung", "cleaner"])  # in its grace of two seconds no interpreter has to come up
    if limit is None:
        assert hung.kill()
    assert isinstance(hung.exception(60), TaskKilledError if limit is None else TaskTimeoutError)
    assert meeting.find("cleaned") is not None


def test_memory_of_a_daemon_without_a_trace_counts(strict, meeting, stack):
    pool = strict(1, memory_limit="250MiB")
    growing = pool.submit(acts.grow_without_a_trace, meeting.path, "daemon", 400)
    error = growing.exception(60)
    assert isinstance(error, TaskMemoryError)
    assert meeting.expect("daemon").pid in {process.pid for process in error.ended}
    assert pool.submit(tasks.square, 3).result(60) == 9


def test_strict_pool_inside_a_strict_pool(strict, half, meeting, make_gate, stack):
    pool, gate = strict(1), make_gate()
    nested = pool.submit(acts.wait_in_a_strict_pool, half, meeting.path, "inner", gate.path, TRACELESS)
    inner = hold(meeting.pids(labels_of("inner", TRACELESS)), stack)
    gate.open()
    assert nested.result(60) == inner["inner"].pid
    none_alive(inner)
    hung = pool.submit(acts.wait_in_a_strict_pool, half, meeting.path, "hung", make_gate().path, TRACELESS)
    inner = hold(meeting.pids(labels_of("hung", TRACELESS)), stack)
    assert hung.kill()
    assert isinstance(hung.exception(60), TaskKilledError)
    gone(inner)


def test_janitor_of_a_task_s_own_pool_is_no_leftover(strict):
    """It is in the worker's group, or its guardian's child; were it ended, that worker would have none."""
    pool = strict(1, leftovers="end")
    for _ in range(2):
        task = pool.submit(acts.have_had_a_pool)
        assert task.result(60) is None
        assert task.leftovers == ()


@pytest.mark.parametrize("half", ["group"], indirect=True)
def test_worker_and_what_it_starts_are_in_one_group_and_the_host_is_not(strict):
    pool = strict(1)
    worker, child = pool.submit(tasks.own_group_and_a_child_s).result(60)
    host = tasks.own_group()
    assert worker == child
    assert re.fullmatch(re.escape(host.rstrip("/")) + r"/safepool_[0-9a-f]{32}/\d+", worker)


def test_standard_pool_is_kept_strict_by_nothing(make_pool) -> None:
    assert make_pool(1).strict_by is None


_TRY = """
from safepool import ContainmentError, SafeProcessPoolExecutor
if __name__ == "__main__":
    try:
        with SafeProcessPoolExecutor(1, containment="strict") as pool:
            print(pool.strict_by, pool.submit(pow, 3, 2).result())
    except ContainmentError as error:
        print(error)
"""


def say(*command: str) -> str:
    """What such a program says, started by this command."""
    done = subprocess.run(
        [*command, sys.executable, "-c", _TRY], check=True, capture_output=True, text=True, cwd="/", timeout=60
    )
    return done.stdout


@NEEDS_ROOT
def test_who_may_make_no_group_is_given_a_guardian() -> None:
    assert say(*AS_A_USER) == "guardian 9\n"


@pytest.mark.skipif(not is_possible(), reason="needs seccomp, and a machine whose calls have numbers here")
def test_where_neither_can_be_had_the_error_says_why_and_what_to_do() -> None:
    message = say(*MASKED, "mkdir", *MASKED, "subreaper")
    assert 'containment="strict"' in message
    assert re.search(r"cannot be made: (Permission denied|Read-only file system)|no hierarchy of version 2", message)
    assert "systemd-run --user --scope -p Delegate=yes" in message
    assert "prctl: Operation not permitted" in message


_TRY_WITHOUT_DESCRIPTORS = """
import errno, itertools, os, resource
from safepool import SafeProcessPoolExecutor

def make(room):
    used = {int(name) for name in os.listdir("/proc/self/fd")}
    most, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = (number for number in itertools.count() if number not in used)
    resource.setrlimit(resource.RLIMIT_NOFILE, (next(itertools.islice(free, room, None)), hard))
    try:
        return SafeProcessPoolExecutor(1, containment="strict")
    except OSError as error:
        print(errno.errorcode[error.errno])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))

if __name__ == "__main__":
    pools = [make(room) for room in range(20)]
    with pools[-1] as pool:
        print(pool.strict_by, pool.submit(pow, 3, 2).result())
"""


def test_want_of_descriptors_is_said_and_not_taken_for_a_lack_of_rights(half) -> None:
    """It passes: nothing is remembered of it."""
    done = subprocess.run(
        [*launcher_for(half), sys.executable, "-c", _TRY_WITHOUT_DESCRIPTORS],
        check=True,
        capture_output=True,
        text=True,
        cwd="/",
        timeout=60,
    )
    *failures, outcome = done.stdout.splitlines()
    assert set(failures) == {"EMFILE"}
    assert outcome == f"{half} 9"


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ENOMEM])
def test_shortage_while_it_is_tried_is_the_error_itself(half, monkeypatch, number) -> None:
    def fall_short() -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr({"group": control_group, "guardian": guardian}[half], "make_sure", fall_short)
    with pytest.raises(OSError, match=re.escape(os.strerror(number))) as caught:
        SafeProcessPoolExecutor(1, containment="strict")
    assert caught.value.errno == number


def test_containment_is_one_of_two() -> None:
    with pytest.raises(ValueError, match="containment must be one of 'standard', 'strict', not 'maximal'"):
        SafeProcessPoolExecutor(1, containment="maximal")


def test_error_is_a_runtime_error_and_keeps_its_reason() -> None:
    error = ContainmentError(reason="no")
    assert isinstance(error, RuntimeError)
    assert error.reason == "no"
