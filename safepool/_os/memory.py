"""How much memory a process, or a tree of processes, holds.

Facts (proc(5)): ``statm`` gives resident pages at once; a page that several processes share counts in each of them.
``smaps_rollup`` gives each its share (Pss), what is swapped out included, but walks all mappings: about a millisecond
for each gigabyte. So the quick sum, which is never below the true one but for what is swapped out, decides whether the
true one is asked for.

What a process held at its highest, shared pages included, the kernel keeps by itself: ``VmHWM`` in
proc_pid_status(5). A "5" in its ``clear_refs`` (Linux 4.0) makes what it holds now the highest. Of a tree of processes
it keeps nothing; that of a control group (``memory.peak``) counts the content of files that somebody has read, and can
be set back since Linux 6.12 only.

Nothing tells that a tree has grown, so it is looked at again and again.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable

from safepool._os.process_table import (
    have_one_memory,
    highest_size_of,
    list_rows,
    memory_share_of,
    read_row,
    resident_pages_of,
)
from safepool._os.tree_members import TreeMembers

__all__ = ["FIRST_LOOK", "forget_highest_size", "highest_size", "measure_trees", "pause_after", "resident_size"]

FIRST_LOOK = 0.1  # seconds; later looks follow each other as quickly, where they cost little
_SHARE = 10  # at most one part in so many of a core's time goes into it, on a machine full of processes, too
_PAGE = os.sysconf("SC_PAGE_SIZE")


def resident_size(pid: int) -> int:
    """Return the bytes that the process has in memory; 0 if it is gone."""
    return resident_pages_of(pid) * _PAGE


def forget_highest_size(pid: int) -> None:
    """Have ``highest_size`` tell of what follows.

    Raises:
        OSError: It is gone, has made itself unreadable, or there is no descriptor.
    """
    fd = os.open(f"/proc/{pid}/clear_refs", os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, b"5")
    finally:
        os.close(fd)


def highest_size(pid: int) -> int:
    """Return the bytes that the process had in memory at its highest; 0 if it is gone, or cannot be looked at now."""
    with contextlib.suppress(OSError):
        return highest_size_of(pid)
    return 0


def pause_after(cost: float) -> float:
    """Return the seconds until the next look, after one that took so many seconds of a core."""
    return max(FIRST_LOOK, _SHARE * cost)


def measure_trees(trees: Iterable[tuple[TreeMembers, int]]) -> list[int]:
    """Return what each tree holds, in bytes, given the size up to which a rough figure is good enough.

    Raises:
        OSError: There is no descriptor to read /proc with.
    """
    trees = list(trees)
    rows = list(list_rows(min(members.leader.start for members, _ in trees)))
    return [_measure(members.find(rows), limit) for members, limit in trees]


def _measure(pids: set[int], limit: int) -> int:
    size = sum(map(resident_size, pids))
    if size <= limit:
        return size
    # Twice: while one after another is read, what they share moves to those that are left when one of them ends.
    return min(_share_of_all(pids), _share_of_all(pids))


def _share_of_all(pids: set[int]) -> int:
    return sum(_share_of(pid) for pid in pids if not _borrows_memory(pid, pids))


def _borrows_memory(pid: int, pids: set[int]) -> bool:
    """Return True between a vfork and the exec: the child shows its parent's memory as its own."""
    row = read_row(pid)
    return row is not None and row.parent in pids and have_one_memory(pid, row.parent)


def _share_of(pid: int) -> int:
    share = memory_share_of(pid)
    return resident_size(pid) if share is None else share
