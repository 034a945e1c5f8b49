"""A pidfd tells when a process ended, and how, whoever reaps it; what stands in for one tells as much as it can."""

from __future__ import annotations

import json
import os
import platform
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from safepool._os import exit_watch, features, process_exit
from support.eventually import eventually
from support.handles import gone
from unit.brood import PACKAGE_ROOT, Brood, is_in_state

pytestmark = pytest.mark.timeout(60)

_LINUX = tuple(map(int, re.findall(r"\d+", platform.release())[:2]))
KERNEL_TELLS = _LINUX >= (6, 15)  # PIDFD_GET_INFO with the exit status
GROUPS_BY_PIDFD = _LINUX >= (6, 9)

ENDS = [
    ("exit 0", 0),
    ("exit 255", 255),
    ("kill -KILL $$", -signal.SIGKILL),
    ("kill -SEGV $$", -signal.SIGSEGV),  # the kernel notes a core dump beside the signal
]


@pytest.fixture(params=["pidfd", "watch"], autouse=True)
def has_pidfds(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[bool]:
    """Once as it is, and once as without pidfds; nobody is watched any more when the test is over."""
    has = bool(request.param == "pidfd")
    if not has:
        monkeypatch.setitem(features._missing, "pidfd", "not for this test")
    yield has
    eventually(lambda: not exit_watch._is_running)


@pytest.fixture
def hold() -> Iterator[Callable[[int], int]]:
    held = []

    def hold(pid: int) -> int:
        pidfd = process_exit.open_pidfd(pid)
        assert pidfd is not None
        held.append(pidfd)
        return pidfd

    yield hold
    for pidfd in held:
        os.close(pidfd)


def test_number_of_the_dead_that_still_names_a_session_of_the_living_is_nobody_s(brood: Brood) -> None:
    """A dead host's number is that when its own children live on; some kernels have another error for it."""
    leader = brood.python("if not os.fork():\n    say('member')\n    stay()")
    leader.wait(30)
    member = brood.hold("member")["member"]
    assert os.getsid(member.pid) == leader.pid
    assert process_exit.open_pidfd(leader.pid) is None


@pytest.mark.parametrize(("script", "status"), ENDS)
def test_end_is_told_and_stays_known_until_it_is_reaped(
    brood: Brood, hold: Callable[[int], int], script: str, status: int
) -> None:
    pidfd = hold(brood.start(["sh", "-c", script]).pid)
    assert process_exit.has_ended(pidfd, 30)
    assert process_exit.read_exit_status(pidfd) == status
    assert process_exit.read_exit_status(pidfd) == status
    assert process_exit.is_unreaped_child(pidfd)
    process_exit.reap(pidfd)
    assert not process_exit.is_unreaped_child(pidfd)
    assert process_exit.has_ended(pidfd)


@pytest.mark.parametrize(("script", "status"), ENDS)
def test_end_is_told_after_somebody_else_reaped_it(
    brood: Brood, hold: Callable[[int], int], has_pidfds: bool, script: str, status: int
) -> None:
    process = brood.start(["sh", "-c", script])
    pidfd = hold(process.pid)
    process.wait(30)
    assert process_exit.has_ended(pidfd)
    assert process_exit.read_exit_status(pidfd) == (status if KERNEL_TELLS and has_pidfds else None)
    process_exit.reap(pidfd)  # has nothing to do, and does not mind


@pytest.mark.parametrize("stopped", [False, True])
def test_living_process_has_not_ended(brood: Brood, hold: Callable[[int], int], stopped: bool) -> None:
    process = brood.sleeper()
    pidfd = hold(process.pid)
    if stopped:
        process.send_signal(signal.SIGSTOP)
        is_in_state(process.pid, "T")
    assert not process_exit.has_ended(pidfd)
    assert not process_exit.has_ended(pidfd, 0.01)
    assert process_exit.read_exit_status(pidfd) is None
    assert process_exit.is_unreaped_child(pidfd)


def test_stop_is_told_once_and_does_not_hide_the_end(brood: Brood, hold: Callable[[int], int]) -> None:
    process = brood.sleeper()
    pidfd = hold(process.pid)
    assert process_exit.read_stop(pidfd) is None
    for _ in range(2):
        process.send_signal(signal.SIGSTOP)
        is_in_state(process.pid, "T")
        assert process_exit.read_stop(pidfd) == signal.SIGSTOP
        assert process_exit.read_stop(pidfd) is None
        process.send_signal(signal.SIGCONT)
        is_in_state(process.pid, "S")
    process.kill()
    assert process_exit.has_ended(pidfd, 30)
    assert process_exit.read_stop(pidfd) is None
    assert process_exit.read_exit_status(pidfd) == -signal.SIGKILL
    process_exit.reap(pidfd)
    assert process_exit.read_stop(pidfd) is None


def test_process_that_is_no_child_is_no_unreaped_child(brood: Brood, hold: Callable[[int], int]) -> None:
    assert not process_exit.is_unreaped_child(hold(os.getpid()))
    brood.python("if os.fork(): stay()\nsay('grandchild'); stay()")
    grandchild = brood.hold("grandchild")["grandchild"]
    pidfd = hold(grandchild.pid)
    assert not process_exit.is_unreaped_child(pidfd)
    grandchild.send(signal.SIGKILL)
    assert process_exit.has_ended(pidfd, 30)


def test_pidfd_of_nobody_is_none() -> None:
    assert process_exit.open_pidfd(1 << 23) is None  # beyond the largest number that Linux can be told to give


def test_pidfd_is_not_inherited(hold: Callable[[int], int]) -> None:
    assert not os.get_inheritable(hold(os.getpid()))


# --- signals ---


def test_signal_reaches_the_process_and_not_its_group(brood: Brood, hold: Callable[[int], int]) -> None:
    leader = brood.python("if not os.fork(): say('member'); stay()\nsay('leader'); stay()")
    handles = brood.hold("leader", "member")
    assert process_exit.send_signal(hold(leader.pid), signal.SIGKILL)
    gone({"leader": handles["leader"]})
    assert handles["member"].alive()


def test_signal_to_the_group_reaches_every_member_or_says_that_it_cannot(
    brood: Brood, hold: Callable[[int], int], has_pidfds: bool
) -> None:
    leader = brood.python("if not os.fork(): say('member'); stay()\nsay('leader'); stay()")
    handles = brood.hold("leader", "member")
    can = GROUPS_BY_PIDFD and has_pidfds
    assert process_exit.send_signal(hold(leader.pid), signal.SIGKILL, group=True) == can
    if can:
        gone(handles)


def test_signal_to_the_group_can_be_done_without(
    brood: Brood, hold: Callable[[int], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(features._missing, "pidfd_group", "not for this test")
    process = brood.sleeper()
    assert not process_exit.send_signal(hold(process.pid), signal.SIGKILL, group=True)
    assert process.poll() is None


@pytest.mark.skipif(not GROUPS_BY_PIDFD, reason="needs Linux 6.9")
@pytest.mark.parametrize("has_pidfds", ["pidfd"], indirect=True)
def test_signal_to_the_group_of_a_reaped_leader_reaches_those_that_are_left(
    brood: Brood, hold: Callable[[int], int]
) -> None:
    leader = brood.python("if not os.fork(): say('member'); stay()\nsay('leader'); stay()")
    handles = brood.hold("leader", "member")
    pidfd = hold(leader.pid)
    handles.pop("leader").send(signal.SIGKILL)
    leader.wait(30)
    assert process_exit.send_signal(pidfd, signal.SIGKILL, group=True)
    gone(handles)


@pytest.mark.parametrize("group", [False, True])
def test_signal_to_a_process_that_is_gone_returns_false(brood: Brood, hold: Callable[[int], int], group: bool) -> None:
    process = brood.start(["true"])
    pidfd = hold(process.pid)
    process.wait(30)
    assert not process_exit.send_signal(pidfd, signal.SIGKILL, group=group)


@pytest.mark.skipif(not KERNEL_TELLS, reason="the kernel does not tell how a process ended that somebody else reaped")
@pytest.mark.parametrize("has_pidfds", ["pidfd"], indirect=True)
def test_status_that_is_written_down_a_moment_after_the_reaping_is_read(
    brood: Brood, hold: Callable[[int], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    process = brood.start(["sh", "-c", "read _; exit 7"], stdin=subprocess.PIPE)
    pidfd = hold(process.pid)
    process.communicate(timeout=30)
    ioctl = process_exit.fcntl.ioctl
    asked = []

    def answer_late(fd: int, request: int, argument: bytes) -> bytes:
        asked.append(fd)
        return bytes(len(argument)) if len(asked) <= 3 else ioctl(fd, request, argument)

    monkeypatch.setattr(process_exit.fcntl, "ioctl", answer_late)
    assert process_exit.read_exit_status(pidfd) == 7
    assert len(asked) == 4


# --- in a host that makes waiting hard ---

_HOST = """
import json, os, signal, subprocess, sys, threading
sys.path.insert(0, sys.argv[1])
from safepool._os import process_exit

def steal():
    while True:
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            os.read(another, 1)  # until there is a child again

if sys.argv[2] == "ignored":
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
another, started = os.pipe()
if sys.argv[2] == "stolen":
    threading.Thread(target=steal, daemon=True).start()
told = []
for script in sys.argv[3:]:
    process = subprocess.Popen(["sh", "-c", "read _; " + script], stdin=subprocess.PIPE)
    os.write(started, b".")
    pidfd = process_exit.open_pidfd(process.pid)
    process.stdin.close()
    told.append(process_exit.has_ended(pidfd, 30))
    while process_exit.is_unreaped_child(pidfd):
        pass
    told.append(process_exit.read_exit_status(pidfd))
    process_exit.reap(pidfd)
    process.returncode = 0
print(json.dumps(told), flush=True)
os._exit(0)
"""


@pytest.mark.parametrize("obstacle", ["ignored", "stolen"])
def test_end_is_told_in_a_host_where_others_reap(brood: Brood, has_pidfds: bool, obstacle: str) -> None:
    scripts = ["exit 7", "kill -KILL $$", "exit 0"]
    command = [sys.executable, "-I", "-S", "-c", _HOST, PACKAGE_ROOT, obstacle, *scripts]
    host = brood.start(command, stdout=subprocess.PIPE, env={} if has_pidfds else {"SAFEPOOL_DISABLE": "pidfd"})
    output, _ = host.communicate(timeout=50)
    expected = [7, -signal.SIGKILL, 0] if KERNEL_TELLS and has_pidfds else [None] * 3
    assert json.loads(output) == [fact for status in expected for fact in (True, status)]
