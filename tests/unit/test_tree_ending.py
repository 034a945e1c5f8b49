"""How a tree is ended: nobody outruns it, clean-up processes go last, and what cannot be done is not waited for."""

from __future__ import annotations

import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from safepool._os import process_exit, process_table, process_tree
from safepool._os.command_line import NO_COMMAND
from safepool._os.process_table import read_row
from safepool._os.process_tree import Leader, TreeEnding
from support import census
from support.eventually import eventually
from support.handles import Handle, gone
from unit.brood import Brood, in_forked_child
from unit.trees import AT_HAND, Tree

pytestmark = pytest.mark.timeout(60)

NOBODY = 1 << 23  # beyond the largest number that Linux can be told to give


# --- processes that keep moving ---

_CHAINS = """
# Orphans come here, where the kernel reaps them: an init that is slow at it would fill the table with zombies.
import ctypes
ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
if not os.fork():
    os.setsid()
    os.environ[sys.argv[1]] = "1"
    os.execv(sys.executable, [sys.executable, "-I", "-S", "-c", *sys.argv[2:]])
stay()
"""
_CHAIN = """
counter, life, until, escapes = sys.argv[1], float(sys.argv[2]), float(sys.argv[3]), sys.argv[4] == "True"
for _ in range(3):
    if not os.fork():
        file = os.open(counter, os.O_WRONLY | os.O_APPEND)
        while time.monotonic() < until:  # each link starts its successor, and is gone
            if os.fork():
                os._exit(0)
            if escapes:
                os.setsid()
            os.write(file, b".")
            time.sleep(life)
        os._exit(0)
say("leader")
stay()
"""


@pytest.mark.parametrize(
    ("life", "escapes"), [(0.1, True), (0.0, True), (0.0, False)], ids=["slow", "fast", "fast_within_the_group"]
)
def test_chains_of_processes_that_keep_moving_are_contained(
    brood: Brood, tmp_path: Path, life: float, escapes: bool
) -> None:
    """Judged by a counter: a scan that finds nobody might be what they outran."""
    counter = tmp_path / "counter"
    counter.touch()
    until = time.monotonic() + 10
    marker = f"{brood.mark}_TREE_1"
    brood.python(_CHAINS, marker, brood.text(_CHAIN), counter, life, until, escapes)
    leader = brood.hold("leader")["leader"]
    eventually(lambda: counter.stat().st_size > 12)
    row = read_row(leader.pid)
    assert row is not None

    ending = TreeEnding(
        [Leader(row.pid, row.start)],
        f"{marker}=".encode(),
        lambda _, signum: process_exit.send_signal(leader.fileno(), signum, group=True),
    )
    ending.run()

    reached = counter.stat().st_size
    time.sleep(max(0.2, 3 * life))  # not to wait for anything, but to watch that nothing happens
    assert time.monotonic() < until, "by now they would have ended by themselves"
    assert counter.stat().st_size == reached
    gone({"leader": leader})


def test_one_that_is_gone_before_it_is_looked_at_may_have_started_another(
    brood: Brood, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each link of a chain is listed, and gone when its turn comes; the sixth stays."""
    monkeypatch.setattr(process_tree, "_LONGEST_CHASE", 60.0)
    tree = Tree(brood, "say('leader'); stay()")
    leader = brood.hold("leader")
    late: list[Handle] = []

    def list_with_a_link(number: int, pids: set[int]) -> set[int]:
        if number == 6:
            late.append(brood.take(brood.sleeper(env={tree.marker: "1"}).pid))
            return pids | {late[0].pid}
        return pids | {NOBODY + number} if 1 < number < 6 else pids

    _list_by(list_with_a_link, monkeypatch)
    ending = tree.end()

    gone(leader)
    gone({"late": late[0]})
    assert late[0].pid in {remains.pid for remains in ending.ended}


def test_strangers_that_come_and_go_do_not_hold_up_an_end_for_ever(
    brood: Brood, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = Tree(brood, "say('leader'); stay()")
    leader = brood.hold("leader")
    passes = _list_by(lambda number, pids: pids | {NOBODY + number}, monkeypatch)

    tree.end()

    gone(leader)
    assert passes[0] < process_tree._MOST_PASSES


def _list_by(change: Callable[[int, set[int]], set[int]], monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Have each list of processes changed, given its number; return the count of them."""
    count = [0]
    list_pids = process_tree.list_pids

    def list_and_change(known: Iterable[int] = ()) -> set[int]:
        count[0] += 1
        return change(count[0], list_pids(known))

    monkeypatch.setattr(process_tree, "list_pids", list_and_change)
    return count


# --- clean-up processes ---

# A cleaner is known by what stands in its command line, which therefore must not stand in anybody else's.
_CLEANER = """
# @
say("cleaner")
while os.read(0, 1):
    pass
{then}
"""
_WITH_A_CLEANER = """
end, until = os.pipe()
os.set_inheritable(until, True)
leave("session", os.setsid, lambda: os.close(end))  # holds the cleaner's pipe as well
run(*python(sys.argv[1].replace("@", "from multiprocessing.resource_" "tracker import main")), stdin=end)
os.close(end)
say("leader")
stay()
"""


def test_cleaner_goes_last_and_by_itself_when_nobody_is_left_who_needs_it(brood: Brood) -> None:
    tree = Tree(brood, _WITH_A_CLEANER, brood.text(_CLEANER.format(then="say('cleaned')")))
    handles = brood.hold("leader", "session", "cleaner")
    assert os.getpgid(handles["cleaner"].pid) == tree.leader.pid  # so a signal to the group would hit it
    began = time.monotonic()
    ending = tree.end()
    gone(handles)
    assert brood.meeting.find("cleaned") is not None
    assert time.monotonic() - began < process_tree._CLEANER_GRACE
    assert {remains.pid for remains in ending.ended} == {handles["session"].pid, handles["cleaner"].pid}


def test_cleaner_that_does_not_leave_is_ended_after_its_grace(brood: Brood, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_tree, "_CLEANER_GRACE", 0.3)
    tree = Tree(brood, _WITH_A_CLEANER, brood.text(_CLEANER.format(then="say('cleaned'); stay()")))
    handles = brood.hold("leader", "session", "cleaner")
    tree.end()
    gone(handles)
    assert brood.meeting.find("cleaned") is not None


def test_ending_says_when_the_grace_of_a_cleaner_is_over(brood: Brood) -> None:
    tree = Tree(brood, _WITH_A_CLEANER, brood.text(_CLEANER.format(then="say('cleaned'); stay()")))
    handles = brood.hold("leader", "session", "cleaner")
    ending = tree.ending()
    ending.begin()
    began = time.monotonic()
    assert began + process_tree._CLEANER_GRACE - 1 < ending.wake_at <= began + process_tree._CLEANER_GRACE
    gone({name: handles[name] for name in ("leader", "session")})
    assert not ending.advance()
    assert len(ending.pidfds()) == 1
    assert handles["cleaner"].alive()
    handles["cleaner"].send(signal.SIGKILL)
    gone(handles)
    assert ending.advance()
    assert ending.pidfds() == []


_NAMED_AS_CLEANERS = """
run(*python(sys.argv[1].replace("@", "from multiprocessing.resource_" "tracker import main"), *sys.argv[2:]))
say("leader")
stay()
"""
_CHAIN_OF_CLEANERS = """
# @
counter, until = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND), float(sys.argv[2])
os.setsid()
for generation in range(250):
    if time.monotonic() > until:
        break
    if os.fork():
        time.sleep(0.2)
        break
    os.write(counter, b".")
    time.sleep(0.04)
os._exit(0)
"""


def test_chain_of_processes_that_call_themselves_cleaners_has_one_grace_and_no_more(
    brood: Brood, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is left running while it has a grace, and starts its successor meanwhile. Judged by a counter."""
    monkeypatch.setattr(process_tree, "_CLEANER_GRACE", 0.3)
    counter = tmp_path / "counter"
    counter.touch()
    until = time.monotonic() + 12
    tree = Tree(brood, _NAMED_AS_CLEANERS, brood.text(_CHAIN_OF_CLEANERS), counter, until)
    leader = brood.hold("leader")
    eventually(lambda: counter.stat().st_size > 3)

    tree.end()

    gone(leader)
    reached = counter.stat().st_size
    time.sleep(0.3)  # not to wait for anything, but to watch that nothing happens
    assert time.monotonic() < until, "by now they would have ended by themselves"
    assert counter.stat().st_size == reached


def test_one_that_calls_itself_a_cleaner_and_cannot_be_held_is_ended_after_its_grace(
    brood: Brood, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is no room for a pidfd, so that it is never among those whose grace is looked at."""
    monkeypatch.setattr(process_tree, "_CLEANER_GRACE", 0.3)
    monkeypatch.setattr(process_tree, "_PATIENCE", 20.0)
    monkeypatch.setattr(process_tree, "_MOST_HELD", 0)
    named = brood.text("# @\nos.setsid()  # the kill of a group needs no pidfd\nsay('named')\nstay()")
    tree = Tree(brood, _NAMED_AS_CLEANERS, named)
    handles = brood.hold("leader", "named")
    tree.end()
    gone(handles)


# --- what cannot be done ---


def test_tree_larger_than_the_room_for_descriptors_is_ended_in_turns(
    brood: Brood, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process_tree, "_MOST_HELD", 3)
    labels = [f"session{number}" for number in range(12)]
    tree = Tree(brood, "for label in sys.argv[1:]: leave(label, os.setsid)\nsay('leader'); stay()", *labels)
    handles = brood.hold("leader", *labels)
    ending = tree.ending()

    def goes_on() -> bool:
        assert len(ending.pidfds()) <= 3
        return ending.advance()

    ending.begin()
    eventually(goes_on)
    gone(handles)
    assert {remains.pid for remains in ending.ended} == {handles[label].pid for label in labels}


@pytest.mark.parametrize("room", [1, 2, 3, 6])
def test_tree_is_ended_by_a_host_that_has_hardly_any_descriptors_left(brood: Brood, room: int) -> None:
    labels = [f"session{number}" for number in range(3)]
    tree = Tree(brood, "for label in sys.argv[1:]: leave(label, os.setsid)\nsay('leader'); stay()", *labels)
    handles = brood.hold("leader", *labels)

    def end_with_so_many_descriptors() -> str:
        highest = max(map(int, os.listdir("/proc/self/fd")))
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 50, hard))
        taken = []
        while True:
            try:
                taken.append(os.dup(0))
            except OSError:
                break
        for fd in taken[:room]:
            os.close(fd)
        return ",".join(sorted(str(remains.pid) for remains in tree.end().ended))

    ended = in_forked_child(end_with_so_many_descriptors)

    gone(handles, within=2)
    assert ended == ",".join(sorted(str(handles[label].pid) for label in labels))


def test_process_that_does_not_die_is_given_up_in_the_end(brood: Brood, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in an uninterruptible sleep."""
    monkeypatch.setattr(process_tree, "_PATIENCE", 0.3)
    monkeypatch.setattr(process_exit, "send_signal", lambda *_, **__: True)
    process = brood.sleeper()
    row = read_row(process.pid)
    assert row is not None
    before = census.open_files()
    ending = TreeEnding([Leader(row.pid, row.start)], b"", lambda *_: True)
    ending.run()
    assert brood.take(process.pid).alive()
    assert len(census.open_files()) == len(before) + 1  # what we took; the ending has let go


def test_tree_that_is_gone_already_is_over_at_once(brood: Brood) -> None:
    tree = Tree(brood, "say('leader')")
    tree.process.wait(30)
    ending = TreeEnding([tree.leader], f"{tree.marker}=".encode(), lambda *_: False)
    ending.begin()
    assert ending.pidfds() == []
    assert ending.advance()
    assert ending.ended == []


def test_steps_do_not_wait_for_anybody_to_die(brood: Brood) -> None:
    tree = Tree(brood, "leave('session', os.setsid); say('leader'); stay()")
    handles = brood.hold("leader", "session")
    ending = tree.ending()
    ending.begin()
    assert len(ending.pidfds()) <= 2
    gone(handles)
    eventually(ending.advance)
    assert ending.pidfds() == []


# --- processes in the middle of an exec ---


def test_orphan_in_the_middle_of_an_exec_is_looked_at_until_it_shows_whose_it_is(
    brood: Brood, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1. A child that has left the group begins an exec. 2. Its parent dies. 3. Nothing tells whose it is, as yet."""
    tree = Tree(brood, "leave('session', os.setsid); say('leader'); os._exit(0)")
    handles = brood.hold("session")
    orphan = handles["session"]
    tree.process.wait(30)
    monkeypatch.setattr(process_tree, "_LONGEST_EXEC", 60.0)
    looks = _hide(orphan.pid, monkeypatch, looks=5)

    ending = TreeEnding([tree.leader], f"{tree.marker}=".encode(), lambda *_: False)
    ending.run()

    assert looks[0] > 5
    gone(handles)
    assert [remains.pid for remains in ending.ended] == [orphan.pid]


def test_orphan_whose_exec_ends_while_it_is_looked_at_is_looked_at_again(
    brood: Brood, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1. It shows no environment. 2. Its exec ends. 3. It shows a command line: it is no stranger for all that."""
    tree = Tree(brood, "leave('session', os.setsid); say('leader'); os._exit(0)")
    orphan = brood.hold("session")["session"]
    tree.process.wait(30)
    is_over = [False]

    def begin_its_exec(_number: int, pids: set[int]) -> set[int]:
        is_over[0] = False
        return pids

    def command(pid: int) -> str:
        is_over[0] |= pid == orphan.pid
        return process_table.command_of(pid)

    def environment(pid: int) -> bytes:
        return b"" if pid == orphan.pid and not is_over[0] else process_table.environment_of(pid)

    _list_by(begin_its_exec, monkeypatch)
    monkeypatch.setattr(process_tree, "command_of", command)
    monkeypatch.setattr(process_tree, "environment_of", environment)

    TreeEnding([tree.leader], f"{tree.marker}=".encode(), lambda *_: False).run()

    gone({"orphan": orphan})


def test_stranger_that_shows_nothing_of_itself_is_not_looked_at_for_ever(
    brood: Brood, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process_tree, "_LONGEST_EXEC", 0.05)
    tree = Tree(brood, "leave('session', os.setsid); say('leader'); os._exit(0)")
    stranger = brood.hold("session")["session"]
    tree.process.wait(30)
    looks = _hide(stranger.pid, monkeypatch, looks=sys.maxsize)

    ending = TreeEnding([tree.leader], f"{tree.marker}=".encode(), lambda *_: False)
    ending.run()

    assert looks[0]
    assert stranger.alive()


_NAMED = """
words = "# safepool._os.janitor_main " + "import main"  # not to be found in our own command line, nor a fork's
run(*python(words + chr(10) + sys.argv[1]), start_new_session=True)
leave("plain", os.setsid)
say("leader")
stay()
"""


@pytest.mark.parametrize("hidden", [0, 5], ids=["shown", "after its exec"])
def test_attendant_is_spared_when_it_shows_itself_and_everybody_else_is_ended(
    brood: Brood, monkeypatch: pytest.MonkeyPatch, hidden: int
) -> None:
    monkeypatch.setattr(process_tree, "_LONGEST_EXEC", 60.0)
    tree = Tree(brood, _NAMED, brood.text("say('attendant'); stay()"))
    handles = brood.hold("attendant", "plain", "leader")
    looks = [_hide(handles[name].pid, monkeypatch, looks=hidden) for name in ("attendant", "plain")]

    ending = _sweep(tree)

    assert min(looks)[0] > hidden
    assert handles["attendant"].alive()
    assert handles["leader"].alive()
    assert not handles["plain"].alive()
    (ended,) = ending.ended
    assert ended.pid == handles["plain"].pid
    assert "say(label)" in ended.command


def test_one_that_never_shows_whether_it_is_an_attendant_is_none(brood: Brood, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_tree, "_LONGEST_EXEC", 0.05)
    tree = Tree(brood, "leave('plain'); say('leader'); stay()")
    plain = brood.hold("plain", "leader")["plain"]
    _hide(plain.pid, monkeypatch, looks=sys.maxsize)

    ending = _sweep(tree)

    assert not plain.alive()
    assert ending.ended == [(plain.pid, NO_COMMAND)]


_WITHOUT_A_TRACE = """
child = run(*python(sys.argv[1]), start_new_session=True, env={})
say("parent")
child.wait()
"""


def test_one_that_loses_its_parent_while_it_does_not_show_itself_is_ended(
    brood: Brood, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1. It is in the middle of an exec, and carries no marker. 2. It is let go for now. 3. Its parent is ended."""
    monkeypatch.setattr(process_tree, "_LONGEST_EXEC", 60.0)
    parent, child = brood.text(AT_HAND, _WITHOUT_A_TRACE), brood.text("say('child'); stay()")
    tree = Tree(brood, "run(*python(sys.argv[1], sys.argv[2])); say('leader'); stay()", parent, child)
    handles = brood.hold("parent", "child", "leader")
    looks = _hide(handles["child"].pid, monkeypatch, looks=5)

    _sweep(tree)

    assert looks[0] > 5
    assert handles.pop("leader").alive()
    assert not any(handle.alive() for handle in handles.values())


@pytest.mark.parametrize("shared", [True, False], ids=["before its exec", "after it"])
def test_child_that_shares_its_parent_s_memory_does_not_show_what_it_is(
    brood: Brood, monkeypatch: pytest.MonkeyPatch, shared: bool
) -> None:
    """A janitor, say, that a thread of the worker is starting: until its exec it has the worker's command line."""
    monkeypatch.setattr(process_tree, "_LONGEST_EXEC", 60.0)
    tree = Tree(brood, _NAMED, brood.text("say('attendant'); stay()"))
    handles = brood.hold("attendant", "plain", "leader")
    named = handles["attendant"].pid
    asked = [0]

    def have_one_memory(pid: int, parent: int) -> bool:
        asked[0] += pid == named
        return shared and pid == named and asked[0] <= 5

    def command_of(pid: int) -> str:
        hides = shared and pid == named and asked[0] <= 5
        return shown(tree.process.pid if hides else pid)

    shown = process_table.command_of
    monkeypatch.setattr(process_table, "have_one_memory", have_one_memory)
    monkeypatch.setattr(process_tree, "command_of", command_of)

    _sweep(tree)

    assert asked[0] > (5 if shared else 0)
    assert handles["attendant"].alive()
    assert not handles["plain"].alive()


def test_one_at_its_own_end_is_nobody_that_was_ended(brood: Brood, monkeypatch: pytest.MonkeyPatch) -> None:
    """It shows no command line any more, and gives up its descriptors: the last of them frees much memory."""
    met: list[bool] = []
    is_exiting = process_table.is_exiting
    monkeypatch.setattr(process_tree, "is_exiting", lambda pid: met.append(is_exiting(pid)) or met[-1])
    for attempt in range(20):  # on a busy machine it may be dead before we have our turn
        name = f"held{attempt}"
        tree = Tree(brood, f"leave('{name}', lambda: os.write(os.memfd_create(''), bytes({256 << 20}))); stay()")
        held = brood.hold(name)[name]
        held.send(signal.SIGKILL)
        while process_table.command_of(held.pid):
            continue
        assert _sweep(tree).ended == []
        if any(met):
            break

    assert any(met)


def _sweep(tree: Tree) -> TreeEnding:
    """End everything beneath the leader that is no attendant, and not the leader."""
    ending = TreeEnding(
        [tree.leader],
        f"{tree.marker}=".encode(),
        lambda *_: True,
        spared=frozenset({tree.process.pid}),
        spares_attendants=True,
    )
    ending.run()
    return ending


def _hide(pid: int, monkeypatch: pytest.MonkeyPatch, looks: int) -> list[int]:
    """Have a process look like one in the middle of an exec, so many times; return the count of looks at it."""
    count = [0]

    def environment(asked: int) -> bytes:
        count[0] += asked == pid
        return b"" if asked == pid and count[0] <= looks else environment_of(asked)

    def command(asked: int) -> str:
        return "" if asked == pid and count[0] <= looks else command_of(asked)

    environment_of, command_of = process_table.environment_of, process_table.command_of
    for module in (process_table, process_tree):
        monkeypatch.setattr(module, "environment_of", environment)
        monkeypatch.setattr(module, "command_of", command)
    return count
