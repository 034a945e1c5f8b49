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

from safepool._os.process_table import ProcessRow, command_of, is_alive, list_rows, with_descendants
from safepool._os.process_tree import NO_COMMAND, is_cleaner, is_janitor
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
    """Return what the task has left behind, and who else is beneath the worker; each leftover is found once."""
    if policy == "keep":
        return (), set()
    try:
        rows, members = _look(worker)
        residents = {row.pid for row in rows if (row.pid, row.start) in worker.residents} - {worker.contained.pid}
        spared = with_descendants(residents, rows)
        commands = {pid: command_of(pid) for pid in members - spared - {worker.contained.pid} if is_alive(pid)}
    except OSError:  # no descriptor to read /proc with: the end of the worker finds them
        return (), set()
    spared |= {pid for pid, command in commands.items() if is_cleaner(command) or is_janitor(command)}
    if policy == "warn":
        worker.residents |= {(row.pid, row.start) for row in rows if row.pid in commands}
    left = ((pid, command or NO_COMMAND) for pid, command in commands.items() if pid not in spared)
    return tuple(EndedProcess(pid, command) for pid, command in left), spared


def warn(task: Task) -> None:
    """Tell whoever listens to warnings; where they are errors, the log: the task's outcome is its own."""
    left = task.future.leftovers
    if left:
        message = f"{task.describe()} left processes running: {', '.join(map(str, left))}"
        try:
            warnings.warn(message, LeftoverWarning, stacklevel=2)
        except Exception:  # an error by the program's filter, or what showing it raised: neither is the task's outcome
            _log.warning(message)


def _look(worker: Worker) -> tuple[list[ProcessRow], set[int]]:
    members = worker.contained.members
    rows = list(list_rows(members.leader.start))
    return rows, members.find(rows)
