"""Whom signals can reach: a task cannot have the host or its janitor hit anybody outside of its own tree."""

from __future__ import annotations

import os
import subprocess

import pytest

from contract.gate import Gate
from contract.patience import error_of, result_of
from features.acts import square
from safepool import TaskTimeoutError, WorkerDiedError
from security import acts
from support.handles import gone
from support.scenes import hold_janitor, strike

pytestmark = pytest.mark.timeout(60)


def test_task_cannot_get_into_the_group_of_the_host_or_of_a_stranger(pool, canary: subprocess.Popen[bytes]) -> None:
    """So its group and session are its own, and what is done to them is done to it."""
    assert os.getpgid(canary.pid) == os.getpgrp()
    for other in (os.getpid(), canary.pid):
        assert set(result_of(pool.submit(acts.leave_group, other)).values()) == {"PermissionError"}


# In a host of its own: where this fails, the host is what is hit.
_TURNED = """
import os, sys
from safepool import SafeProcessPoolExecutor
from security import acts
from features.acts import square
from support.rendezvous import report

if __name__ == "__main__":
    reports, folder, how = sys.argv[1:]
    pool = SafeProcessPoolExecutor(1)
    limit = {"task_timeout": 1.0} if how == "late" else {}
    hostile = pool.submit(acts.turn_lifeline_on, os.getpgrp(), folder, **limit)
    report(reports, "submitted")
    if how == "killed":
        sys.stdin.readline()
        hostile.kill()
    report(reports, "error", type(hostile.exception(60)).__name__)
    report(reports, "result", str(pool.submit(square, 3).result(60)))
    pool.shutdown()
"""


@pytest.mark.parametrize("how", ["killed", "late"])
def test_lifeline_that_a_task_turns_on_the_host_s_group_is_not_pulled_by_the_host(
    make_program, gate: Gate, how: str
) -> None:
    program = make_program()
    program.run_text(_TURNED, gate.folder, how)
    gate.wait_until_arrived()  # it is turned
    if how == "killed":
        assert program.process.stdin is not None
        program.process.stdin.write(b"now\n")
        program.process.stdin.flush()

    assert program.rendezvous.expect("error").detail in {"TaskKilledError", "TaskTimeoutError"}
    assert program.rendezvous.expect("result").detail == "9"
    assert program.finish() == 0
    program.leaves_nothing()


def test_worker_that_has_cut_its_lifeline_is_ended_by_the_janitor_after_its_host(make_host) -> None:
    host = make_host(max_workers=1)
    canary = host.canary()
    host.open_pool()
    gate = host.gate("gate")
    host.submit("hostile", "run_hostile", "cut_lifeline_and_leave", host.rendezvous.path, "hostile", gate.path)
    worker = host.hold_reported(["hostile"])
    left = {name: int(host.rendezvous.expect(f"hostile.{name}").detail) for name in ("escapee", "named")}
    everybody = {**worker, **host.hold(left)}
    hold_janitor(host)

    strike(host, "SIGKILL")

    gone(everybody)
    host.leaves_nothing()
    assert canary.alive()


def test_task_that_floods_its_stacks_does_not_fill_up_the_host(new_pool) -> None:
    pool = new_pool(1, grace=1.0)

    error = error_of(pool.submit(acts.flood_stacks_at_sigterm, task_timeout=0.5))

    assert isinstance(error, TaskTimeoutError)
    assert "flood_stacks_at_sigterm" in error.stack
    assert 4096 < len(error.stack) < 1 << 22
    assert result_of(pool.submit(square, 3)) == 9


def test_pid_that_a_task_makes_up_is_nobody_s_business(pool, canary: subprocess.Popen[bytes]) -> None:
    """The host takes no process's number from a worker: not even an error that claims to be of another's death."""
    forged = WorkerDiedError(task="forged", pid=canary.pid, exitcode=-9)

    error = error_of(pool.submit(acts.raise_it, forged))

    assert isinstance(error, WorkerDiedError)
    assert error.pid == canary.pid
    assert canary.poll() is None
    assert result_of(pool.submit(square, 3)) == 9
