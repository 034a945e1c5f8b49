"""Who belongs to a tree just now, whatever way out they took; and what was found once stays found."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import pytest

from safepool._os import tree_members
from safepool._os.process_table import ProcessRow, list_rows, read_row
from safepool._os.process_tree import Leader
from safepool._os.tree_members import TreeMembers, with_descendants
from support import census
from support.eventually import eventually
from support.handles import Handle, gone
from support.rendezvous import Gate
from unit.brood import Brood
from unit.trees import EVERY_WAY_OUT, WAYS_OUT, Tree

pytestmark = pytest.mark.timeout(60)


def members_of(tree: Tree, *, marker: str | None = None) -> TreeMembers:
    return TreeMembers(tree.leader, f"{marker or tree.marker}=".encode())


def find(members: TreeMembers) -> set[int]:
    return members.find(list(list_rows(members.leader.start)))


def pids(handles: dict[str, Handle]) -> set[int]:
    return {handle.pid for handle in handles.values()}


def row(pid: int, parent: int, state: str = "S") -> ProcessRow:
    return ProcessRow(pid, state, parent, group=pid, session=pid, start=1, threads=1)


# --- members ---


def test_members_are_found_whatever_way_out_they_took(brood: Brood) -> None:
    tree = Tree(brood, EVERY_WAY_OUT)
    handles = brood.hold("leader", *WAYS_OUT)

    assert find(members_of(tree)) == pids(handles)

    tree.end()
    gone(handles)


def test_where_sessions_are_spared_only_the_leader_s_own_counts(brood: Brood) -> None:
    tree = Tree(brood, EVERY_WAY_OUT)
    handles = brood.hold("leader", *WAYS_OUT)
    members = TreeMembers(tree.leader, f"{tree.marker}=".encode(), spares_sessions=True)

    assert find(members) == {handles[name].pid for name in ("leader", "plain", "group")}

    tree.end()
    gone(handles)


def test_member_of_the_session_is_found_without_marker_and_parent(brood: Brood) -> None:
    tree = Tree(brood, "leave('orphan', fork_and_leave, lambda: os.setpgid(0, 0)); say('leader'); stay()")
    handles = brood.hold("leader", "orphan")
    seen = census.look_at(handles["orphan"].pid)
    assert seen is not None
    assert seen.ppid != tree.leader.pid

    assert find(members_of(tree, marker="NOBODY_CARRIES_THIS")) == pids(handles)


def test_member_of_the_group_is_found_without_marker_and_parent(brood: Brood) -> None:
    """Where the leader has a group of its own, and shares the session of others."""
    source = """
    if os.fork():
        stay()
    os.setpgid(0, 0)
    leave("orphan", fork_and_leave)
    say("leader")
    stay()
    """
    tree = Tree(brood, source)
    handles = brood.hold("leader", "orphan")
    row = read_row(handles["leader"].pid)
    assert row is not None
    assert row.session == tree.leader.pid != row.pid

    assert find(TreeMembers(Leader(row.pid, row.start), b"NOBODY_CARRIES_THIS=")) == pids(handles)


def test_child_in_a_session_of_its_own_is_found_through_its_parent(brood: Brood) -> None:
    """Without the marker; and its own child, whose parent is known only from there."""
    tree = Tree(brood, "leave('child', os.setsid, lambda: leave('grandchild', os.setsid)); say('leader'); stay()")
    handles = brood.hold("leader", "child", "grandchild")
    assert os.getsid(handles["child"].pid) == handles["child"].pid

    assert find(members_of(tree, marker="NOBODY_CARRIES_THIS")) == pids(handles)


def test_orphan_in_a_session_of_its_own_is_found_by_its_marker(brood: Brood) -> None:
    tree = Tree(brood, "leave('daemon', fork_and_leave, os.setsid, fork_and_leave); say('leader'); stay()")
    handles = brood.hold("leader", "daemon")

    assert find(members_of(tree, marker="NOBODY_CARRIES_THIS")) == {tree.leader.pid}  # nothing else leads to it
    assert find(members_of(tree)) == pids(handles)


def test_member_found_once_stays_found_when_its_parent_and_its_marker_are_gone(brood: Brood) -> None:
    """1. It is found through its parent, of whose session it is not. 2. The parent ends: nothing tells any more."""
    source = """
    leave("parent", os.setsid, lambda: run("env", "-i", *python(sys.argv[1]), start_new_session=True))
    say("leader")
    stay()
    """
    tree = Tree(brood, source, brood.text("say('bare'); stay()"))
    handles = brood.hold("leader", "parent", "bare")
    members = members_of(tree)
    assert find(members) == pids(handles)

    handles["parent"].send(signal.SIGKILL)
    gone({"parent": handles["parent"]})
    eventually(lambda: (seen := census.look_at(handles["bare"].pid)) and seen.ppid != handles["parent"].pid)

    assert handles["bare"].pid not in find(members_of(tree))  # whoever looks only now cannot know
    assert handles["bare"].pid in find(members)
    assert handles["bare"].pid in find(members)


def test_new_member_is_found_by_the_next_look(brood: Brood, make_gate: Callable[[], Gate]) -> None:
    gate = make_gate()
    source = """
    say("leader")
    os.read(os.open(sys.argv[1], os.O_RDONLY), 1)
    leave("late", os.setsid, fork_and_leave)
    stay()
    """
    tree = Tree(brood, source, gate.path)
    brood.hold("leader")
    members = members_of(tree)
    assert find(members) == {tree.leader.pid}

    gate.open(1)

    late = brood.hold("late")["late"].pid
    assert {tree.leader.pid, late} <= find(members)  # and for an instant, its parent


def test_dead_member_is_none(brood: Brood) -> None:
    tree = Tree(brood, "leave('child'); say('leader'); stay()")
    handles = brood.hold("leader", "child")
    members = members_of(tree)
    assert find(members) == pids(handles)

    handles["child"].send(signal.SIGKILL)  # a zombie from now on: its parent does not wait for it
    gone({"child": handles["child"]})

    assert find(members) == {tree.leader.pid}


# --- strangers ---


def test_process_with_another_marker_or_none_is_a_stranger(brood: Brood) -> None:
    """Not even where ours is the beginning of it."""
    tree = Tree(brood, "leave('session', os.setsid); say('leader'); stay()")
    brood.python("say('longer'); stay()", env={f"{tree.marker}0": "1"})
    brood.python("say('none'); stay()")
    handles = brood.hold("leader", "session", "longer", "none")

    assert find(members_of(tree)) == {handles["leader"].pid, handles["session"].pid}


def test_process_whose_variable_only_tells_of_the_marker_is_a_stranger(brood: Brood) -> None:
    tree = Tree(brood, "say('leader'); stay()")
    brood.python("say('told'); stay()", env={"OUTPUT": f"HOME=/\n{tree.marker}=1\n", f"X{tree.marker}": "1"})
    brood.hold("leader", "told")

    assert find(members_of(tree)) == {tree.leader.pid}


def test_environment_of_a_stranger_is_read_once(brood: Brood, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes a look at every process of the machine, ten times a second."""
    tree = Tree(brood, "say('leader'); stay()")
    brood.python("say('stranger'); stay()")
    stranger = brood.hold("leader", "stranger")["stranger"].pid
    asked: list[int] = []
    read = tree_members.environment_of

    def read_and_tell(pid: int) -> bytes:
        asked.append(pid)
        return read(pid)

    monkeypatch.setattr(tree_members, "environment_of", read_and_tell)
    members = members_of(tree)
    for _ in range(3):
        assert find(members) == {tree.leader.pid}

    assert asked.count(stranger) == 1


def test_process_without_an_environment_is_asked_again(brood: Brood, monkeypatch: pytest.MonkeyPatch) -> None:
    """1. It is in the middle of an exec, and shows none. 2. It shows the marker."""
    tree = Tree(brood, "leave('daemon', fork_and_leave, os.setsid, fork_and_leave); say('leader'); stay()")
    handles = brood.hold("leader", "daemon")
    members = members_of(tree)

    with monkeypatch.context() as patch:
        patch.setattr(tree_members, "environment_of", lambda _pid: b"")
        assert find(members) == {tree.leader.pid}

    assert find(members) == pids(handles)


def test_number_taken_over_by_another_process_is_not_taken_for_a_member(brood: Brood) -> None:
    """What is known is a number with its start: the number alone comes again."""
    tree = Tree(brood, "leave('child', os.setsid); say('leader'); stay()")
    handles = brood.hold("leader", "child")
    members = members_of(tree)
    rows = list(list_rows(tree.leader.start))
    child = next(row for row in rows if row.pid == handles["child"].pid)
    assert child.pid in members.find(rows)

    members = TreeMembers(tree.leader, b"NOBODY_CARRIES_THIS=")
    assert child.pid in members.find(rows)
    orphan = child._replace(parent=1)
    assert members.find([orphan]) == {child.pid}
    assert members.find([orphan._replace(start=child.start + 1)]) == set()


# --- descendants ---


def test_descendants_are_found_in_whatever_order_they_are_listed() -> None:
    rows = [row(5, 4), row(4, 3), row(3, 2), row(9, 8), row(2, 1)]
    assert with_descendants({3}, rows) == {3, 4, 5}
    assert with_descendants({3}, rows[::-1]) == {3, 4, 5}


def test_descendants_of_nobody_are_nobody() -> None:
    assert with_descendants([], [row(2, 1)]) == set()
