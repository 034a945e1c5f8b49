"""Who belongs to a tree: everybody that its leader started, whatever way out they took, and nobody else."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator

import pytest

from safepool._os import process_exit, process_tree
from safepool._os.process_table import ProcessRow, read_row
from safepool._os.process_tree import Leader, TreeEnding
from support.eventually import eventually
from support.handles import Handle, gone
from unit.brood import Brood, is_in_state
from unit.trees import EVERY_WAY_OUT, WAYS_OUT, Tree

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def canary(brood: Brood) -> Iterator[subprocess.Popen[bytes]]:
    """A process of the test's own session; nobody may touch it."""
    canary = brood.python("say('canary'); echo()", stdin=subprocess.PIPE, session=False)
    brood.hold("canary")
    yield canary
    brood.ask(canary, "unharmed")


def pids(handles: dict[str, Handle]) -> set[int]:
    return {handle.pid for handle in handles.values()}


def pids_ended(ending: TreeEnding) -> set[int]:
    return {remains.pid for remains in ending.ended}


def never(leader: Leader, signum: int) -> bool:
    """Signal no group: the answer where there is no safe way to."""
    return False


# --- members ---


def test_tree_is_ended_whatever_way_out_its_members_took(brood: Brood, canary: subprocess.Popen[bytes]) -> None:
    tree = Tree(brood, EVERY_WAY_OUT)
    handles = brood.hold("leader", *WAYS_OUT)

    ending = tree.end()

    gone(handles)
    assert pids_ended(ending) == pids(handles) - {tree.leader.pid}
    assert len(ending.ended) == len(WAYS_OUT)
    assert all("def leave(" in remains.command for remains in ending.ended)
    assert tree.process.wait(30) == -signal.SIGKILL


def test_tree_whose_leader_is_dead_is_ended_all_the_same(brood: Brood, canary: subprocess.Popen[bytes]) -> None:
    tree = Tree(brood, EVERY_WAY_OUT)
    handles = brood.hold("leader", *WAYS_OUT)
    handles["leader"].send(signal.SIGKILL)
    is_in_state(tree.leader.pid, "Z")
    assert all(handle.alive() for name, handle in handles.items() if name != "leader")

    ending = tree.end()

    gone(handles)
    assert pids_ended(ending) == pids(handles) - {tree.leader.pid}


def test_tree_without_a_safe_way_to_signal_its_group_is_ended_one_by_one(brood: Brood) -> None:
    tree = Tree(brood, EVERY_WAY_OUT)
    handles = brood.hold("leader", *WAYS_OUT)
    TreeEnding([tree.leader], f"{tree.marker}=".encode(), never).run()
    gone(handles)


def test_member_that_cleared_its_environment_is_found_through_its_parents(brood: Brood) -> None:
    source = """
    leave("parent", os.setsid, lambda: run("env", "-i", *python(sys.argv[1]), start_new_session=True))
    say("leader")
    stay()
    """
    tree = Tree(brood, source, brood.text("say('bare', list(os.environ)); stay()"))
    handles = brood.hold("leader", "parent", "bare")
    assert brood.mark not in brood.meeting.expect("bare").detail
    assert os.getsid(handles["bare"].pid) == handles["bare"].pid

    ending = tree.end()

    gone(handles)
    assert handles["bare"].pid in pids_ended(ending)


def test_member_of_the_session_is_found_without_a_marker_and_without_a_parent(brood: Brood) -> None:
    tree = Tree(brood, "leave('orphan', fork_and_leave, lambda: os.setpgid(0, 0)); say('leader'); stay()")
    handles = brood.hold("leader", "orphan")
    ending = tree.ending(marker="NOBODY_CARRIES_THIS")
    ending.run()
    gone(handles)
    assert pids_ended(ending) == {handles["orphan"].pid}


@pytest.mark.parametrize("state", ["stopped", "deaf"])
def test_member_that_does_not_run_or_does_not_listen_is_ended(brood: Brood, state: str) -> None:
    steps = {
        "stopped": "lambda: (say('late'), signal.raise_signal(signal.SIGSTOP))",
        "deaf": "lambda: signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals()), lambda: say('late')",
    }
    tree = Tree(brood, f"leave('late', os.setsid, {steps[state]}); say('leader'); stay()")
    handles = brood.hold("leader", "late")
    is_in_state(handles["late"].pid, "T" if state == "stopped" else "S")
    tree.end()
    gone(handles)


def test_trees_are_ended_together_by_the_part_of_the_marker_that_they_share(brood: Brood) -> None:
    """As the janitor does after the host's death."""
    marked = {f"HOST_{brood.mark}_{number}": "1" for number in range(2)}
    trees = [brood.python(f"say('tree{number}'); stay()", env={name: "1"}) for number, name in enumerate(marked)]
    escapee = brood.python("say('escapee'); stay()", env=marked)
    handles = brood.hold("tree0", "tree1", "escapee")
    leaders = [Leader(row.pid, row.start) for tree in trees if (row := read_row(tree.pid)) is not None]
    ending = TreeEnding(leaders, f"HOST_{brood.mark}_".encode(), never)
    ending.run()
    gone(handles)
    assert pids_ended(ending) == {escapee.pid}


# --- strangers ---


def test_process_with_another_marker_is_not_touched(brood: Brood, canary: subprocess.Popen[bytes]) -> None:
    """Not even where ours is the beginning of it."""
    tree = Tree(brood, "leave('session', os.setsid); say('leader'); stay()")
    handles = brood.hold("leader", "session")
    strangers = [
        brood.python("say(sys.argv[1]); echo()", word, stdin=subprocess.PIPE, env={name: "1"})
        for word, name in (("longer", f"{tree.marker}0"), ("other", f"{brood.mark}_TREE_2"))
    ]
    brood.hold("longer", "other")
    tree.end()
    gone(handles)
    for number, stranger in enumerate(strangers):
        brood.ask(stranger, f"unharmed{number}")


def test_process_whose_variable_only_tells_of_the_marker_is_not_touched(
    brood: Brood, canary: subprocess.Popen[bytes]
) -> None:
    """As where the host hands on what a task has printed of its environment."""
    tree = Tree(brood, "leave('session', os.setsid); say('leader'); stay()")
    handles = brood.hold("leader", "session")
    told = {"OUTPUT": f"HOME=/root\n{tree.marker}=1\n", f"X{tree.marker}": "1", "LAST": f"{tree.marker}=1"}
    stranger = brood.python("say('stranger'); echo()", stdin=subprocess.PIPE, env=told)
    brood.hold("stranger")

    tree.end()

    gone(handles)
    brood.ask(stranger, "unharmed-stranger")


def test_process_that_is_older_than_the_tree_is_not_touched_whatever_it_carries(brood: Brood) -> None:
    """It cannot descend from it: the variable was forged."""
    marker = {f"{brood.mark}_TREE_1": "1"}
    stranger = brood.python("say('stranger'); echo()", stdin=subprocess.PIPE, env=marker)
    brood.hold("stranger")
    started = read_row(stranger.pid)
    assert started is not None
    eventually(lambda: time.clock_gettime(time.CLOCK_BOOTTIME) * os.sysconf("SC_CLK_TCK") > started.start + 1)
    tree = Tree(brood, "leave('session', os.setsid); say('leader'); stay()")
    handles = brood.hold("leader", "session")
    assert {tree.marker} == set(marker)
    assert tree.leader.start > started.start

    tree.end()

    gone(handles)
    brood.ask(stranger, "unharmed")


@pytest.mark.parametrize("ticks", [1, 100_000])
def test_impostor_that_was_given_the_leader_s_number_is_not_touched(brood: Brood, ticks: int) -> None:
    """Nor is its group, or whoever it has started: the start time says that it is somebody else."""
    impostor = brood.python("if not os.fork(): say('member'); stay()\nsay('impostor'); echo()", stdin=subprocess.PIPE)
    handles = brood.hold("impostor", "member")
    row = read_row(impostor.pid)
    assert row is not None
    ending = TreeEnding([Leader(impostor.pid, row.start - ticks)], b"NOBODY_CARRIES_THIS=", never)
    ending.run()
    assert ending.ended == []
    brood.ask(impostor, "unharmed")
    assert handles["member"].alive()


def test_spared_process_is_not_touched(brood: Brood) -> None:
    tree = Tree(brood, "leave('session', os.setsid); leave('spared', os.setsid); say('leader'); stay()")
    handles = brood.hold("leader", "session", "spared")
    spared = handles.pop("spared")
    ending = tree.ending(spared=frozenset({spared.pid}))
    ending.run()
    gone(handles)
    assert spared.alive()
    assert pids_ended(ending) == {handles["session"].pid}


def test_process_that_ends_a_tree_spares_itself_and_its_parent(brood: Brood) -> None:
    source = """
    from safepool._os.process_table import read_row
    from safepool._os.process_tree import Leader, TreeEnding
    row = read_row(os.getpid())
    if os.fork():
        echo()
    os.setsid()
    TreeEnding([Leader(row.pid, row.start)], f"{sys.argv[1]}=".encode(), lambda *_: False).run()
    say("ended")
    stay()
    """
    marker = f"{brood.mark}_TREE_1"
    leader = brood.python(source, marker, stdin=subprocess.PIPE, env={marker: "1"})
    assert brood.meeting.expect("ended").pid != leader.pid
    brood.ask(leader, "unharmed")


def test_number_that_changes_hands_before_it_is_held_is_let_go(brood: Brood, monkeypatch: pytest.MonkeyPatch) -> None:
    """1. The list shows a member. 2. It dies, and a stranger is given its number. 3. The stranger is held."""
    tree = Tree(brood, "leave('session', os.setsid); say('leader'); stay()")
    handles = brood.hold("leader", "session")
    stranger = handles.pop("session")
    opened = []
    open_pidfd = process_exit.open_pidfd

    def open_noted(pid: int) -> int | None:
        opened.append(pid)
        return open_pidfd(pid)

    def read_after_opening(pid: int) -> ProcessRow | None:
        row = read_row(pid)
        if row is None or pid != stranger.pid or pid not in opened:
            return row
        opened.clear()
        return row._replace(start=row.start + 1)

    monkeypatch.setattr(process_exit, "open_pidfd", open_noted)
    monkeypatch.setattr(process_tree, "read_row", read_after_opening)
    ending = tree.end()
    gone(handles)
    assert stranger.alive()
    assert ending.ended == []
