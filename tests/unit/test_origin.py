"""What a process says about whose it is, and what has become of that host."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import pytest

from safepool._os import origin as origin_module
from safepool._os.marker import host_marker, marker_value, namespaces, next_worker_marker
from safepool._os.origin import Fate, Origin, fate_of, origins_in
from safepool._os.process_table import read_row
from safepool._os.process_tree import Leader
from unit.brood import Brood, in_forked_child

pytestmark = pytest.mark.timeout(60)

TOKEN = f"SAFEPOOL_{'0123456789abcdef' * 2}"
HERE = ".".join(map(str, namespaces()))


def leader(pid: int) -> Leader:
    row = read_row(pid)
    assert row is not None
    return Leader(pid, row.start)


def test_marker_of_a_worker_names_this_process() -> None:
    name = next_worker_marker()
    environment = f"PATH=/bin\0{name}={marker_value()}\0".encode()
    assert origins_in(environment) == [Origin(host_marker(), int(name.rpartition("_")[2]), leader(os.getpid()))]


def test_forked_child_s_marker_names_the_child() -> None:
    assert marker_value().startswith(f"{os.getpid()}.")
    child = in_forked_child(lambda: f"{os.getpid()} {marker_value()}").split()
    assert child[1].startswith(f"{child[0]}.")


def test_marker_of_one_that_spares_says_so() -> None:
    name = next_worker_marker(sparing=True)
    environment = f"PATH=/bin\0{name}={marker_value()}\0".encode()
    number = int(name.rpartition("_")[2])
    assert origins_in(environment) == [Origin(host_marker(), number, leader(os.getpid()), is_sparing=True)]


def test_marker_of_each_pool_is_found() -> None:
    other = TOKEN.replace("0", "f")
    environment = f"{TOKEN}_1=7.70.{HERE}\0HOME=/\0{other}_12=8.80.{HERE}\0".encode()
    assert origins_in(environment) == [Origin(TOKEN, 1, Leader(7, 70)), Origin(other, 12, Leader(8, 80))]


@pytest.mark.parametrize(
    "value",
    ["", "1", "7", "7.70", "7.70.1", f"7.70.{HERE}.1", f"-7.70.{HERE}", f"7.x.{HERE}", f"0.70.{HERE}", f"7.0.{HERE}"],
)
def test_value_that_is_no_host_names_none(value: str) -> None:
    assert origins_in(f"{TOKEN}_1={value}\0".encode()) == [Origin(TOKEN, 1, None)]


def test_host_of_another_namespace_is_none_that_can_be_told() -> None:
    pids, times = namespaces()
    for elsewhere in (f"{pids + 1}.{times}", f"{pids}.{times + 1}"):
        assert origins_in(f"{TOKEN}_1=7.70.{elsewhere}\0".encode()) == [Origin(TOKEN, 1, None)]


def test_text_within_another_variable_is_no_marker() -> None:
    assert origins_in(f"NOTE={TOKEN}_1=7.70.{HERE}\0X{TOKEN}_1=7.70.{HERE}\0".encode()) == []


def test_process_that_runs_is_alive() -> None:
    assert fate_of(leader(os.getpid())) is Fate.ALIVE


def test_number_that_was_taken_over_is_a_host_that_is_gone() -> None:
    pid, start = leader(os.getpid())
    assert fate_of(Leader(pid, start - 1)) is Fate.GONE


def test_zombie_is_gone_and_so_is_what_was_reaped(brood: Brood) -> None:
    with subprocess.Popen([sys.executable, "-I", "-S", "-c", "input()"], stdin=subprocess.PIPE) as process:
        itself = leader(process.pid)
        assert fate_of(itself) is Fate.ALIVE
        process.stdin.close()  # type: ignore[union-attr]  # it is a pipe
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert fate_of(itself) is Fate.GONE
        process.wait()
        assert fate_of(itself) is Fate.GONE


def test_number_that_a_thread_has_now_is_a_host_that_is_gone() -> None:
    go = threading.Event()
    thread = threading.Thread(target=go.wait)
    thread.start()
    try:
        assert thread.native_id is not None
        assert fate_of(Leader(thread.native_id, 1)) is Fate.GONE
    finally:
        go.set()
        thread.join()


def test_host_that_is_not_named_is_unknown() -> None:
    assert fate_of(None) is Fate.UNKNOWN


def test_host_that_proc_hides_is_unknown_and_not_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    itself = leader(os.getpid())
    monkeypatch.setattr(origin_module, "read_row", lambda _pid: None)
    assert fate_of(itself) is Fate.UNKNOWN


def test_where_pidfds_are_refused_proc_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_pid: int, _flags: int = 0) -> int:
        raise PermissionError

    itself = leader(os.getpid())
    monkeypatch.setattr(os, "pidfd_open", refuse)
    assert fate_of(itself) is Fate.ALIVE
    assert fate_of(Leader(itself.pid, itself.start - 1)) is Fate.GONE
