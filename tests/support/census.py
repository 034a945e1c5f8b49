"""Who is alive, seen from outside: by session, by group, by parent and by a marker in the environment.

Nothing here asks the package under test. A process that left its parent, its group and its session is still seen
as long as it carries the marker, which every child inherits. Zombies are not alive: who reaps them is the
business of their parent, and an orphan's parent may be an init that is slow at it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import NamedTuple

from support.eventually import eventually

__all__ = [
    "Seen",
    "carrying",
    "children_of",
    "environment_of",
    "in_group",
    "in_session",
    "living",
    "look_at",
    "nobody",
    "open_files",
    "zombies_of",
]

_ZOMBIE = ("Z", "X")


class Seen(NamedTuple):
    """One process at one moment."""

    pid: int
    ppid: int
    pgid: int
    sid: int
    terminal: int
    state: str
    ticks: int
    started: int
    command: str

    def __str__(self) -> str:
        return f"{self.command or '?'} (pid {self.pid}, parent {self.ppid}, session {self.sid}, {self.state})"


def look_at(pid: int) -> Seen | None:
    """Describe a process, zombies included; None if there is none."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            text = file.read()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The name in parentheses may itself hold spaces and parentheses: only the last one closes it.
    name, _, rest = text.rpartition(b")")
    field = rest.split()
    return Seen(
        pid=pid,
        ppid=int(field[1]),
        pgid=int(field[2]),
        sid=int(field[3]),
        terminal=int(field[4]),
        state=field[0].decode(),
        ticks=int(field[11]),
        started=int(field[19]),
        command=_command(pid) or name.partition(b"(")[2].decode(errors="replace"),
    )


def living() -> Iterator[Seen]:
    """Every process but zombies."""
    return (seen for seen in _everyone() if seen.state not in _ZOMBIE)


def carrying(marker: str) -> list[Seen]:
    """Living processes with an environment variable whose name starts with ``marker``."""
    wanted = b"\0" + marker.encode()
    return [seen for seen in living() if wanted in b"\0" + environment_of(seen.pid)]


def in_session(sid: int) -> list[Seen]:
    """Living processes of a session."""
    return [seen for seen in living() if seen.sid == sid]


def in_group(pgid: int) -> list[Seen]:
    """Living processes of a process group."""
    return [seen for seen in living() if seen.pgid == pgid]


def children_of(ppid: int) -> list[Seen]:
    """Living direct children."""
    return [seen for seen in living() if seen.ppid == ppid]


def zombies_of(ppid: int) -> list[Seen]:
    """Direct children that nobody has reaped."""
    return [seen for seen in _everyone() if seen.ppid == ppid and seen.state in _ZOMBIE]


def environment_of(pid: int) -> bytes:
    """The environment a process started with; empty where it may not be read."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return file.read()
    except OSError:
        return b""


def open_files(pid: int | str = "self") -> dict[int, str]:
    """Open descriptors of a process and what they refer to."""
    found: dict[int, str] = {}
    for name in os.listdir(f"/proc/{pid}/fd"):
        try:
            found[int(name)] = os.readlink(f"/proc/{pid}/fd/{name}")
        except FileNotFoundError:  # the descriptor of the listing itself
            continue
    return found


def nobody(census: Callable[[], list[Seen]], *, within: float = 20.0) -> None:
    """Wait until ``census`` finds nobody, and go on finding nobody."""

    def empty() -> bool:
        # While a process execs there is a moment without an environment: one empty look does not prove much.
        return not any(census() for _ in range(3))

    eventually(empty, within=within, otherwise=lambda: "still alive: " + "; ".join(map(str, census())))


def _everyone() -> Iterator[Seen]:
    for name in os.listdir("/proc"):
        if name.isdigit() and (seen := look_at(int(name))) is not None:
            yield seen


def _command(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read().rstrip(b"\0").replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""
