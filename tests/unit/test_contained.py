"""A contained process begins armed, ends with its tree, and costs nothing once it is released."""

from __future__ import annotations

import errno
import multiprocessing
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from safepool._os import contained as contained_module
from safepool._os.contained import ContainedProcess, spawn
from safepool._os.janitor import Janitor, janitor
from safepool._os.lifeline import ArmedPipe
from safepool._os.marker import host_marker, marker_value
from safepool._os.register import read_leaders
from safepool._worker.boot import STACK_SIGNAL
from safepool._worker.launch import Preparation, launch
from support import census, tasks
from support.handles import gone
from support.proofs import new_counter, prove
from unit.brood import Brood, is_in_state

pytestmark = pytest.mark.timeout(60)

_LEAVES_CHILDREN = """
for label, step in (("member", lambda: None), ("escapee", os.setsid)):
    if not os.fork():
        step()
        say(label)
        stay()
say("first")
stay()
"""


@pytest.fixture
def hold() -> Iterator[Callable[[ContainedProcess], ContainedProcess]]:
    """Ends and releases what it is given, unless the test has."""
    held: list[ContainedProcess] = []

    def hold(contained: ContainedProcess) -> ContainedProcess:
        held.append(contained)
        return contained

    yield hold
    for contained in held:
        if contained.pidfd >= 0:
            contained.end_tree().run()
            contained.release()


@pytest.fixture
def start(brood: Brood, hold: Callable[[ContainedProcess], ContainedProcess]) -> Callable[[str], ContainedProcess]:
    def start(source: str) -> ContainedProcess:
        return hold(spawn(lambda *_: [sys.executable, "-I", "-S", "-c", brood.text(source)], {}))

    return start


def test_contained_process_has_session_group_and_marker_of_its_own(
    brood: Brood, start: Callable[[str], ContainedProcess]
) -> None:
    contained = start("say('first'); stay()")
    brood.hold("first")
    seen = census.look_at(contained.pid)
    assert seen is not None
    assert (seen.ppid, seen.pgid, seen.sid) == (os.getpid(), contained.pid, contained.pid)
    assert contained.marker.startswith(f"{host_marker()}_")
    assert f"{contained.marker}={marker_value()}".encode() in census.environment_of(contained.pid).split(b"\0")
    assert not contained.has_ended()


def test_contained_process_ends_with_its_tree_and_release_leaves_nothing(
    brood: Brood, start: Callable[[str], ContainedProcess]
) -> None:
    files, leaders = len(census.open_files()), read_leaders(janitor()._register.fd)
    contained = start(_LEAVES_CHILDREN)
    handles = brood.hold("first", "member", "escapee")
    assert len(read_leaders(janitor()._register.fd)) == len(leaders) + 1

    ending = contained.end_tree()
    ending.run()

    gone(handles)
    assert {remains.pid for remains in ending.ended} == {handles[name].pid for name in ("member", "escapee")}
    assert contained.exit_status() == -signal.SIGKILL
    assert census.look_at(contained.pid) is not None, "reaped before it was released: its number was not pinned"
    contained.release()
    assert census.look_at(contained.pid) is None
    assert read_leaders(janitor()._register.fd) == leaders
    assert len(census.open_files()) == files + len(handles)


@pytest.mark.parametrize("reaped", [False, True])
def test_group_of_a_process_that_died_is_ended(
    brood: Brood, start: Callable[[str], ContainedProcess], reaped: bool
) -> None:
    """Also where somebody has reaped it, and the number of the group may be anybody's."""
    contained = start(_LEAVES_CHILDREN)
    handles = brood.hold("first", "member", "escapee")
    contained._switch.disarm()  # else the kernel would have ended the group by itself
    handles["first"].send(signal.SIGKILL)
    is_in_state(contained.pid, "Z")
    if reaped:
        os.waitpid(contained.pid, 0)
    contained.end_tree().run()
    gone(handles)


def test_group_is_killed_by_the_lifeline_where_nothing_else_is_safe(
    brood: Brood, start: Callable[[str], ContainedProcess], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As before Linux 6.9, when somebody has reaped the first process."""
    contained = start(_LEAVES_CHILDREN)
    handles = brood.hold("first", "member", "escapee")
    contained._switch.disarm()
    handles["first"].send(signal.SIGKILL)
    is_in_state(contained.pid, "Z")
    os.waitpid(contained.pid, 0)
    with monkeypatch.context() as old:
        old.setattr(contained_module.process_exit, "send_signal", lambda *_, **__: False)
        assert not contained.signal_group(signal.SIGKILL)
    gone({name: handles[name] for name in ("first", "member")})


# --- stacks ---


def test_stack_of_a_process_that_holds_the_interpreter_lock_in_c_names_the_function(
    brood: Brood, hold: Callable[[ContainedProcess], ContainedProcess], tmp_path: Path
) -> None:
    beat = new_counter(tmp_path, "c")
    process = multiprocessing.get_context("spawn").Process(
        target=tasks.work_then_hang, args=(brood.meeting.path, "hung", "c", (), beat)
    )
    contained = hold(launch(process, Preparation(), {}))
    handles = brood.hold("hung")
    prove("c", contained.pid, beat)

    assert contained.request_stack(STACK_SIGNAL)

    written, until = b"", time.monotonic() + 30
    while b"work_then_hang" not in written and time.monotonic() < until:
        select.select([contained.stack_fd], [], [], 1)
        written += contained.read_stack()
    assert b"_hold_the_gil" in written
    assert handles["hung"].alive(), "what was written into the switch has ended it"


def test_stack_that_was_not_asked_for_is_empty(start: Callable[[str], ContainedProcess]) -> None:
    contained = start("stay()")
    os.set_blocking(contained.stack_fd, False)
    assert contained.read_stack() == b""


# --- starts that fail ---


def test_executable_that_does_not_exist_is_an_error_and_costs_nothing() -> None:
    files = census.open_files()
    with pytest.raises(FileNotFoundError):
        spawn(lambda *_: ["/nonexistent/python"], {})
    assert census.open_files().keys() == files.keys()


def test_process_that_was_started_half_way_is_ended_and_costs_nothing(
    brood: Brood, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No janitor can be had, for want of processes."""

    def refuse(_: Janitor) -> None:
        handles.update(brood.hold("first"))
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    handles = {}  # type: ignore[var-annotated]
    files, leaders = len(census.open_files()), read_leaders(janitor()._register.fd)
    monkeypatch.setattr(Janitor, "ensure", refuse)
    with pytest.raises(BlockingIOError):
        spawn(lambda *_: [sys.executable, "-I", "-S", "-c", brood.text("say('first'); stay()")], {})
    gone(handles)
    assert census.look_at(handles["first"].pid) is None, "it was not reaped"
    assert read_leaders(janitor()._register.fd) == leaders
    assert len(census.open_files()) == files + len(handles)


def test_process_whose_lifeline_cannot_be_armed_is_ended_and_not_waited_for(
    brood: Brood, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kernel that lacks F_SETSIG: closing the pipe ends nobody."""

    def refuse(_: ArmedPipe, __: int) -> None:
        handles.update(brood.hold("first"))
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    handles = {}  # type: ignore[var-annotated]
    monkeypatch.setattr(ArmedPipe, "arm", refuse)
    with pytest.raises(OSError, match=os.strerror(errno.EINVAL)):
        spawn(lambda *_: [sys.executable, "-I", "-S", "-c", brood.text("say('first'); stay()")], {})
    gone(handles)


def test_process_that_the_kernel_reaped_at_once_is_an_error_and_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with SIGCHLD ignored: there is a pidfd, and then no process any more."""
    files = census.open_files()
    monkeypatch.setattr(contained_module, "read_row", lambda _: None)
    with pytest.raises(ChildProcessError):
        spawn(lambda *_: ["true"], {})
    assert census.open_files().keys() == files.keys()
