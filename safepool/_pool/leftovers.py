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

from safepool._os.command_line import NO_COMMAND, is_attendant
from safepool._os.process_table import (
    ProcessRow,
    command_of,
    environment_of,
    has_program,
    is_alive,
    is_being_started,
    is_exiting,
    list_pids,
    read_row,
    with_descendants,
)
from safepool._plain import NamedTuple
from safepool._pool.task import Task
from safepool._pool.worker import Worker
from safepool.errors import EndedProcess, LeftoverWarning

__all__ = ["Found", "LeftoversPolicy", "find", "note_residents", "warn"]

_log = logging.getLogger("safepool")

_MOST_LOOKS = 10  # of a few milliseconds each, in which the supervisor does nothing else

LeftoversPolicy = Literal["keep", "warn", "end"]


class Found(NamedTuple):
    """What there is beneath a worker whose task has just come to its end by itself."""

    left: tuple[EndedProcess, ...]  # each is found once
    spared: set[int]  # whose trees are to be left alone when that is ended
    is_stirring: bool  # somebody came, or went, meanwhile: there may be one more, or one less


def note_residents(worker: Worker, policy: str) -> None:
    """Take note of who is there before the first task."""
    if policy != "keep":
        with contextlib.suppress(OSError):  # no descriptor to read /proc with
            worker.residents = {(row.pid, row.start) for row, _ in _look(worker).running}


def find(worker: Worker, policy: str) -> Found:
    """Return what the task has left behind.

    Who is at his own end has not been left running, but may have left somebody who is on no list as yet: a shell that
    has started a server, a daemon's two parents, the process that forks a janitor. Who is just being started does not
    show what he is. To end what was left is to look until nobody stirs; else we look again ourselves, a few times.
    """
    nothing = Found((), set(), is_stirring=False)
    if policy == "keep":
        return nothing
    met: set[int] = set()  # those for whom we have looked again already
    try:
        for _ in range(_MOST_LOOKS):
            look = _look(worker)
            if policy == "end" or (look.gone <= met and not look.unclear):
                break
            met |= look.gone
    except OSError:  # no descriptor to read /proc with: the end of the worker finds them
        return nothing
    left = tuple(
        EndedProcess(row.pid, command or NO_COMMAND) for row, command in look.running if not is_attendant(command)
    )
    worker.residents = look.residents | {(row.pid, row.start) for row in look.dead}
    if policy == "warn":
        worker.residents |= {(row.pid, row.start) for row, _ in look.running}
    return Found(left, look.spared, is_stirring=bool(look.gone or look.unclear))


def warn(task: Task) -> None:
    """Tell whoever listens to warnings; where they are errors, the log: the task's outcome is its own."""
    left = task.future.leftovers
    if left:
        message = f"{task.describe()} left processes running: {', '.join(map(str, left))}"
        try:
            warnings.warn(message, LeftoverWarning, stacklevel=2)
        except Exception:  # an error by the program's filter, or what showing it raised: neither is the task's outcome
            _log.warning(message)


def _is_in_exec(pid: int) -> bool:
    """Return True for one that has shown no environment, if it was in the middle of an exec, or is still."""
    return bool(environment_of(pid)) if command_of(pid) else has_program(pid)


class _Look(NamedTuple):
    residents: set[tuple[int, int]]  # those that are still there
    spared: set[int]  # they, and what descends from them
    running: list[tuple[ProcessRow, str]]  # the others beneath the worker, and their command lines
    dead: list[ProcessRow]  # the other corpses there, that nobody has reaped
    gone: set[int]  # who came to his end since the last task, or meanwhile; strangers, too, that were gone too soon
    unclear: set[int]  # who is being started, and does not show what he is


def _look(worker: Worker) -> _Look:
    members, first = worker.contained.members, worker.contained.pid
    rows: dict[int, ProcessRow] = {}
    gone: set[int] = set()
    for pid in list_pids():
        row = read_row(pid)
        if row is None:
            gone.add(pid)
        elif row.start >= members.leader.start:
            rows[pid] = row
    present = members.find(list(rows.values()))
    residents = {(pid, row.start) for pid, row in rows.items()} & worker.residents
    spared = with_descendants((pid for pid, _ in residents), rows.values())
    unclear = {pid for pid in members.unclear - spared if _is_in_exec(pid)}
    running: list[tuple[ProcessRow, str]] = []
    for pid in present - spared - {first}:
        if is_being_started(rows[pid]):
            unclear.add(pid)
        command = command_of(pid)
        if command or (is_alive(pid) and not is_exiting(pid)):
            running.append((rows[pid], command))
        else:
            gone.add(pid)
    dead = [row for row in rows.values() if row.is_dead and row.parent in present and row.pid not in spared]
    return _Look(residents, spared, running, dead, gone | {row.pid for row in dead}, unclear)
