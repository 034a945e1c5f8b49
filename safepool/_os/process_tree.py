"""End whole process trees: everything that a worker started, including what has left its group or its session.

Never blocks, never reaps, never signals a bare number unless that number is pinned. Every process but the leader is
held by a pidfd that was opened, and its start time read again, before the first signal.

The order is: freeze, list to a fixpoint, kill, confirm, list once more. Facts (measured; see docs/design.md):
* A signal to a group is atomic against fork: one SIGSTOP or SIGKILL misses no newborn. Only processes *outside* the
  group can outrun a list, so the group is frozen first and each newcomer as it is found, until a pass finds none.
* Killing the group first would reparent its children and lose the parent chain, the only trace of a child that
  cleared its environment and made its own session.
* A process in the middle of ``execve`` shows no environment for an instant: hence the pass after everybody is dead.
* A session's number is pinned while any member lives. If its leader's number shows another start time, the number
  has been taken over, and the session is no longer ours.

Processes that clean up after others (resource trackers, torch's shared-memory manager) go last: they leave by
themselves when the last user of their pipe is gone. Killed first, they leak semaphores and segments.
"""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

from safepool._os import process_exit
from safepool._os.process_table import ProcessRow, command_of, environment_of, list_rows, read_row

__all__ = ["Leader", "Remains", "TreeEnding"]

_CLEANER_GRACE = 2.0  # seconds for clean-up processes to leave by themselves; unlinking takes them milliseconds
_PATIENCE = 5.0  # seconds for killed processes to die: 4 GB of memory take 0.1 s, an uninterruptible sleep has no limit
_MOST_PASSES = 100  # a chain of forkers is caught in 2 to 4

_CLEANERS = ("resource_tracker import main", "torch_shm_manager")


class Leader(NamedTuple):
    """The first process of a tree: leader of its own session and group."""

    pid: int
    start: int


class Remains(NamedTuple):
    """One process that was ended as part of a tree."""

    pid: int
    command: str


class TreeEnding:
    """The ending of one or several trees, in steps that do not block.

    Args:
        leaders: The trees' first processes, dead or alive.
        marker: Bytes that stand in the environment of every descendant that did not clear it.
        signal_group: Signals a leader's whole group; returns False where that cannot be done safely.
        spared: Processes that are never touched, whatever they look like.
    """

    def __init__(
        self,
        leaders: Iterable[Leader],
        marker: bytes,
        signal_group: Callable[[Leader, int], bool],
        spared: frozenset[int] = frozenset(),
    ) -> None:
        self._leaders = {leader.pid: leader for leader in leaders}
        self._marker = marker
        self._signal_group = signal_group
        self._spared = spared | {0, 1, os.getpid(), os.getppid()}
        self._since = min((leader.start for leader in self._leaders.values()), default=0)
        self._alive: dict[int, int] = {}  # pid -> pidfd, of everybody found and not yet seen dead
        self._cleaners: set[int] = set()
        self._seen: set[tuple[int, int]] = set()
        self._quiet = False
        self.ended: list[Remains] = []
        self.deadline: float | None = None
        self._give_up = time.monotonic() + _PATIENCE

    def begin(self) -> None:
        """Freeze and kill everything that can be found."""
        for leader in self._leaders.values():
            self._signal_group(leader, signal.SIGSTOP)
        self._freeze_to_fixpoint()
        self._kill()

    def pidfds(self) -> list[int]:
        """Return the pidfds of those that are still to die: wait until one is readable, or until ``deadline``."""
        return list(self._alive.values())

    def advance(self) -> bool:
        """Take note of the dead, go on where something is left; return True when nothing is, or hope is given up."""
        self._drop_dead()
        if time.monotonic() >= self._give_up:
            return True
        if self._alive:
            return self._wait_for_cleaners()
        if not self._quiet:  # everybody is dead: look once more for whoever was in the middle of an exec
            self._quiet = True
            self._freeze_to_fixpoint()
            self._kill()
            self._drop_dead()
        return not self._alive

    def run(self) -> None:
        """Do all of it, waiting as long as it takes (at most a few seconds)."""
        self.begin()
        while not self.advance():
            poll = select.poll()
            for pidfd in self._alive.values():
                poll.register(pidfd, select.POLLIN)
            until = min(self._give_up, self.deadline or self._give_up)
            poll.poll(max(0.0, until - time.monotonic()) * 1000 + 1)
        self.close()

    def close(self) -> None:
        """Let go of everybody; those that would not die stay where they are."""
        for pidfd in self._alive.values():
            os.close(pidfd)
        self._alive.clear()

    @property
    def wake_at(self) -> float:
        """The instant (monotonic seconds) at which ``advance`` has something to do even if nobody died."""
        return self._give_up if self.deadline is None else min(self.deadline, self._give_up)

    def _freeze_to_fixpoint(self) -> None:
        for _ in range(_MOST_PASSES):
            newcomers = [row for row in self._find_members() if (row.pid, row.start) not in self._seen]
            if not newcomers:
                return
            self._quiet = False
            for row in newcomers:
                self._seen.add((row.pid, row.start))
                self._hold(row)

    def _hold(self, row: ProcessRow) -> None:
        pidfd = process_exit.open_pidfd(row.pid)
        if pidfd is None:
            return
        now = read_row(row.pid)
        if now is None or now.start != row.start:  # the number changed hands between the list and the pidfd
            os.close(pidfd)
            return
        command = command_of(row.pid)
        self._alive[row.pid] = pidfd
        if any(cleaner in command for cleaner in _CLEANERS):
            self._cleaners.add(row.pid)
        else:
            process_exit.send_signal(pidfd, signal.SIGSTOP)
        if row.pid not in self._leaders:
            self.ended.append(Remains(row.pid, command or "(a process without a command line)"))

    def _find_members(self) -> list[ProcessRow]:
        rows = {row.pid: row for row in list_rows(self._since)}
        ours = {pid for pid, row in rows.items() if self._is_member(row, rows)}
        grown = True
        while grown:
            children = {pid for pid, row in rows.items() if row.parent in ours and pid not in ours}
            grown = bool(children)
            ours |= children
        return [rows[pid] for pid in ours - self._spared if not rows[pid].is_dead]

    def _is_member(self, row: ProcessRow, rows: dict[int, ProcessRow]) -> bool:
        if (row.pid, row.start) in self._seen:
            return True
        leader = self._leaders.get(row.session) or self._leaders.get(row.group)
        if leader is not None and row.start >= leader.start:
            present = rows.get(leader.pid)
            if present is None or present.start == leader.start:
                return True
        return bool(self._marker) and not row.is_dead and self._marker in environment_of(row.pid)

    def _kill(self) -> None:
        if not self._cleaners:
            for leader in self._leaders.values():
                self._signal_group(leader, signal.SIGKILL)
        for pid, pidfd in self._alive.items():
            process_exit.send_signal(pidfd, signal.SIGCONT if pid in self._cleaners else signal.SIGKILL)
        if self._cleaners and self.deadline is None:
            self.deadline = time.monotonic() + _CLEANER_GRACE

    def _wait_for_cleaners(self) -> bool:
        """With only clean-up processes left, give them their grace, then end them, too."""
        if self.deadline is not None and time.monotonic() >= self.deadline:
            self._cleaners.clear()
            self.deadline = None
            self._kill()
        return False

    def _drop_dead(self) -> None:
        for pid, pidfd in list(self._alive.items()):
            if process_exit.has_ended(pidfd):
                os.close(pidfd)
                del self._alive[pid]
                self._cleaners.discard(pid)
