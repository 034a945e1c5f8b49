"""What a task that came to its end by itself has left running beneath its worker.

Looked for only in pools that were made to: it takes a look at every process of the machine. What was there when the
worker became ready, the initializer's server for instance, and what that starts, is no task's to answer for; nor are
the processes with which Python itself cleans up, and the janitor of a pool that the task has made.
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from typing import Literal

from safepool._os.command_line import NO_COMMAND, is_helper
from safepool._os.process_table import ProcessRow, command_of, is_alive, is_exiting, list_rows, with_descendants
from safepool._pool.task import Task
from safepool._pool.worker import Worker
from safepool.errors import EndedProcess, LeftoverWarning

__all__ = ["LeftoversPolicy", "find", "note_residents", "warn"]

_log = logging.getLogger("safepool")

LeftoversPolicy = Literal["keep", "warn", "end"]


def note_residents(worker: Worker, policy: str) -> None:
    """Take note of who is there before the first task."""
    if policy != "keep":
        with contextlib.suppress(OSError):  # no descriptor to read /proc with
            rows, members = _look(worker)
            worker.residents = {(row.pid, row.start) for row in rows if row.pid in members}


def find(worker: Worker, policy: str) -> tuple[tuple[EndedProcess, ...], set[int]]:
    """Return what the task has left behind, each once; and whose trees are to be spared when that is ended.

    Who is at its own end just now, and shows no command line any more, has not been left running. It may be that a
    janitor is being started: that forks, and leaves.
    """
    if policy == "keep":
        return (), set()
    try:
        rows, members = _look(worker)
        residents = {row.pid for row in rows if (row.pid, row.start) in worker.residents} - {worker.contained.pid}
        spared = with_descendants(residents, rows)
        younger = members - spared - {worker.contained.pid}
        commands = {pid: command for pid in younger if (command := command_of(pid)) or _is_running(pid)}
    except OSError:  # no descriptor to read /proc with: the end of the worker finds them
        return (), set()
    if policy == "warn":
        worker.residents |= {(row.pid, row.start) for row in rows if row.pid in commands}
    left = {pid: command or NO_COMMAND for pid, command in commands.items() if not is_helper(command)}
    return tuple(EndedProcess(pid, command) for pid, command in left.items()), spared


def warn(task: Task) -> None:
    """Tell whoever listens to warnings; where they are errors, the log: the task's outcome is its own."""
    left = task.future.leftovers
    if left:
        message = f"{task.describe()} left processes running: {', '.join(map(str, left))}"
        try:
            warnings.warn(message, LeftoverWarning, stacklevel=2)
        except Exception:  # an error by the program's filter, or what showing it raised: neither is the task's outcome
            _log.warning(message)


def _is_running(pid: int) -> bool:
    return is_alive(pid) and not is_exiting(pid)


def _look(worker: Worker) -> tuple[list[ProcessRow], set[int]]:
    members = worker.contained.members
    rows = list(list_rows(members.leader.start))
    return rows, members.find(rows)
