"""The janitor is there while its host lives, sweeps after it, and touches nobody else."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from safepool._os import bare, features
from safepool._os import janitor as janitor_module
from safepool._os.janitor import Janitor, janitor
from safepool._os.process_table import read_row
from safepool._os.process_tree import Leader
from safepool._os.register import Register
from support import census
from support.eventually import eventually
from support.handles import gone
from support.hosts import Program
from unit.bare_host import BareHost
from unit.brood import Brood, in_forked_child

pytestmark = pytest.mark.timeout(60)


def start_of(pid: int) -> int:
    row = read_row(pid)
    assert row is not None
    return row.start


@pytest.fixture
def host(make_program: Callable[[], Program]) -> BareHost:
    return BareHost(make_program())


def test_janitor_is_no_child_of_its_host_and_has_a_session_of_its_own(host: BareHost) -> None:
    host.do("ensure")
    found = census.look_at(host.janitor().pid)
    assert found is not None
    assert host.program.process.pid not in (found.ppid, found.pgid, found.sid)
    assert found.terminal == 0
    assert os.readlink(f"/proc/{found.pid}/cwd") == "/"
    assert b"\0SAFEPOOL_" not in b"\0" + census.environment_of(found.pid)


def test_janitor_holds_nothing_of_its_host_s_but_the_register_and_the_pipe(host: BareHost) -> None:
    host.do("ensure")
    files = census.open_files(host.janitor().pid)
    kinds = sorted(file.split(":")[0] for number, file in files.items() if number > 2)
    assert {files[number] for number in range(3)} == {"/dev/null"}
    assert [kind for kind in kinds if kind != "anon_inode"] == ["/memfd", "socket"]  # a pidfd has two looks


def test_janitor_that_is_there_is_not_started_again(host: BareHost) -> None:
    host.do("ensure")
    first = host.janitor()
    for _ in range(3):
        host.do("ensure")
    assert host.janitor().pid == first.pid


def test_process_that_started_the_janitor_is_reaped_by_an_ensure_once_the_janitor_is_up(host: BareHost) -> None:
    host.do("ensure")
    host.janitor()
    eventually(lambda: host.do("ensure") or not census.zombies_of(host.program.process.pid))


def test_janitor_that_was_killed_is_replaced_at_the_next_ensure(host: BareHost) -> None:
    host.do("ensure")
    first = host.janitor()
    first.send(signal.SIGKILL)
    gone({"janitor": first})
    host.do("ensure")
    second = host.janitor()
    assert second.pid != first.pid
    escapee = host.start("marked", "escapee")
    host.die()
    gone({"janitor": second, "escapee": escapee})


def test_janitor_leaves_when_its_host_was_killed(host: BareHost) -> None:
    host.do("ensure")
    found = host.janitor()
    host.die()
    gone({"janitor": found})
    host.program.leaves_nothing()


def test_janitor_sweeps_whoever_carries_the_marker(host: BareHost) -> None:
    """It is on no register, and in a session of its own."""
    host.do("ensure")
    everybody = {"janitor": host.janitor(), "escapee": host.start("marked", "escapee")}
    host.die()
    gone(everybody)


def test_janitor_sweeps_the_trees_on_the_register_and_spares_those_struck_off(host: BareHost) -> None:
    entered, struck = host.start("unmarked", "entered"), host.start("unmarked", "struck")
    for label in ("struck", "entered"):
        host.do("enter", label)
    host.do("strike", "struck")
    found = host.janitor()
    host.die()
    gone({"janitor": found, "entered": entered})
    assert struck.alive()


def test_janitor_sweeps_an_escapee_that_is_older_than_every_tree_on_the_register(host: BareHost) -> None:
    """The tree that it came from was struck off, and something had kept it from being ended."""
    escapee = host.start("marked", "escapee")
    labels = (f"later{number}" for number in range(100))
    later = next(label for label in labels if start_of(host.start("unmarked", label).pid) > start_of(escapee.pid))
    host.do("enter", later)
    found = host.janitor()
    host.die()
    gone({"janitor": found, "escapee": escapee})


def test_janitor_spares_processes_of_other_hosts_and_of_no_pool(host: BareHost, brood: Brood) -> None:
    host.do("ensure")
    other = f"SAFEPOOL_{os.urandom(16).hex()}_1"
    strangers = [host.start("of", other, "other"), host.start("unmarked", "free")]
    strangers.append(brood.take(brood.sleeper(env={other: "1"}).pid))
    swept = {"janitor": host.janitor(), "escapee": host.start("marked", "escapee")}
    host.die()
    gone(swept)
    assert all(stranger.alive() for stranger in strangers)


def test_janitor_sweeps_when_its_host_becomes_another_program(host: BareHost) -> None:
    """The process lives on under its number; its descriptors are gone."""
    host.do("ensure")
    swept = {"janitor": host.janitor(), "escapee": host.start("marked", "escapee")}
    host.tell("become")
    gone(swept)
    assert host.program.process.poll() is None


@pytest.mark.parametrize("how", ["python", "c"])
def test_forked_child_that_holds_every_descriptor_of_the_host_does_not_delay_the_sweep(
    host: BareHost, how: str
) -> None:
    """A fork in C runs no hook that would close anything."""
    host.do("ensure")
    swept = {"janitor": host.janitor(), "escapee": host.start("marked", "escapee")}
    host.do("fork", "child", how)
    child = host.program.hold_reported(["child"])["child"]
    host.die()
    gone(swept)
    assert child.alive()


@pytest.fixture
def janitor_without_setsig(monkeypatch: pytest.MonkeyPatch) -> Iterator[Janitor]:
    """One that all rests on; it leaves when its pipe is closed."""
    monkeypatch.setitem(features._missing, "setsig", "not for this test")
    janitor = Janitor()
    yield janitor
    janitor._forget()
    os.close(janitor._register.fd)


def test_janitor_that_all_rests_on_is_up_when_it_is_said_to_stand_by(janitor_without_setsig: Janitor) -> None:
    """The process that was started for it is reaped, so the janitor is a process of its own."""
    janitor_without_setsig.stand_by()
    assert janitor_without_setsig._is_up
    assert janitor_without_setsig._starter is None
    life_fd = janitor_without_setsig.life_fd
    janitor_without_setsig.stand_by()
    assert janitor_without_setsig.life_fd == life_fd


def test_janitor_that_does_not_come_up_is_an_error_where_all_rests_on_it(
    janitor_without_setsig: Janitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(janitor_module, "_PATIENCE", 0.3)
    monkeypatch.setattr(janitor_module, "_PROGRAM", "0  # {arguments}")
    with pytest.raises(OSError, match="the janitor, which is to end what this process starts, does not come up"):
        janitor_without_setsig.stand_by()


def test_janitor_is_not_waited_for_where_the_kernel_does_the_work() -> None:
    janitor = Janitor()
    janitor.stand_by()
    assert janitor.life_fd == -1
    os.close(janitor._register.fd)


def test_forked_child_of_a_host_has_a_janitor_of_its_own() -> None:
    assert janitor() is janitor()
    assert in_forked_child(lambda: str(janitor().life_fd)) == "-1"
    assert janitor().life_fd != -1


def test_janitor_whose_host_died_before_it_was_up_sweeps_all_the_same(brood: Brood) -> None:
    """1. The host starts it. 2. The host dies. 3. It comes up, and finds the other end of its pipe closed."""
    dead = brood.start(["true"])
    start_of_dead = start_of(dead.pid)
    dead.wait(30)
    marker = f"{brood.mark}_HOST"
    entered = brood.python("say('entered'); stay()")
    handles = brood.hold("entered")
    brood.python("say('escapee'); stay()", env={f"{marker}_1": "1"})
    handles |= brood.hold("escapee")
    register = Register()
    register.enter(Leader(entered.pid, start_of(entered.pid)))
    ours, theirs = socket.socketpair()
    ours.close()
    with theirs:
        arguments = (dead.pid, start_of_dead, marker, register.fd, theirs.fileno())
        program = bare._OPENING + janitor_module._PROGRAM.format(arguments=arguments)
        command = [sys.executable, "-I", "-S", "-c", program]
        starter = brood.start(command, pass_fds=[register.fd, theirs.fileno()], stderr=subprocess.DEVNULL)
    os.close(register.fd)
    assert starter.wait(30) == 0
    gone(handles)
