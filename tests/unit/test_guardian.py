"""A guardian: it starts what it is told to, or says why not; what loses its parent beneath it is found."""

from __future__ import annotations

import errno
import os
import signal
import socket
import sys

import pytest

from safepool._os import contained as contained_module
from safepool._os import guardian as guardian_module
from safepool._os import process_exit, process_tree
from safepool._os.contained import ContainedProcess, spawn
from safepool._os.guardian import Guardian, make_sure, wait_for_news
from safepool._os.marker import next_worker_marker
from safepool._os.process_table import ProcessRow, list_rows, read_row
from safepool._os.process_tree import Leader, TreeEnding
from safepool._os.tree_members import TreeMembers
from support import census
from support.eventually import eventually
from support.handles import Handle, gone
from unit.brood import Brood, is_in_state

pytestmark = pytest.mark.timeout(60)


def start(*command: str) -> ContainedProcess:
    return spawn(lambda *_: list(command), {}, strict_by="guardian")


def end(contained: ContainedProcess) -> None:
    contained.end_tree().run()
    contained.release()


def leader_of(pid: int) -> Leader:
    row = read_row(pid)
    assert row is not None
    return Leader(row.pid, row.start)


def guardians() -> list[census.Seen]:
    """Those of this process, zombies included."""
    everybody = census.children_of(os.getpid()) + census.zombies_of(os.getpid())
    return [seen for seen in everybody if "resource_tracker" not in seen.command]


# --- starts ---


def test_command_is_started_with_its_arguments_as_they_are(brood: Brood) -> None:
    source = brood.text("say('first', '|'.join(sys.argv[1:])); stay()")
    contained = start(sys.executable, "-I", "-S", "-c", source, "", "two words", "ü")
    heard = brood.meeting.expect("first")
    assert (heard.pid, heard.detail) == (contained.pid, "|two words|ü")
    end(contained)


def test_command_is_looked_for_on_the_path() -> None:
    contained = start("true")
    assert contained.has_ended(30)
    assert contained.exit_status() == 0
    end(contained)
    assert contained.exit_status() == 0


@pytest.mark.parametrize(
    ("command", "number"),
    [
        (["/nonexistent/python"], errno.ENOENT),
        (["nothing-of-that-name"], errno.ENOENT),
        (["/"], errno.EACCES),
        (["true", "x" * (1 << 18)], errno.E2BIG),
    ],
)
def test_command_that_cannot_be_started_is_the_error_of_any_other_and_costs_nothing(
    command: list[str], number: int
) -> None:
    files, before = census.open_files(), guardians()
    with pytest.raises(OSError) as plain:
        spawn(lambda *_: command, {})
    with pytest.raises(OSError) as guarded:
        start(*command)
    assert type(guarded.value) is type(plain.value)
    assert guarded.value.errno == plain.value.errno == number
    assert guarded.value.filename == plain.value.filename
    assert census.open_files().keys() == files.keys()
    assert guardians() == before


def test_command_that_no_process_can_have_is_refused_and_costs_nothing() -> None:
    files = census.open_files()
    with pytest.raises(ValueError, match="embedded null byte"):
        start("true", "a\0b")
    assert census.open_files().keys() == files.keys()


def test_guardian_that_ends_before_it_has_started_anything_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    files, before = census.open_files(), guardians()
    monkeypatch.setattr(guardian_module, "_PROGRAM", "raise SystemExit(3)")
    with pytest.raises(ChildProcessError, match="before it had started its worker"):
        start("true")
    assert census.open_files().keys() == files.keys()
    assert guardians() == before


def test_guardian_that_says_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    files, before = census.open_files(), guardians()
    monkeypatch.setattr(guardian_module, "_PROGRAM", "import time; time.sleep(900)")
    monkeypatch.setattr(guardian_module, "_START_LIMIT", 0.01)
    monkeypatch.setattr(guardian_module, "_LEAVE_LIMIT", 0.01)
    with pytest.raises(ChildProcessError, match="did not answer"):
        start("true")
    assert census.open_files().keys() == files.keys()
    assert guardians() == before


def test_guardian_that_dies_before_it_is_watched_is_an_error_and_its_worker_goes_with_it(
    brood: Brood, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Arming does not fire for what was before: the look afterwards tells."""

    def strike_first(guardian: Guardian, group: int) -> None:
        handles["first"] = brood.hold("first")["first"]
        os.kill(guardian.leader.pid, signal.SIGKILL)
        is_in_state(guardian.leader.pid, "Z")
        watch(guardian, group)

    handles: dict[str, Handle] = {}
    watch = Guardian.watch
    monkeypatch.setattr(Guardian, "watch", strike_first)
    with pytest.raises(ChildProcessError, match="was killed as soon as"):
        start(sys.executable, "-I", "-S", "-c", brood.text("say('first'); stay()"))
    gone(handles)


def test_that_there_can_be_one_is_found_out_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guardian_module, "_is_proven", False)
    before = guardians()
    make_sure()
    assert guardians() == before
    monkeypatch.setattr(guardian_module, "_PROGRAM", "raise SystemExit(3)")
    make_sure()


def test_who_waits_for_what_a_guardian_tells_keeps_nobody_else_from_asking(monkeypatch: pytest.MonkeyPatch) -> None:
    """The supervisor asks, too, and has others to look after."""

    def wait(news: int) -> None:
        was_locked.append(contained._lock.locked())
        wait_for_news(news)

    was_locked: list[bool] = []
    monkeypatch.setattr(guardian_module, "_TOLD_LIMIT", 0.01)
    monkeypatch.setattr(contained_module, "wait_for_news", wait)
    with monkeypatch.context() as fault:
        mute = "from safepool._os import guarding; guarding.tell = lambda *_: None; "
        fault.setattr(guardian_module, "_PROGRAM", mute + guardian_module._PROGRAM)
        contained = start("false")
    assert contained.has_ended(30)
    assert contained.exit_status() is None
    assert was_locked == [False]
    end(contained)


def test_whether_it_has_told_is_known_at_once_whatever_the_program_has_set_for_its_sockets(brood: Brood) -> None:
    socket.setdefaulttimeout(900)
    try:
        contained = start(sys.executable, "-I", "-S", "-c", brood.text("say('first'); stay()"))
        brood.meeting.expect("first")
        assert contained._guardian is not None
        assert not contained._guardian.has_told()
        end(contained)
    finally:
        socket.setdefaulttimeout(None)


def test_exit_status_is_there_for_everybody_who_asks() -> None:
    contained = start("false")
    assert contained.has_ended(30)
    assert [contained.exit_status() for _ in range(2)] == [1, 1]
    end(contained)
    assert contained.exit_status() == 1


# --- what it is for ---

_LEAVES_AN_ORPHAN = """
if not os.fork():
    os.setsid()
    if not os.fork():
        say("orphan")
        stay()
    os._exit(0)
os.wait()
say("first")
stay()
"""


def test_orphan_is_ended_with_the_guardian_s_worker(brood: Brood) -> None:
    contained = start(sys.executable, "-I", "-S", "-c", brood.text(_LEAVES_AN_ORPHAN))
    handles = brood.hold("first", "orphan")
    ending = contained.end_tree()
    ending.begin()
    gone(handles)
    assert census.look_at(contained.pid) is not None, "reaped before all is known to be over: its number was not pinned"
    ending.run()
    assert handles["orphan"].pid in {remains.pid for remains in ending.ended}
    assert census.look_at(contained.pid) is None
    contained.release()


def test_guardian_ends_whoever_its_host_has_missed(brood: Brood) -> None:
    """It waits for its children: what the kernel knows is no list that somebody can outrun."""
    guardian = Guardian(
        [sys.executable, "-I", "-S", "-c", brood.text(_LEAVES_AN_ORPHAN)], dict(os.environ), (), next_worker_marker()
    )
    handles = brood.hold("first", "orphan")
    guardian.release()
    assert not any(handle.alive() for handle in handles.values())
    assert all(census.look_at(handle.pid) is None for handle in handles.values()), "not reaped"


def test_group_of_a_guardian_s_worker_is_signalled_by_its_number_where_it_is_pinned(
    brood: Brood, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As before Linux 6.9."""
    contained = start(sys.executable, "-I", "-S", "-c", brood.text(_LEAVES_AN_ORPHAN))
    handles = brood.hold("first", "orphan")
    with monkeypatch.context() as old:
        old.setattr(contained_module.process_exit, "send_signal", lambda *_, **__: False)
        assert contained.signal_group(signal.SIGSTOP)
    is_in_state(contained.pid, "T")
    end(contained)
    gone(handles)


# A guardian, a worker, and a chain of three beneath it, each in a session of its own; whoever has a child, reaps it.
_FAMILY = """
import ctypes
ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER
def wait():
    while True:
        try:
            os.wait()
        except ChildProcessError:
            stay()
if not os.fork():
    os.setsid()
    if not os.fork():
        os.setsid()
        if not os.fork():
            os.setsid()
            if not os.fork():
                os.setsid()
                say("orphan")
                stay()
            say("parent")
            stay()
        say("child")
        wait()
    say("worker")
    wait()
say("guardian")
wait()
"""
_NO_MARKER = b"NOBODY_CARRIES_THIS="


def family(brood: Brood) -> dict[str, Handle]:
    brood.python(_FAMILY)
    return brood.hold("guardian", "worker", "child", "parent", "orphan")


def test_orphan_that_loses_its_parent_between_two_looks_is_found(brood: Brood, monkeypatch: pytest.MonkeyPatch) -> None:
    """1. The child is read. 2. Its parent dies, and is reaped. 3. The parent is looked for."""
    handles = family(brood)
    worker, guardian = leader_of(handles["worker"].pid), leader_of(handles["guardian"].pid)
    struck = []

    def read(pid: int) -> ProcessRow | None:
        row = read_row(pid)
        if pid == handles["orphan"].pid and not struck:
            struck.append(row)
            handles["parent"].send(signal.SIGKILL)
            eventually(lambda: census.look_at(handles["parent"].pid) is None)
        return row

    monkeypatch.setattr(process_tree, "read_row", read)
    ending = TreeEnding(
        [worker],
        _NO_MARKER,
        lambda _, signum: process_exit.send_signal(handles["worker"].fileno(), signum, group=True),
        guardian=guardian,
    )
    ending.begin()
    assert struck
    assert struck[0].parent == handles["parent"].pid, "the fault never happened: it was an orphan already"
    assert handles["orphan"].pid in {remains.pid for remains in ending.ended}, "only the last look would have found it"
    ending.run()
    assert not handles["orphan"].alive()
    assert handles["guardian"].alive()


def test_number_of_a_guardian_that_is_another_s_by_now_makes_nobody_a_member(brood: Brood) -> None:
    handles = family(brood)
    worker, guardian = leader_of(handles["worker"].pid), leader_of(handles["guardian"].pid)
    handles["parent"].send(signal.SIGKILL)
    eventually(lambda: read_row(handles["orphan"].pid).parent == guardian.pid)  # type: ignore[union-attr]
    rows = list(list_rows(worker.start))
    impostor = Leader(guardian.pid, guardian.start - 1)
    ours = {handles["worker"].pid, handles["child"].pid}
    assert TreeMembers(worker, _NO_MARKER, guardian=guardian).find(rows) == {*ours, handles["orphan"].pid}
    assert TreeMembers(worker, _NO_MARKER, guardian=impostor).find(rows) == ours

    ending = TreeEnding(
        [worker],
        _NO_MARKER,
        lambda _, signum: process_exit.send_signal(handles["worker"].fileno(), signum, group=True),
        guardian=impostor,
    )
    ending.run()
    assert not handles["worker"].alive()
    assert handles["orphan"].alive()
