"""End whole process trees: everything that a worker started, including what has left its group or its session.

Never blocks, never reaps, never signals a bare number unless that number is pinned (or, where there is no room for a
pidfd, an instant after its start time was read). Every process but the leader is
held by a pidfd that was opened, and its start time read again, before the first signal.

The order is: freeze, list to a fixpoint, kill, confirm, list once more. Facts (measured; see docs/design.md):
* A signal to a group is atomic against fork: one SIGSTOP or SIGKILL misses no newborn. Only processes *outside* the
  group can outrun a list, so the group is frozen first and each newcomer as it is found, until a pass finds none.
* Killing the group first would reparent its children and lose the parent chain, the only trace of a child that
  cleared its environment and made its own session.
* A process in the middle of ``execve`` shows neither environment nor command line (proc(5), environ_read), for an
  instant, or for as long as a busy machine keeps it waiting just then. It is looked at until it shows them.
* An orphan is given its new parent at the parent's death, before anybody can reap that (kernel/exit.c, exit_notify).
* A session's number is pinned while any member lives. If its leader's number shows another start time, the number
  has been taken over, and the session is no longer ours.

Processes that clean up after others (resource trackers, torch's shared-memory manager) go last: they leave by
themselves when the last user of their pipe is gone. Killed first, they leak semaphores and segments.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Callable, Iterable, Iterator

from safepool._os import process_exit
from safepool._os.command_line import NO_COMMAND, is_attendant, is_cleaner
from safepool._os.control_group import ControlGroup
from safepool._os.process_table import (
    ProcessRow,
    command_of,
    environment_of,
    has_program,
    has_variable,
    is_being_started,
    is_exiting,
    list_pids,
    read_row,
    with_descendants,
)
from safepool._plain import NamedTuple

__all__ = ["Leader", "Remains", "TreeEnding", "is_there"]

_CLEANER_GRACE = 2.0  # seconds for clean-up processes to leave by themselves; unlinking takes them milliseconds
_PATIENCE = 5.0  # seconds for killed processes to die: 4 GB of memory take 0.1 s, an uninterruptible sleep has no limit
_MOST_PASSES = 1000  # of about 0.1 ms; a chain of forkers is caught in 10 to 80
_QUIET_PASSES = 5  # without a newcomer, where somebody has moved to a session of its own
_QUIET = 0.005  # seconds of the same: longer than a process waits for its turn on a busy machine
_LONGEST_CHASE = 0.05  # seconds since the last newcomer, for those that are gone before they are looked at
_MOST_HELD = 128  # descriptors; a larger tree is ended in turns
_LONGEST_EXEC = 1.0  # seconds; who shows nothing of itself for longer has made itself so
_RETRY = 0.01  # seconds until the next look where there was no room for one


class Leader(NamedTuple):
    """The first process of a tree: leader of its own group, and mostly of its own session."""

    pid: int
    start: int


def is_there(leader: Leader) -> bool:
    """Return True while this very process has its number, be it as a corpse."""
    row = read_row(leader.pid)
    return row is not None and row.start == leader.start


class Remains(NamedTuple):
    """One process that was ended as part of a tree."""

    pid: int
    command: str


class _Held(NamedTuple):
    pidfd: int
    is_cleaner: bool


class TreeEnding:
    """The ending of one or several trees, in steps that do not block.

    Args:
        leaders: The trees' first processes, dead or alive.
        marker: The beginning of a variable in the environment of every descendant that did not clear it.
        signal_group: Signals a leader's whole group; returns False where that cannot be done safely.
        spared: Processes that are never touched, whatever they look like.
        spared_trees: The same, and those that descend from them.
        since: The start time (clock ticks) before which nobody can be a member; by default, of the first leader.
        group: The control group in which the tree lives: whoever is there is a member, whatever it has done to itself.
            It is frozen and killed as a whole, unless a leader is spared.
        guardian: The process to which the tree's orphans come: it is no member, and whoever descends from it is.
        spares_sessions: Whoever is in another session than a leader is left alone: nobody gets there but by making one.
        spares_attendants: Whoever cleans up, or is a janitor, is left alone; that is told when it is found, not before.
    """

    def __init__(
        self,
        leaders: Iterable[Leader],
        marker: bytes,
        signal_group: Callable[[Leader, int], bool],
        spared: frozenset[int] = frozenset(),
        since: int | None = None,
        spared_trees: frozenset[int] = frozenset(),
        group: ControlGroup | None = None,
        guardian: Leader | None = None,
        spares_sessions: bool = False,
        spares_attendants: bool = False,
    ) -> None:
        self._group = group
        self._guardian = guardian
        self._adopter = 0  # the guardian's number, if it was there at the last look
        self._is_stirring = False  # whether somebody left, or lost a parent, while we looked
        self._has_missed = False  # whether somebody was gone before we could look
        self._grouped: set[int] = set()  # who was there at the last look
        self._leaders = {leader.pid: leader for leader in leaders}
        self._whole_group = None if spared & self._leaders.keys() else group
        self._marker = marker
        self._signal_group = signal_group
        self._spared = spared | {0, 1, os.getpid(), os.getppid()}
        self._spared_trees = spared_trees
        self._spares_sessions = spares_sessions
        self._spares_attendants = spares_attendants
        first = min((leader.start for leader in self._leaders.values()), default=0)
        self._since = first if since is None else since
        self._held: dict[int, _Held] = {}  # by pid: everybody found and not yet seen dead
        self._seen: set[tuple[int, int]] = set()  # (pid, start)
        self._let_go: set[tuple[int, int]] = set()  # members all the same, if they should lose their parent
        self._retry_at: float | None = None  # when to look again: for those that could not be held, or not be told
        self._unknown: set[int] = set()  # those in the middle of an exec, at the last look
        self._unknown_until = time.monotonic() + _LONGEST_EXEC
        self._cleaners_until: float | None = None  # when the grace of clean-up processes is over
        self._has_had_grace = False  # whoever calls itself one from then on is taken for what it is
        self.ended: list[Remains] = []
        self._give_up = time.monotonic() + _PATIENCE
        self._has_begun = False

    def freeze(self) -> None:
        """Stop the leaders' groups, which takes no time to speak of; ``advance`` does the rest."""
        if self._whole_group is not None:
            self._whole_group.freeze()
        for leader in self._leaders.values():
            self._signal_group(leader, signal.SIGSTOP)
        self._retry_at = time.monotonic()

    def begin(self) -> None:
        """Freeze and kill everything that can be found."""
        self.freeze()
        self._has_begun = True
        self._retry_at = None
        self._freeze_to_fixpoint()
        self._kill()

    def pidfds(self) -> list[int]:
        """Return the pidfds of those that are still to die: wait until one is readable, or until ``wake_at``."""
        return [held.pidfd for held in self._held.values()]

    @property
    def wake_at(self) -> float:
        """The instant (monotonic seconds) at which ``advance`` has something to do even if nobody died."""
        instants = (self._retry_at, self._cleaners_until, self._give_up)
        return min(instant for instant in instants if instant is not None)

    def advance(self) -> bool:
        """Take note of the dead, go on where something is left; return True when nothing is, or hope is given up."""
        if not self._has_begun:
            self.begin()
        self._drop_dead()
        now = time.monotonic()
        if now >= self._give_up:
            return True
        if self._cleaners_until is not None and now >= self._cleaners_until:
            self._cleaners_until, self._has_had_grace = None, True
            self._kill(cleaners=True)
        if self._held and (self._retry_at is None or now < self._retry_at):
            return False
        # Everybody that was held is dead. Once more, for whoever was in the middle of an exec, or found no room.
        self._retry_at = None
        self._freeze_to_fixpoint()
        self._kill()
        self._drop_dead()
        is_over = not self._held and self._retry_at is None
        return is_over and self._is_group_empty()

    def _is_group_empty(self) -> bool:
        """Return True if nobody is left in the control group; else kill whoever has come since the last list."""
        if self._whole_group is None or not self._whole_group.is_populated:
            return True
        self._whole_group.kill()
        self._retry_at = time.monotonic() + _RETRY
        return False

    def run(self) -> list[int]:
        """Do all of it, waiting as long as it takes (at most a few seconds); return who would not die."""
        while not self.advance():
            poll = select.poll()
            for pidfd in self.pidfds():
                poll.register(pidfd, select.POLLIN)
            poll.poll(max(0.0, self.wake_at - time.monotonic()) * 1000 + 1)
        return self.close()

    def close(self) -> list[int]:
        """Let go of everybody; return the process ids of those that would not die."""
        survivors = list(self._held)
        for held in self._held.values():
            os.close(held.pidfd)
        self._held.clear()
        return survivors

    def _freeze_to_fixpoint(self) -> None:
        """List until nobody new is found; after the first pass only those that have come since are looked at.

        One that has left the leader's session may be a link of a chain: it starts its successor and is gone before a
        list is read to its end. So the newest are looked at first, each is frozen on sight, and where there is such a
        one, it takes several passes and a few milliseconds without a newcomer to make an end. One that has come since
        the last list, and is gone before it is looked at, may have been a link, too, of which nothing is known but that
        there is a next one by then: such a pass does not count, for a while (strangers come and go as well).
        """
        rows: dict[int, ProcessRow] = {}
        known: set[int] = set()
        quiet, quiet_since, somebody_moved = 0, time.monotonic(), False
        try:
            for number in range(_MOST_PASSES):
                pids = list_pids(self._leaders)
                self._grouped = set() if self._group is None else self._group.pids()
                self._adopter = self._guardian.pid if self._guardian is not None and is_there(self._guardian) else 0
                fresh, known = pids - known, pids
                self._unknown.clear()
                before = len(self._seen)
                for row in self._find_members(fresh, rows):
                    if row.pid in self._held or self._seize(row):
                        somebody_moved |= row.session not in self._leaders
                somebody_moved |= self._is_stirring
                known -= self._unknown
                if len(self._seen) > before:
                    quiet, quiet_since = 0, time.monotonic()
                elif self._has_missed and number and time.monotonic() < quiet_since + _LONGEST_CHASE:
                    quiet, somebody_moved = 0, True
                else:
                    quiet += 1
                    is_long = quiet >= _QUIET_PASSES and time.monotonic() >= quiet_since + _QUIET
                    if is_long or not somebody_moved:
                        break
        except OSError:  # no descriptor to read /proc with
            self._retry_at = time.monotonic() + _RETRY
        if self._unknown:  # nobody is, from a certain time on
            self._retry_at = time.monotonic() + _RETRY

    def _seize(self, row: ProcessRow) -> bool:
        """Hold the process by a pidfd, and freeze it; clean-up processes are left running. False if it is let go."""
        if self._spares_attendants and self._may_attend(row):
            self._let_go.add((row.pid, row.start))
            return False
        pidfd = self._open(row)
        if pidfd is None:
            self._seen.add((row.pid, row.start))
            return True
        try:
            command = command_of(row.pid)
        except OSError:  # the last descriptor went into the pidfd
            command = ""
        is_new = (row.pid, row.start) not in self._seen
        self._seen.add((row.pid, row.start))
        if is_new and row.pid not in self._leaders:
            self.ended.append(Remains(row.pid, command or NO_COMMAND))
        cleans_up = is_cleaner(command) and not self._has_had_grace
        if pidfd < 0:
            self._end_unheld(row, cleans_up)
            return True
        self._held[row.pid] = _Held(pidfd, cleans_up)
        if not cleans_up:
            process_exit.send_signal(pidfd, signal.SIGSTOP)
        return True

    def _may_attend(self, row: ProcessRow) -> bool:
        """Return True for an attendant, for one at its own end, and for one that does not show itself: it is to do so.

        A janitor that is being started is no janitor yet, then one that leaves, and its child is the janitor.
        """
        is_early = time.monotonic() < self._unknown_until
        try:
            if is_early and is_being_started(row):
                self._unknown.add(row.pid)
                return True
            command = command_of(row.pid)
            return is_attendant(command) or (not command and is_exiting(row.pid))
        except OSError:  # no descriptor to look with
            if is_early:
                self._unknown.add(row.pid)
            return is_early

    def _open(self, row: ProcessRow) -> int | None:
        """Return a pidfd, -1 if there is no room for one, or None if the process is gone or its number another's."""
        pidfd: int | None = -1
        if len(self._held) < _MOST_HELD:
            with contextlib.suppress(OSError):
                pidfd = process_exit.open_pidfd(row.pid)
        if pidfd is None:
            return None
        try:
            now = read_row(row.pid)
        except OSError:  # the last descriptor went into the pidfd
            os.close(pidfd)
            pidfd, now = -1, read_row(row.pid)
        if now is None or now.start != row.start:
            if pidfd >= 0:
                os.close(pidfd)
            return None
        return pidfd

    def _end_unheld(self, row: ProcessRow, cleans_up: bool) -> None:
        """There is no room to hold it: end it by number, an instant after its start time was read; look again soon.

        Who calls itself a clean-up process has the grace of those that are held: without an end it would outlast us.
        """
        self._retry_at = time.monotonic() + _RETRY
        if cleans_up:
            self._begin_grace()
        else:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(row.pid, signal.SIGKILL)

    def _find_members(self, fresh: set[int], rows: dict[int, ProcessRow]) -> Iterator[ProcessRow]:
        """Read the fresh ones into the rows; yield those that carry the marker at once, all other members after."""
        self._is_stirring = self._has_missed = False
        for pid in sorted(fresh, reverse=True):
            row = read_row(pid)
            if row is None:
                self._has_missed = True
                self._is_stirring |= self._adopter > 0
            elif row.start >= self._since:
                rows[pid] = row
                if self._is_marked(row) and not self._is_spared(row, rows):
                    yield row
        if self._adopter:
            self._follow_orphans(rows)
        elif not fresh:
            return
        ours = {pid for pid, row in rows.items() if self._is_member(row, rows)}
        for pid in with_descendants(ours, rows.values()):
            if not rows[pid].is_dead and not self._is_spared(rows[pid], rows):
                yield rows[pid]

    def _follow_orphans(self, rows: dict[int, ProcessRow]) -> None:
        """Read those again whose parent we do not know: it may have died since, and they have come to the guardian.

        1. A row is read. 2. Its process loses its parent. 3. The parent is looked for, and not found: the trace ends.
        Who has shown the same parent twice is a stranger, whose parent is older than the tree, or hidden.
        """
        has_changed = True
        while has_changed:
            has_changed = False
            for row in [row for row in rows.values() if row.parent not in rows and row.parent != self._adopter]:
                now = read_row(row.pid)
                if now is None:
                    del rows[row.pid]
                elif now.parent != row.parent:
                    rows[row.pid] = now
                else:
                    continue
                has_changed = self._is_stirring = True

    def _is_member(self, row: ProcessRow, rows: dict[int, ProcessRow]) -> bool:
        name = (row.pid, row.start)
        if name in self._seen or name in self._let_go or row.pid in self._grouped or row.parent == self._adopter > 0:
            return True
        leader = self._leaders.get(row.session) or self._leaders.get(row.group)
        if leader is not None and row.start >= leader.start:
            present = rows.get(leader.pid)
            if present is None or present.start == leader.start:
                return True
        return False

    def _is_spared(self, row: ProcessRow, rows: dict[int, ProcessRow]) -> bool:
        """Return True for one of those that are not to be touched; their children may be younger than any list."""
        if row.pid in self._spared or (self._spares_sessions and row.session not in self._leaders):
            return True
        above: ProcessRow | None = row if self._spared_trees else None
        while above is not None and above.pid not in self._leaders:
            if above.pid in self._spared_trees:
                return True
            above = rows.get(above.parent) or read_row(above.parent)
        return False

    def _is_marked(self, row: ProcessRow) -> bool:
        if not self._marker or row.is_dead:
            return False
        environment = environment_of(row.pid)
        if not environment and has_program(row.pid):
            if command_of(row.pid):  # if that was an exec, it is over
                environment = environment_of(row.pid)
            elif time.monotonic() < self._unknown_until:
                self._unknown.add(row.pid)
        return has_variable(environment, self._marker)

    def _kill(self, *, cleaners: bool = False) -> None:
        """Kill everybody, but let clean-up processes go on, unless their grace is over."""
        spare = {pid for pid, held in self._held.items() if held.is_cleaner and not cleaners}
        if not spare:
            for leader in self._leaders.values():
                self._signal_group(leader, signal.SIGKILL)
        for pid, held in self._held.items():
            process_exit.send_signal(held.pidfd, signal.SIGCONT if pid in spare else signal.SIGKILL)
        if self._whole_group is not None:
            self._whole_group.freeze(on=False)  # clean-up processes have to run
        if spare:
            self._begin_grace()

    def _begin_grace(self) -> None:
        if self._cleaners_until is None:
            self._cleaners_until = time.monotonic() + _CLEANER_GRACE

    def _drop_dead(self) -> None:
        for pid, held in list(self._held.items()):
            if process_exit.has_ended(held.pidfd):
                os.close(held.pidfd)
                del self._held[pid]
