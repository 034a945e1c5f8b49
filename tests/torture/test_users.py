"""Hosts without privileges, that see little of the machine, and descendants that have changed their user."""

from __future__ import annotations

import os
import re
import shutil
import signal
from pathlib import Path

import pytest

from support import census
from support.eventually import eventually
from support.handles import gone
from support.scenes import hang_everywhere, host_dies, strike
from torture.users import AS_A_USER, HIDDEN, NEEDS_ROOT, USER

pytestmark = [pytest.mark.torture, pytest.mark.timeout(180), NEEDS_ROOT]

LIMIT = 5.0  # seconds; enough to get there first


def users_of(pid):
    """Its real, effective and saved user."""
    status = Path(f"/proc/{pid}/status").read_text()
    return tuple(map(int, re.search(r"^Uid:\s*(\d+)\s+(\d+)\s+(\d+)", status, re.MULTILINE).groups()))


@pytest.mark.parametrize("launcher", [AS_A_USER, HIDDEN], ids=["unprivileged", "hidepid"])
@pytest.mark.parametrize("kind", ["c", "deaf"])
def test_host_without_privileges_that_is_sigkilled_leaves_nothing(make_host, measured, launcher, kind):
    host = make_host(max_workers=2, launcher=launcher)
    assert users_of(host.process.pid) == (USER, USER, USER)
    measured("gone_ms", host_dies(host, kind, "SIGKILL"))


@pytest.mark.parametrize("launcher", [AS_A_USER, HIDDEN], ids=["unprivileged", "hidepid"])
def test_deadline_holds_without_privileges(make_host, launcher):
    host = make_host(max_workers=2, launcher=launcher)
    host.open_pool()
    host.submit("sees", "torture.acts:sees_process", 1)
    assert host.outcome("sees") == {"value": launcher is AS_A_USER}
    everybody = hang_everywhere(host, "deaf", timeout=LIMIT)
    for name in ("w0", "w1"):
        assert host.outcome(name)["error"] == "TaskTimeoutError"
    gone(everybody)
    host.tell("return")
    assert host.finish() == 0
    host.leaves_nothing()


@pytest.fixture
def made_root(tmp_path):
    """A copy of a program that makes whoever runs it effectively root."""

    def make(program):
        copy = tmp_path / program
        shutil.copy(shutil.which(program), copy)
        copy.chmod(0o4755)
        if os.statvfs(copy).f_flag & os.ST_NOSUID:
            pytest.skip("the file system of temporary files ignores set-user-id")
        return str(copy)

    return make


@pytest.mark.parametrize("end", ["killed", "deadline", "host killed"])
def test_set_user_id_program_in_the_group_goes_with_it(make_host, made_root, end):
    """It has kept its real user, who may signal it, and no other is needed."""
    host, everybody, member = start_member(make_host, [made_root("sleep"), "900"], end)
    assert users_of(member.pid) == (USER, 0, 0)
    bring_about(host, everybody, end)
    gone({**everybody, "member": member})
    if end == "host killed":
        host.leaves_nothing()


@pytest.mark.parametrize("end", ["killed", "deadline", "host killed"])
def test_descendant_that_has_changed_its_user_for_good_is_missed_and_nobody_else(make_host, made_root, end):
    """The documented miss, exactly: nobody may signal it, and that costs the task's future five seconds."""
    command = [made_root("setpriv"), "--reuid=0", "--regid=0", "--clear-groups", "sleep", "900"]
    host, everybody, member = start_member(make_host, command, end)
    eventually(lambda: users_of(member.pid) == (0, 0, 0))
    try:
        bring_about(host, everybody, end)
        gone(everybody)
        assert member.alive()
        if end != "host killed":
            assert f"would not die: [{member.pid}]" in host.stderr
    finally:
        host.spared.append(member.pid)
        member.send(signal.SIGKILL)
    if end == "host killed":
        host.leaves_nothing()


def start_member(make_host, command, end):
    host = make_host(max_workers=1, launcher=AS_A_USER)
    host.open_pool()
    arguments = (host.rendezvous.path, "task", command)
    limit = LIMIT if end == "deadline" else None
    host.submit("task", "torture.acts:start_as_another", *arguments, timeout=limit)
    everybody = host.hold_reported(["task", "task.plain", "task.setsid"])

    def members():
        found = census.in_group(everybody["task"].pid)
        return [seen for seen in found if seen.command == f"{command[0]} 900" or seen.command == "sleep 900"]

    def changed():
        return [seen for seen in members() if users_of(seen.pid) != (USER, USER, USER)]

    (member,) = eventually(changed)
    return host, everybody, host.hold({"member": member.pid})["member"]


def bring_about(host, everybody, end):
    if end == "killed":
        everybody["task"].send(signal.SIGKILL)
    elif end == "host killed":
        strike(host, "SIGKILL")
    if end != "host killed":
        assert host.outcome("task")["error"] == ("WorkerDiedError" if end == "killed" else "TaskTimeoutError")
