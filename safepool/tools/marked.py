"""Which processes of this user does a pool have, or say that it has?"""

from __future__ import annotations

import os

import psutil

from safepool._os.origin import MARK, Fate, Origin, fate_of, origins_in
from safepool._os.process_table import ProcessRow, environment_of, list_pids, read_row
from safepool._os.process_tree import Leader
from safepool._plain import NamedTuple

__all__ = ["Scan", "has_guardian", "is_worker_of", "scan"]


class Scan(NamedTuple):
    """The processes of this user at one moment, and what those of pools say of themselves.

    A process that came to its end while it was looked at is in it or not; what is asked of it later may find it gone.
    """

    rows: dict[int, ProcessRow]  # by pid
    marked: dict[int, list[Origin]]  # by pid: those that are alive, with a marker, or what looks like one, about them
    fates: dict[Leader, Fate]  # of the hosts that they name
    foreign: dict[int, ProcessRow]  # processes of other users, by pid

    def fate(self, origin: Origin) -> Fate:
        """Return what has become of the host that a process names."""
        return Fate.UNKNOWN if origin.host is None else self.fates[origin.host]


def scan() -> Scan:
    """Look at every process of this user."""
    rows: dict[int, ProcessRow] = {}
    marked: dict[int, list[Origin]] = {}
    foreign: dict[int, ProcessRow] = {}
    for pid in sorted(list_pids()):
        row = read_row(pid)
        if row is None:
            continue
        if not _is_ours(pid):
            foreign[pid] = row
            continue
        rows[pid] = row
        environment = b"" if row.is_dead else environment_of(pid)
        if MARK in environment and (origins := origins_in(environment)):  # else it only has a variable of that kind
            marked[pid] = origins
    hosts = {origin.host for origins in marked.values() for origin in origins if origin.host is not None}
    return Scan(rows, marked, {host: fate_of(host) for host in hosts}, foreign)


def is_worker_of(row: ProcessRow, origin: Origin, found: Scan) -> bool:
    """Return True for the first process of its tree: it leads its session, and the host has started it."""
    if origin.host is None or row.session != row.pid:
        return False
    return row.parent == origin.host.pid or has_guardian(row, origin.host, found)


def has_guardian(row: ProcessRow, host: Leader, found: Scan) -> bool:
    """Return True for a process whose parent is a guardian of the host's, which carries no marker, as a worker does.

    A guardian's first child is the worker, also when it is dead; the others are orphans, which came to it later.
    """
    above = found.rows.get(row.parent)
    if above is None or above.parent != host.pid or above.pid in found.marked:
        return False
    children = [(other.start, other.pid) for other in found.rows.values() if other.parent == above.pid]
    return (row.start, row.pid) == min(children)


def _is_ours(pid: int) -> bool:
    """Return True if all of its user ids are ours: one that has changed, or can change back, is not."""
    try:
        return set(psutil.Process(pid).uids()) == {os.geteuid()}
    except psutil.Error:  # it is gone
        return False
