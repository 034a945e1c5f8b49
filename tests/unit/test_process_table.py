"""What /proc says, for processes with awkward names, without threads, without life, or without existence."""

from __future__ import annotations

import os
import platform
import shutil
import signal
import sys
from pathlib import Path

import pytest

from safepool._os.process_table import command_of, environment_of, is_exiting, list_rows, read_row
from support import census
from support.eventually import eventually
from unit.brood import Brood, is_in_state

pytestmark = pytest.mark.timeout(60)

NOBODY = 1 << 23  # beyond the largest number that Linux can be told to give
_EXIT = {"x86_64": 60, "aarch64": 93}  # the system call that ends one thread


@pytest.mark.parametrize(
    "name",
    ["a) b (", ") Z 1 1 1 (", "new\nline", "  ", "()", "))))", "ends in )", "Z", "naïve 名"],
    ids=["parentheses", "forged", "newline", "blanks", "pair", "closing", "last", "letter", "unicode"],
)
def test_row_is_right_whatever_the_process_is_called(brood: Brood, tmp_path: Path, name: str) -> None:
    program = tmp_path / name
    program.symlink_to(str(shutil.which("sleep")))
    process = brood.start(["sleep", "900"], executable=str(program))
    is_in_state(process.pid, "S")

    row = read_row(process.pid)

    seen = census.look_at(process.pid)
    assert row is not None
    assert seen is not None
    assert (row.pid, row.parent, row.group, row.session) == (process.pid, os.getpid(), process.pid, process.pid)
    assert (row.state, row.threads, row.start) == ("S", 1, seen.started)
    assert not row.is_dead


def test_row_counts_threads(brood: Brood) -> None:
    process = brood.python("import threading; threading.Thread(target=stay, daemon=True).start(); say('two'); stay()")
    brood.hold("two")
    row = read_row(process.pid)
    assert row is not None
    assert row.threads == 2


def test_zombie_is_dead(brood: Brood) -> None:
    process = brood.start(["true"])
    is_in_state(process.pid, "Z")
    row = read_row(process.pid)
    assert row is not None
    assert row.is_dead
    assert (command_of(process.pid), environment_of(process.pid)) == ("", b"")


@pytest.mark.parametrize("state", ["T", "S"])
def test_stopped_or_sleeping_process_is_not_dead(brood: Brood, state: str) -> None:
    process = brood.sleeper()
    if state == "T":
        process.send_signal(signal.SIGSTOP)
    is_in_state(process.pid, state)
    row = read_row(process.pid)
    assert row is not None
    assert not row.is_dead


@pytest.mark.skipif(platform.machine() not in _EXIT, reason="the number of the system call is not known here")
def test_process_whose_first_thread_has_ended_while_another_runs_is_not_dead(brood: Brood) -> None:
    source = f"""
    import ctypes, threading
    libc = ctypes.CDLL(None)
    threading.Thread(target=libc.pause, daemon=True).start()
    say("ready")
    libc.syscall({_EXIT.get(platform.machine())}, 0)
    """
    process = brood.python(source)
    brood.hold("ready")
    is_in_state(process.pid, "Z")
    row = read_row(process.pid)
    assert row is not None
    assert (row.state, row.is_dead) == ("Z", False)
    assert not is_exiting(process.pid)


def test_process_that_has_ended_is_exiting_and_one_that_sleeps_is_not(brood: Brood) -> None:
    process = brood.sleeper()
    assert not is_exiting(process.pid)
    process.kill()
    is_in_state(process.pid, "Z")
    assert is_exiting(process.pid)
    process.wait(30)
    assert not is_exiting(process.pid)


def test_vanished_process_is_none(brood: Brood) -> None:
    process = brood.start(["true"])
    process.wait(30)
    for pid in (process.pid, NOBODY):
        assert read_row(pid) is None
        assert (command_of(pid), environment_of(pid)) == ("", b"")


def test_process_that_is_reaped_between_open_and_read_is_none(brood: Brood, monkeypatch: pytest.MonkeyPatch) -> None:
    process = brood.sleeper()
    is_in_state(process.pid, "S")
    opened = os.open

    def open_and_reap(path: str, flags: int) -> int:
        fd = opened(path, flags)
        process.kill()
        process.wait(30)
        return fd

    monkeypatch.setattr(os, "open", open_and_reap)
    assert read_row(process.pid) is None


def test_list_has_everybody_that_started_since(brood: Brood) -> None:
    early = brood.sleeper().pid
    since = start_of(early) + 1  # in ticks of 10 ms, of which two processes may share one
    late = eventually(lambda: next((pid for pid in [brood.sleeper().pid] if start_of(pid) >= since), None))

    everybody = {row.pid for row in list_rows()}
    later = {row.pid for row in list_rows(since)}

    assert {os.getpid(), early, late} <= everybody
    assert late in later
    assert not {os.getpid(), early} & later


def start_of(pid: int) -> int:
    row = read_row(pid)
    assert row is not None
    return row.start


def test_environment_is_the_one_that_the_process_was_started_with(brood: Brood) -> None:
    brood.python("del os.environ['KEPT']; say('deleted'); stay()", env={"KEPT": "1"})
    process = brood.hold("deleted")["deleted"]
    assert b"KEPT=1\0" in environment_of(process.pid)


def test_environment_longer_than_a_page_is_read_whole(brood: Brood) -> None:
    process = brood.sleeper(env={f"LONG_{number}": "x" * 1000 for number in range(50)} | {"ZZ_LAST": "1"})
    is_in_state(process.pid, "S")
    environment = environment_of(process.pid)
    assert b"ZZ_LAST=1\0" in environment
    assert environment.count(b"LONG_") == 50


# What prctl(PR_SET_MM, PR_SET_MM_MAP) takes, from what stat(5) says, but for the place of the environment.
_MOVES_ITS_ENVIRONMENT = """
import ctypes, mmap, struct
memory = mmap.mmap(-1, 1 << 30, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
there = ctypes.addressof(ctypes.c_char.from_buffer(memory))
libc = ctypes.CDLL(None)
libc.prctl.argtypes = [ctypes.c_int, *[ctypes.c_ulong] * 4]
libc.sbrk.restype = ctypes.c_ulong
stat = open("/proc/self/stat").read().rpartition(")")[2].split()
code, data, heap = (stat[23], stat[24]), (stat[42], stat[43]), (stat[44], libc.sbrk(0))
places = [*code, *data, *heap, stat[25], stat[45], stat[46], there, there + (1 << 30) - 1]
wanted = ctypes.create_string_buffer(struct.pack("=12QIi", *map(int, places), 0, 0, -1), 104)
say("moved", libc.prctl(35, 14, ctypes.addressof(wanted), 104, 0))
stay()
"""


def test_environment_larger_than_any_that_an_exec_takes_is_cut(brood: Brood) -> None:
    """A process may say that its environment is elsewhere, and as large as its address space: it would fill up ours."""
    process = brood.start([sys.executable, "-c", brood.text(_MOVES_ITS_ENVIRONMENT)])
    if brood.meeting.expect("moved").detail != "0":
        pytest.skip("this kernel does not let a process move its environment (CONFIG_CHECKPOINT_RESTORE)")
    with open(f"/proc/{process.pid}/environ", "rb") as file:
        assert len(file.read(1 << 25)) == 1 << 25, "the fault never happened"

    assert len(environment_of(process.pid)) < 1 << 24


def test_cleared_environment_is_empty(brood: Brood) -> None:
    process = brood.start(["env", "-i", "sleep", "900"])
    eventually(lambda: command_of(process.pid) == "sleep 900")
    assert environment_of(process.pid) == b""


def test_command_is_told_as_one_line(brood: Brood) -> None:
    process = brood.start(["sleep", "900"])
    is_in_state(process.pid, "S")
    assert command_of(process.pid) == "sleep 900"
