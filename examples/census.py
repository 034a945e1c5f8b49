"""Which processes of a host are alive? Asked of /proc, by a process that is no part of the host.

    python examples/census.py --host 4242 --marker SAFEPOOL_0123456789abcdef0123456789abcdef

prints one JSON object for each process that still belongs to the host, and nothing when all have gone. A process
belongs to the host if it is a child of it, or if it carries the host's marker: safepool puts an environment variable
whose *name* begins with the marker into every worker, and whatever a worker starts inherits it.

It trusts no pool's bookkeeping: an unreaped zombie counts, and so does a grandchild that left its session. Two
processes are passed over: the census itself, which the host may well have started, and the resource tracker of
multiprocessing, which the standard library keeps as a child of any host that uses shared memory or semaphores.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

PROC = Path("/proc")
TRACKER = "from multiprocessing.resource_tracker import main"  # what the standard library starts it with


class Resident(NamedTuple):
    """One process that belongs to the host."""

    pid: int
    parent: int
    state: str
    command: str
    because: str

    def __str__(self) -> str:
        return f"{self.command} (pid {self.pid}, state {self.state}, {self.because})"


def main() -> None:
    """Print what is alive now, one JSON object a line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--host", type=int, help="pid of the host, if it is alive")
    parser.add_argument("--marker", required=True, help="how the names of the host's environment variables begin")
    wanted = parser.parse_args()
    for resident in residents(wanted.marker, wanted.host):
        print(json.dumps(resident._asdict()))


def from_outside(marker: str, host: int | None = None) -> list[Resident]:
    """Take the census in a fresh interpreter, so that the host cannot vouch for itself."""
    command = [sys.executable, "-I", "-S", __file__, "--marker", marker]
    if host is not None:
        command += ["--host", str(host)]
    printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return [Resident(**json.loads(line)) for line in printed.splitlines()]


def residents(marker: str, host: int | None = None) -> Iterator[Resident]:
    """Yield every process that belongs to the host, as this process sees them."""
    if not marker:
        raise ValueError("an empty marker would match every process")
    for pid in sorted(int(entry.name) for entry in PROC.iterdir() if entry.name.isdigit()):
        if pid == os.getpid():
            continue
        try:
            resident = _examine(pid, marker, host)
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended while it was looked at
        if resident is not None:
            yield resident


def _examine(pid: int, marker: str, host: int | None) -> Resident | None:
    name, state, parent = _status(pid)
    command = (PROC / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    if _carries(pid, marker):
        because = "carries the marker"
    elif parent == host and TRACKER not in command:
        because = "child of the host"
    else:
        return None
    return Resident(pid, parent, state, command or f"[{name}]", because)


def _status(pid: int) -> tuple[str, str, int]:
    # The name stands in parentheses, and may itself hold spaces and parentheses.
    before, _, after = (PROC / str(pid) / "stat").read_text(errors="replace").rpartition(")")
    state, parent, *_ = after.split()
    return before.partition("(")[2], state, int(parent)


def _carries(pid: int, marker: str) -> bool:
    try:
        environ = (PROC / str(pid) / "environ").read_bytes()
    except (PermissionError, ProcessLookupError):
        return False  # a zombie has none, and some kernels call that an error: it is found as a child of the host
    return any(entry.startswith(marker.encode()) for entry in environ.split(b"\0"))


if __name__ == "__main__":
    main()
