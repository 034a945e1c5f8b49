"""A guardian that somebody has stopped, and whose host is dead: it alone knows who has come to it without a trace.

Whoever finds it does its part: ends everybody beneath it, and has it go on, so that it sees for itself that nobody is
left, and leaves. First end, then go on: somebody beneath it may be there to stop it again.

A command line is a claim and no proof, as a marker is (``origin``).
"""

from __future__ import annotations

import os
import signal

from safepool._os import process_exit
from safepool._os.command_line import variable_of_guardian
from safepool._os.process_table import ProcessRow, command_of, read_row
from safepool._os.process_tree import Leader, TreeEnding, is_there

__all__ = ["guardian_above", "relieve"]


def guardian_above(row: ProcessRow, marker: str) -> Leader | None:
    """Return the guardian whose child a process is, if it is one of the host with this marker."""
    above = read_row(row.parent)
    if above is None or not variable_of_guardian(command_of(above.pid)).startswith(f"{marker}_"):
        return None
    return Leader(above.pid, above.start)


def relieve(guardian: Leader, wait: float = 0.0) -> None:
    """End everybody beneath it, have it go on, and wait so many seconds at most until it has left.

    Raises:
        OSError: There is no descriptor to do so with.
    """
    pidfd = process_exit.open_pidfd(guardian.pid)
    if pidfd is None:
        return
    try:
        if is_there(guardian):
            TreeEnding([], b"", lambda _leader, _signum: False, guardian=guardian).run()
            process_exit.send_signal(pidfd, signal.SIGCONT)
            process_exit.has_ended(pidfd, wait)
    finally:
        os.close(pidfd)
