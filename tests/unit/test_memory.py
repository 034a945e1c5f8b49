"""What a process, or a tree of them, holds: everything that was touched, and what is shared only once."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable

import pytest

from safepool._os import memory, process_table
from safepool._os.memory import measure_trees, resident_size
from safepool._os.process_table import memory_share_of
from safepool._os.process_tree import Leader
from safepool._os.tree_members import TreeMembers
from support.handles import Handle, gone
from support.rendezvous import Gate
from unit.brood import Brood
from unit.trees import Tree

pytestmark = pytest.mark.timeout(60)

MIB = 1 << 20
NOBODY = 1 << 23  # beyond the largest number that Linux can be told to give
EXACT = 0  # above this size it is measured exactly: always
ROUGH = 1 << 60  # likewise: never

# Memory is there once it was written to; private, so that a child has it until one of the two writes.
_TOUCH = """
import mmap

def write(memory):
    for at in range(0, len(memory), 4096):
        memory[at] = 1
    return memory

def touch(mib):
    return write(mmap.mmap(-1, mib << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))

"""


def measure(tree: Tree, limit: int) -> int:
    members = TreeMembers(tree.leader, f"{tree.marker}=".encode())
    return measure_trees([(members, limit)])[0]


@pytest.fixture
def sharing(brood: Brood) -> Tree:
    """A leader with 64 MiB, which it shares with three children."""
    tree = Tree(brood, _TOUCH + "memory = touch(64)\nfor n in range(3): leave(f'child{n}')\nsay('leader'); stay()")
    brood.hold("leader", "child0", "child1", "child2")
    return tree


def test_size_of_a_process_grows_by_what_it_touches(brood: Brood, make_gate: Callable[[], Gate]) -> None:
    gate = make_gate()
    source = (
        _TOUCH + "say('small'); os.read(os.open(sys.argv[1], os.O_RDONLY), 1); kept = touch(96); say('large'); stay()"
    )
    process = brood.python(source, gate.path)
    brood.hold("small")
    small = resident_size(process.pid)
    assert 0 < small < 64 * MIB

    gate.open(1)
    brood.hold("large")

    grown = resident_size(process.pid) - small
    assert 95 * MIB <= grown < 128 * MIB  # the kernel counts on each CPU by itself, and adds up at times


def test_memory_that_is_mapped_and_never_touched_is_not_held(brood: Brood) -> None:
    process = brood.python("import mmap; kept = mmap.mmap(-1, 1 << 30); say('mapped'); stay()")
    brood.hold("mapped")
    assert resident_size(process.pid) < 128 * MIB


def test_process_that_is_gone_holds_nothing(brood: Brood) -> None:
    process = brood.sleeper()
    with Handle(process.pid) as handle:
        process.kill()
        gone({"sleeper": handle})
    assert resident_size(process.pid) == 0  # a zombie, and then nobody
    process.wait(30)
    assert resident_size(process.pid) == 0
    assert resident_size(NOBODY) == 0
    assert memory_share_of(NOBODY) is None


def test_shared_pages_count_once_when_measured_exactly(sharing: Tree) -> None:
    """A sum over the processes would count them in each."""
    assert 64 * MIB <= measure(sharing, EXACT) < 2 * 64 * MIB


def test_shared_pages_count_in_each_process_in_the_quick_sum(sharing: Tree) -> None:
    assert measure(sharing, ROUGH) >= 4 * 64 * MIB


def test_quick_sum_will_do_up_to_the_limit_and_not_beyond(sharing: Tree) -> None:
    """Nothing moves in the tree meanwhile: what it is, is between the two."""
    limit = 3 * 64 * MIB
    assert measure(sharing, limit) < limit < measure(sharing, ROUGH)


def test_pages_that_were_shared_count_for_each_once_they_are_written_to(brood: Brood) -> None:
    source = _TOUCH + "kept = touch(64); leave('child', lambda: write(kept)); say('leader'); stay()"
    tree = Tree(brood, source)
    brood.hold("leader", "child")
    assert 2 * 64 * MIB <= measure(tree, EXACT) < 3 * 64 * MIB


def test_memory_of_members_outside_the_session_counts(brood: Brood) -> None:
    source = "leave('daemon', fork_and_leave, os.setsid, fork_and_leave, lambda: globals().update(kept=touch(64)))"
    tree = Tree(brood, _TOUCH + source + "; say('leader'); stay()")
    brood.hold("leader", "daemon")
    assert resident_size(tree.leader.pid) < 64 * MIB

    assert measure(tree, EXACT) >= 64 * MIB


def test_trees_are_measured_each_by_itself_and_in_their_order(brood: Brood) -> None:
    large = Tree(brood, _TOUCH + "kept = touch(96); say('large'); stay()")
    brood.hold("large")
    process = brood.python("say('small'); stay()")
    brood.hold("small")
    row = process_table.read_row(process.pid)
    assert row is not None

    leaders = (Leader(row.pid, row.start), large.leader)
    sizes = measure_trees([(TreeMembers(leader, b"NOBODY_CARRIES_THIS="), EXACT) for leader in leaders])

    assert sizes[0] < 64 * MIB
    assert sizes[1] >= 96 * MIB


def test_tree_that_has_ended_holds_nothing(brood: Brood) -> None:
    tree = Tree(brood, "leave('child', os.setsid); say('leader'); stay()")
    handles = brood.hold("leader", "child")
    tree.end()
    gone(handles)
    assert [measure(tree, limit) for limit in (EXACT, ROUGH)] == [0, 0]


def test_process_whose_share_cannot_be_read_counts_with_all_it_has(
    sharing: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has changed its user, or the kernel is too old."""
    monkeypatch.setattr(memory, "memory_share_of", lambda _pid: None)
    assert measure(sharing, EXACT) >= 4 * 64 * MIB


def test_want_of_descriptors_is_an_error_and_not_a_tree_without_memory(
    brood: Brood, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = Tree(brood, "say('leader'); stay()")
    brood.hold("leader")

    def refuse(*_args: object) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with monkeypatch.context() as patch:
        patch.setattr(process_table.os, "open", refuse)
        with pytest.raises(OSError, match="Too many open files"):
            measure(tree, EXACT)

    assert measure(tree, EXACT) > 0


def test_stopped_process_is_measured_too(sharing: Tree) -> None:
    os.killpg(sharing.leader.pid, signal.SIGSTOP)
    assert measure(sharing, EXACT) >= 64 * MIB
