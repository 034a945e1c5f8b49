"""The janitor: a small process that outlives the host and sweeps what the kernel's group kill could not reach.

Started as ``python -I -S -c ...`` with the descriptors and names below; imports as little as it can. It carries no
marker, so it does not find itself, and it touches nothing but trees on the host's register, their descendants, and the
guardians above them.

It is not a child of the host (it forks once and lets its parent go), since Ray ends a worker's direct children.
It sleeps until the host dies, seen by whichever comes first:
* the host's pidfd, which no forked child of the host can hold back;
* the end of its pipe, which also tells of a host that replaced itself with ``exec`` and keeps its number.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal

from safepool._os import process_exit
from safepool._os.control_group import end_house
from safepool._os.controllers import step_back
from safepool._os.features import has
from safepool._os.process_table import read_row
from safepool._os.process_tree import Leader, TreeEnding
from safepool._os.register import read_house, read_leaders
from safepool._os.stopped_guardian import guardian_above, relieve

__all__ = ["main"]


def main(host: int, host_start: int, marker: str, register_fd: int, life_fd: int) -> None:
    """Detach, wait for the host's end, sweep, leave."""
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(signum, signal.SIG_IGN)
    # All that is said and done before the child is on its own: one that dies right then is one that had been up, and is
    # replaced at once.
    os.chdir("/")
    if os.fork():
        with contextlib.suppress(OSError):  # unless the host is gone already
            os.write(life_fd, b"r")  # the process that the host has started is as good as gone: it can be reaped
        os._exit(0)
    _wait_for_end_of(host, host_start, life_fd)
    house = read_house(register_fd)
    if house:
        end_house(house)
    leaders = read_leaders(register_fd)
    # Whoever escaped may be older than every tree that is still on the register, but not than the host.
    TreeEnding(leaders, f"{marker}_".encode(), _signal_group, since=host_start).run()
    _relieve_guardians_of(leaders, marker)
    sparing = read_leaders(register_fd, sparing=True)
    if sparing:
        TreeEnding(sparing, b"", _signal_group, spares_sessions=True).run()
    if house:
        step_back(house)  # last: those who have been ended are there no more
    os._exit(0)


def _wait_for_end_of(host: int, host_start: int, life_fd: int) -> None:
    pidfd = process_exit.open_pidfd(host)
    row = read_row(host)
    if pidfd is None or row is None or row.start != host_start:
        return  # it died before we could look
    poll = select.poll()
    poll.register(life_fd, select.POLLIN)
    poll.register(pidfd, select.POLLIN)
    poll.poll()


def _relieve_guardians_of(leaders: list[Leader], marker: str) -> None:
    """See to guardians that have not left: a task has stopped them, or they are about to.

    A worker's corpse lies beneath its guardian until that leaves.
    """
    for leader in leaders:
        with contextlib.suppress(OSError):  # no descriptor: there may be one for the next
            row = read_row(leader.pid)
            if row is not None and row.start == leader.start:
                guardian = guardian_above(row, marker)
                if guardian is not None:
                    relieve(guardian)


def _signal_group(leader: Leader, signum: int) -> bool:
    """Signal a group through its leader's pidfd; where the leader is gone, the kernel has ended the group already.

    Where the kernel does not do that (``features``), by the group's number, unless its leader's is somebody else's now:
    a number is not given to another while anybody is in the group of that number.
    """
    pidfd = process_exit.open_pidfd(leader.pid)
    if pidfd is not None:
        try:
            row = read_row(leader.pid)
            if row is not None and row.start != leader.start:
                return False
            if row is not None and process_exit.send_signal(pidfd, signum, group=True):
                return True
        finally:
            os.close(pidfd)
    if has("setsig"):
        return False
    try:
        os.killpg(leader.pid, signum)
    except (ProcessLookupError, PermissionError):
        return False
    return True
