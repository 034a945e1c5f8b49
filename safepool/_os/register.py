"""The register: which trees does this host own at this moment? Kept where it outlives the host.

A memory file without a name, of fixed records, written by the host and read by the janitor after the host's death. The
first page has the path of the host's control groups, if it uses them.
A file rather than messages: nothing to overflow, to lose, or to repeat when a janitor is replaced.

Facts: a memory file has no name and goes with its last descriptor (``memory_file``); a ``pwrite`` of a few bytes within
a page is seen whole by a reader that comes after the writer's death.
"""

from __future__ import annotations

import os
import struct
import threading

from safepool._os.memory_file import new_memory_file
from safepool._os.process_tree import Leader

__all__ = ["Register", "read_house", "read_leaders"]

_RECORD = struct.Struct("=QQ")  # pid, start; zeros are a free record
_FIRST = 1 << 12  # bytes up to the first record; no path is longer (PATH_MAX)
_MOST_PIDS = 1 << 22  # numbers of processes are below that on every Linux
_SPARING = 1 << 32  # added to the pid: of this tree, those that have made a session of their own are to be left alone


class Register:
    """The host's side: enter a tree when it is born, strike it out when it is gone."""

    def __init__(self) -> None:
        self.fd = new_memory_file("safepool-register", _FIRST)
        self._lock = threading.Lock()
        self._free: list[int] = []
        self._size = 0

    def enter(self, leader: Leader, *, sparing: bool = False) -> int:
        """Record a tree; return the slot to strike out later.

        Args:
            leader: Its first process.
            sparing: Those that have made a session of their own are to be left alone.
        """
        with self._lock:
            if self._free:
                slot = self._free.pop()
            else:
                slot = self._size
                self._size += 1
            pid = leader.pid | (_SPARING if sparing else 0)
            os.pwrite(self.fd, _RECORD.pack(pid, leader.start), _place_of(slot))
        return slot

    def note_house(self, path: str) -> None:
        """Record where the host's control groups are."""
        os.pwrite(self.fd, os.fsencode(path) + b"\0", 0)

    def strike(self, slot: int) -> None:
        """Forget a tree of which nothing is left."""
        with self._lock:
            os.pwrite(self.fd, bytes(_RECORD.size), _place_of(slot))
            self._free.append(slot)


def read_house(fd: int) -> str:
    """Return where the host's control groups are; nothing if it has none."""
    return os.fsdecode(os.pread(fd, _FIRST, 0).partition(b"\0")[0])


def read_leaders(fd: int, *, sparing: bool = False) -> list[Leader]:
    """Return the trees that are on record: those to be ended whole, or those in which some are to be left alone."""
    size = max(0, os.fstat(fd).st_size - _FIRST)
    content = os.pread(fd, size, _FIRST)
    whole = len(content) - len(content) % _RECORD.size
    flag = _SPARING if sparing else 0
    return [
        Leader(pid ^ flag, start) for pid, start in _RECORD.iter_unpack(content[:whole]) if 0 < pid ^ flag <= _MOST_PIDS
    ]


def _place_of(slot: int) -> int:
    return _FIRST + slot * _RECORD.size
