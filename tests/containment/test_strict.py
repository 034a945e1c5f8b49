"""Strict containment: what clears its environment and makes a session of its own is ended as everything else is."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from safepool import ContainmentError, SafeProcessPoolExecutor, TaskKilledError, TaskTimeoutError, WorkerDiedError
from safepool._os import control_group
from support import tasks
from support.descendants import KINDS, SWARM, TRACELESS
from support.eventually import eventually
from support.handles import gone, hold, none_alive
from support.proofs import count_in, new_counter
from support.scenes import STATUS, hang_everywhere, labels_of, strike

pytestmark = pytest.mark.timeout(120)

EVERYBODY = (*KINDS, *TRACELESS)


def houses() -> list[str]:
    """The directories of hosts below the control group that this process is in."""
    base = Path(control_group.house_of_this_process()).parent
    return [entry.name for entry in base.iterdir() if entry.name.startswith("safepool_")]


@pytest.fixture
def strict(make_pool):
    """Make strict pools; the test is not for machines where none can be had."""
    try:
        control_group.make_sure()
    except OSError as error:
        pytest.skip(f"no control group can be made here: {error}")
    before, pools = houses(), []

    def make(*args, **options):
        pools.append(make_pool(*args, containment="strict", **options))
        return pools[-1]

    yield make
    for pool in pools:
        pool.shutdown(kill=True)
    eventually(lambda: set(houses()) <= set(before), otherwise=lambda: f"left: {houses()}")


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
def test_host_that_dies_takes_everybody(strict, make_host, death):
    host = make_host(containment="strict")
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
    (worker,) = pool._pool._state.workers.values()
    group = worker.contained._group
    assert group is not None
    eventually(lambda: len(group.pids()) > SWARM)
    assert hung.kill()
    assert isinstance(hung.exception(60), TaskKilledError)
    none_alive(everybody)
    assert not Path(group.path).exists()
    generations = [count_in(counter) for counter in counters]
    assert all(generations)
    assert generations == [count_in(counter) for counter in counters]


def test_strict_pool_inside_a_strict_pool(strict):
    assert strict(1).submit(tasks.square_in_a_strict_pool, 7).result(60) == 49


def test_worker_and_what_it_starts_are_in_one_group_and_the_host_is_not(strict):
    pool = strict(1)
    worker, child = pool.submit(tasks.own_group_and_a_child_s).result(60)
    host = tasks.own_group()
    assert worker == child
    assert re.fullmatch(re.escape(host.rstrip("/")) + r"/safepool_[0-9a-f]{32}/\d+", worker)


_AS_NOBODY = """
import os
from safepool import ContainmentError, SafeProcessPoolExecutor
if __name__ == "__main__":
    os.setgid(65534), os.setuid(65534)
    try:
        SafeProcessPoolExecutor(1, containment="strict")
    except ContainmentError as error:
        print(error)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_where_no_group_can_be_made_the_error_says_why_and_what_to_do() -> None:
    message = subprocess.run(
        [sys.executable, "-c", _AS_NOBODY], check=True, capture_output=True, text=True, cwd="/", timeout=60
    ).stdout
    assert 'containment="strict"' in message
    assert re.search(r"cannot be made: (Permission denied|Read-only file system)|no hierarchy of version 2", message)
    assert "systemd-run --user --scope -p Delegate=yes" in message


def test_containment_is_one_of_two() -> None:
    with pytest.raises(ValueError, match="containment must be one of 'standard', 'strict', not 'maximal'"):
        SafeProcessPoolExecutor(1, containment="maximal")


def test_error_is_a_runtime_error_and_keeps_its_reason() -> None:
    error = ContainmentError(reason="no")
    assert isinstance(error, RuntimeError)
    assert error.reason == "no"
