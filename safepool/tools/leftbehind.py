"""What have pools of this user left behind whose host is gone, and how is it ended?

It takes a host and a janitor that are killed together to leave anything. Who carries the marker of a dead host is
condemned, with what descends from it; and so is the guardian of a dead host that somebody has stopped, with those who
have come to it, which may carry no trace. But for:

* whoever carries the marker of another host that lives, or of one that cannot be judged from here, with what descends
  from it; except where that host is itself condemned, for then it is as much left behind as its workers;
* whoever comes from a pool with ``detached="spare"``: it may have been detached to stay;
* whoever is older than the host that it names: nobody descends from a younger;
* this process, and those that it descends from;
* processes of other users.

A marker is a claim and no proof. A stranger whose environment names a dead host cannot be told from what that host left
behind, and is condemned: the janitor would have ended it, too. Nobody gains by forging one, since whoever can set the
environment of this user's processes can have them do anything; and a claim on a host that lives only ever spares.
"""

from __future__ import annotations

import contextlib
import os

from safepool._os.command_line import NO_COMMAND, variable_of_guardian
from safepool._os.origin import Fate, Origin, fate_of, origins_in
from safepool._os.process_table import ProcessRow, command_of, read_row, with_descendants
from safepool._os.process_tree import Leader, TreeEnding
from safepool._os.stopped_guardian import relieve
from safepool._plain import NamedTuple, dataclass
from safepool.tools.marked import Scan, scan

__all__ = ["Condemned", "LeftBehind", "end", "find"]

_PATIENCE = 10.0  # seconds for a guardian to end what it has and leave: milliseconds, or five seconds for the undying


class Condemned(NamedTuple):
    """One process that nobody looks after any more."""

    pid: int
    start: int  # clock ticks since boot
    command: str


@dataclass(frozen=True)
class LeftBehind:
    """What is to be ended, and who must not be.

    Attributes:
        processes: The condemned, in the order of their numbers.
        hosts: The hosts that they name, by token.
        leaders: Those of the condemned that lead a session, by token: all in it descend from them.
        guardians: Those of the condemned that leave by themselves when nobody is left beneath them.
        spared_trees: Those that carry a marker and are not condemned: with them, what descends from them is spared.
        spared: The same, this process and its ancestors, and those of other users.
    """

    processes: tuple[Condemned, ...]
    hosts: dict[str, Leader]
    leaders: dict[str, list[Leader]]
    guardians: tuple[Leader, ...]
    spared_trees: frozenset[int]
    spared: frozenset[int]


def find(host: int | None = None) -> LeftBehind:
    """Look at every process of this user; where a host is given, for what that one has left."""
    found = scan()
    ancestors = _ancestors(os.getpid())
    condemned, spared_trees, guardians = _condemn(found, ancestors, host, _idle_guardians(found, host))
    hosts: dict[str, Leader] = {}
    leaders: dict[str, list[Leader]] = {}
    for pid in condemned & found.marked.keys():
        for origin in found.marked[pid]:
            if origin.host is not None:
                hosts[origin.token] = origin.host
                if found.rows[pid].session == pid:
                    leaders.setdefault(origin.token, []).append(Leader(pid, found.rows[pid].start))
    processes = tuple(Condemned(pid, found.rows[pid].start, command_of(pid) or NO_COMMAND) for pid in sorted(condemned))
    spared = spared_trees | ancestors | found.foreign.keys()
    above = tuple(Leader(pid, found.rows[pid].start) for pid in guardians)
    return LeftBehind(processes, hosts, leaders, above, frozenset(spared_trees), frozenset(spared))


def end(left: LeftBehind) -> tuple[Condemned, ...]:
    """End it, and what it starts meanwhile; return what would not die."""
    for token, host in left.hosts.items():
        TreeEnding(
            left.leaders.get(token, ()),
            f"{token}_".encode(),
            lambda _leader, _signum: True,  # one by one: somebody who is spared may be in the group
            spared=left.spared,
            since=host.start,
            spared_trees=left.spared_trees,
        ).run()
    for guardian in left.guardians:
        with contextlib.suppress(OSError):  # no descriptor: it is told as a survivor
            relieve(guardian, _PATIENCE)
    return tuple(process for process in left.processes if _is_alive(process))


def _idle_guardians(found: Scan, only: int | None) -> set[int]:
    """Return the guardians that are stopped and whose host is gone; one that runs is about to end whom it has."""
    idle: set[int] = set()
    for row in found.rows.values():
        if row.state == "T" and row.session == row.pid:
            for origin in origins_in(variable_of_guardian(command_of(row.pid)).encode()):
                if origin.host is not None and only in {None, origin.host.pid} and fate_of(origin.host) is Fate.GONE:
                    idle.add(row.pid)
    return idle


def _condemn(found: Scan, ancestors: set[int], only: int | None, idle: set[int]) -> tuple[set[int], set[int], set[int]]:
    """Return the condemned, those with a marker that are not, and the guardians that can be relieved.

    To condemn a host is to condemn its workers. All that a guardian has is ended with it: it is condemned unless
    somebody in its tree is spared.
    """
    everybody = [*found.rows.values(), *found.foreign.values()]
    condemned: set[int] = set()
    while True:
        hosts = {Leader(pid, found.rows[pid].start) for pid in condemned}
        over = {
            pid
            for pid, origins in found.marked.items()
            if all(_is_over(origin, found.rows[pid], found, hosts) for origin in origins)
            and any(only in {None, origin.host.pid} or origin.host in hosts for origin in origins if origin.host)
        }
        spared = found.marked.keys() - over
        rows = [row for row in found.rows.values() if not row.is_dead and row.pid not in spared | ancestors]
        untouchable = spared | ancestors | found.foreign.keys()
        free = {pid for pid in idle if not with_descendants([pid], everybody) & untouchable}
        grown = with_descendants(over - ancestors | free | {row.pid for row in rows if row.session in over}, rows)
        if grown == condemned:
            return condemned, spared, free
        condemned = grown


def _is_over(origin: Origin, row: ProcessRow, found: Scan, condemned: set[Leader]) -> bool:
    if origin.host is None or origin.is_sparing or row.start < origin.host.start:
        return False
    return origin.host in condemned or found.fate(origin) is Fate.GONE


def _ancestors(pid: int) -> set[int]:
    found: set[int] = set()
    while pid and pid not in found:
        found.add(pid)
        row = read_row(pid)
        pid = 0 if row is None else row.parent
    return found


def _is_alive(process: Condemned) -> bool:
    row = read_row(process.pid)
    return row is not None and row.start == process.start and not row.is_dead
