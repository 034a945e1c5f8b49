"""What a guardian does once its worker runs: reap, tell, and in the end end whoever is left (``guardian_main``).

Facts:
* A corpse that is kept is found first by every ``waitid`` for any child, and hides those behind it (kernel/exit.c,
  do_wait: children in the order in which they came).
* ``waitid`` knows of every child, those that a list of processes has missed, too.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal

from safepool._os import process_exit
from safepool._os.guardian_main import tell
from safepool._os.process_table import list_rows, read_row
from safepool._os.process_tree import Leader, TreeEnding

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

__all__ = ["guard"]

_WOKEN = 1 << 10  # bytes, one for each signal that came


def guard(worker: int, marker: str, host: int, link_fd: int) -> NoReturn:
    """See the worker, and whom it loses, through to the end; never returns. The arguments are those of the guardian."""
    pidfd = os.pidfd_open(worker)  # a child that is not reaped: it is there
    try:
        _attend(worker, pidfd, host, link_fd)
    finally:
        try:
            _end_what_is_left(worker, pidfd, marker)
        finally:
            os._exit(0)


def _attend(worker: int, pidfd: int, host: int, link_fd: int) -> None:
    """Reap the orphans that die, and tell how the worker does, until the host lets go of it or dies."""
    woken, wake = os.pipe()
    for fd in (woken, wake):
        os.set_blocking(fd, False)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    host_pidfd = process_exit.open_pidfd(host)
    if host_pidfd is None or os.getppid() != host:
        return  # it was gone before we could look
    poll = select.poll()
    for fd in (woken, link_fd, host_pidfd):  # the host never writes; a forked child of its own may hold its end open
        poll.register(fd, select.POLLIN)
    is_told = False
    ready: set[int] = set()
    while not ready & {link_fd, host_pidfd}:
        process_exit.reap_adopted(worker)
        if process_exit.has_ended(pidfd):
            if not is_told:
                tell(link_fd, f"ended {process_exit.read_exit_status(pidfd)}")
                is_told = True
            _reap_behind(worker)
        ready = {fd for fd, _ in poll.poll()}
        with contextlib.suppress(BlockingIOError):
            os.read(woken, _WOKEN)


def _reap_behind(worker: int) -> None:
    """Reap those that the worker's corpse hides: it may lie here for as long as the host is stopped."""
    with contextlib.suppress(OSError):  # no descriptor to read /proc with
        for row in list_rows():
            if row.parent == os.getpid() and row.is_dead and row.pid != worker:
                os.waitpid(row.pid, os.WNOHANG)


def _end_what_is_left(worker: int, pidfd: int, marker: str) -> None:
    """End whoever is alive beneath us: nobody, unless the host has died, or somebody has outrun it."""

    def signal_group(leader: Leader, signum: int) -> bool:
        if process_exit.send_signal(pidfd, signum, group=True):
            return True
        if not process_exit.is_unreaped_child(pidfd):  # then the kernel has ended the group (``lifeline``)
            return False
        os.killpg(leader.pid, signum)
        return True

    row, me = read_row(worker), read_row(os.getpid())
    if _reap_all() or row is None or me is None:
        return
    leader, guardian = Leader(worker, row.start), Leader(me.pid, me.start)
    TreeEnding([leader], f"{marker}=".encode(), signal_group, guardian=guardian).run()
    _reap_all()


def _reap_all() -> bool:
    """Reap whoever is dead; return True if nobody is left."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return True
    return False
