"""Processes without a pool are seen through to their end, whether or not anybody asks after them."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from safepool._os.contained import ContainedProcess, spawn
from safepool._os.process_tree import TreeEnding
from safepool._worker import keeper
from safepool._worker.keeper import KeptProcess, keep
from support import census
from support.eventually import eventually
from support.handles import gone
from unit.brood import Brood, in_forked_child

pytestmark = pytest.mark.timeout(60)

Start = Callable[..., KeptProcess]

_LEAVES_A_CHILD = """
if not os.fork():
    os.setsid()
    say("child")
    stay()
say("kept")
stay()
"""


@pytest.fixture(scope="module", autouse=True)
def keeper_thread() -> None:
    """The keeper of a process stays for good; have it there before the first test counts threads."""
    kept = KeptProcess(spawn(lambda *_: ["true"], {}))
    keep(kept)
    eventually(lambda: kept.is_over, within=30)
    kept.bury()


@pytest.fixture
def start(brood: Brood) -> Iterator[Start]:
    """Starts contained processes; every one of them is buried."""
    started = []

    def start(source: str = "say('kept'); stay()") -> KeptProcess:
        command = [sys.executable, "-I", "-S", "-c", brood.text(source)]
        started.append(KeptProcess(spawn(lambda *_: command, {})))
        return started[-1]

    yield start
    for kept in started:
        kept.bury()


def test_tree_of_a_kept_process_that_dies_is_ended_though_nobody_asks(brood: Brood, start: Start) -> None:
    kept = start(_LEAVES_A_CHILD)
    keep(kept)
    handles = brood.hold("kept", "child")
    handles["kept"].send(signal.SIGKILL)
    gone(handles)
    eventually(lambda: kept.is_over, within=30)


def test_dead_process_is_left_unreaped_until_it_is_buried(brood: Brood, start: Start) -> None:
    kept = start()
    keep(kept)
    handles = brood.hold("kept")
    handles["kept"].send(signal.SIGTERM)
    eventually(lambda: kept.is_over, within=30)
    seen = census.look_at(handles["kept"].pid)
    assert seen is not None
    assert seen.state == "Z"
    assert kept.bury() == -signal.SIGTERM
    assert kept.bury() == -signal.SIGTERM
    assert census.look_at(handles["kept"].pid) is None


def test_process_that_does_not_heed_is_ended_when_its_time_has_come(brood: Brood, start: Start) -> None:
    kept = start("signal.signal(signal.SIGTERM, signal.SIG_IGN); say('kept'); stay()")
    keep(kept)
    handles = brood.hold("kept")
    kept.end_at = time.monotonic() + 0.2
    keep(kept)  # as terminate does
    handles["kept"].send(signal.SIGTERM)
    gone(handles)
    assert time.monotonic() >= kept.end_at
    assert kept.bury() == -signal.SIGKILL


def test_process_whose_time_has_not_come_is_left_in_peace(brood: Brood, start: Start) -> None:
    kept = start()
    now = time.monotonic()
    assert not kept.is_due(now)
    kept.end_at = now + 100
    assert not kept.is_due(now + 99)
    assert kept.is_due(now + 100)
    assert brood.hold("kept")["kept"].alive()
    assert kept.pidfd is not None


def test_many_kept_processes_are_ended_each_at_its_own_death(brood: Brood, start: Start) -> None:
    several = [start(f"say('kept{number}'); stay()") for number in range(4)]
    for kept in several:
        keep(kept)
    handles = brood.hold(*(f"kept{number}" for number in range(4)))
    for number in (2, 0):
        handles[f"kept{number}"].send(signal.SIGKILL)
        eventually(lambda kept=several[number]: kept.is_over, within=30)
    assert [kept.is_over for kept in several] == [True, False, True, False]
    assert handles["kept1"].alive()
    assert handles["kept3"].alive()


def test_tree_is_ended_once_however_many_ask_at_the_same_time(
    brood: Brood, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[ContainedProcess] = []
    end_tree = ContainedProcess.end_tree

    def counted(contained: ContainedProcess) -> TreeEnding:
        ended.append(contained)
        return end_tree(contained)

    monkeypatch.setattr(ContainedProcess, "end_tree", counted)
    kept = start(_LEAVES_A_CHILD)
    keep(kept)
    handles = brood.hold("kept", "child")
    told: list[int | None] = []
    threads = [threading.Thread(target=lambda: told.append(kept.bury())) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    gone(handles)
    assert ended == [kept.contained]
    assert told == [-signal.SIGKILL] * 3
    assert kept.pidfd is None


def test_process_that_is_buried_before_it_is_kept_is_forgotten(start: Start) -> None:
    kept = start()
    kept.bury()
    keep(kept)
    assert not kept.is_due(time.monotonic())
    assert kept.is_over


def test_forked_child_has_a_keeper_of_its_own() -> None:
    assert keeper._keeper is not None
    assert in_forked_child(lambda: str(keeper._keeper)) == "None"
