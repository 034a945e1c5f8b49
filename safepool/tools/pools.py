"""How are the pools of this user? Their hosts, workers, tasks, and what runs beneath them, as seen from outside.

What a worker is at stands in the record that it shares with its host (``_worker.record``). It is read through the
host's descriptors: one look at these is enough for all its workers, and no task can close them. The host writes into
the record when it goes to sleep, so one that never does, for all its short tasks, shows what was so a moment ago.

Facts: a memfd can be opened anew under /proc/PID/fd by any process of the same user, unless the process is not dumpable
(ptrace(2), PTRACE_MODE_READ; Yama restricts attaching only).
"""

from __future__ import annotations

import contextlib
import os
import time

import psutil

from safepool._os.command_line import NO_COMMAND
from safepool._os.origin import Fate
from safepool._os.process_table import ProcessRow, command_of, with_descendants
from safepool._os.process_tree import Leader
from safepool._plain import dataclass
from safepool._pool.worker import RUNNING, WorkerState
from safepool._worker.record import NAME, Words, read_words
from safepool.tools.marked import Scan, has_guardian, is_worker_of, scan

__all__ = ["Below", "Host", "Overview", "Worker", "look"]

_STATES = dict(enumerate(WorkerState, 1))
_STOPPED = "tT"


@dataclass(frozen=True)
class Below:
    """A process that a task has started, or that its descendants have."""

    pid: int
    parent: int
    command: str
    memory: int  # bytes, resident
    cpu: float  # seconds since it began


@dataclass(frozen=True)
class Worker:
    """A worker of a pool, or a process of the multiprocessing context, which has no tasks."""

    pid: int
    state: str  # as in ``WorkerState``; "stopped" and "dead" come before that; "process" for one of the context
    task: int | None  # the number of the task that it runs
    running: float | None  # seconds since that began; None while it has been sent and not begun
    left: float | None  # seconds until something happens to it: a warning, the end
    runs: int | None  # tasks given to it so far
    memory: int  # bytes, resident
    cpu: float  # seconds
    below: tuple[Below, ...]


@dataclass(frozen=True)
class Host:
    """A process that owns pools, with the workers of all of them."""

    pid: int
    command: str
    is_stopped: bool
    memory: int
    cpu: float
    workers: tuple[Worker, ...]


@dataclass(frozen=True)
class Overview:
    """Every pool of this user, and who is not to be seen with one."""

    hosts: tuple[Host, ...]
    left_behind: int  # processes that name hosts that are gone, and none that lives
    elsewhere: int  # processes whose hosts cannot be told: in another pid namespace, or hidden


def look() -> Overview:
    """Look at every pool of this user, now. Whoever ends meanwhile is left out, or shown with what was still known."""
    found = scan()
    workers: dict[Leader, list[int]] = {}
    for pid, origins in found.marked.items():
        for origin in origins:
            if origin.host and is_worker_of(found.rows[pid], origin, found) and found.fates[origin.host] is Fate.ALIVE:
                workers.setdefault(origin.host, []).append(pid)
    fates = [
        {found.fate(origin) for origin in origins}
        for origins in found.marked.values()
        if not any(origin.is_sparing for origin in origins)  # whether it was left or was to stay, nobody can tell
    ]
    return Overview(
        hosts=tuple(_host(host, pids, found) for host, pids in sorted(workers.items())),
        left_behind=sum(fate == {Fate.GONE} for fate in fates),
        elsewhere=sum(Fate.ALIVE not in fate and Fate.UNKNOWN in fate for fate in fates),
    )


def _host(host: Leader, pids: list[int], found: Scan) -> Host:
    records = _records_of(host.pid)
    memory, cpu = _use_of(host.pid)
    row = found.rows.get(host.pid)
    return Host(
        pid=host.pid,
        command=command_of(host.pid) or NO_COMMAND,
        is_stopped=row is not None and row.state in _STOPPED,
        memory=memory,
        cpu=cpu,
        workers=tuple(_worker(found.rows[pid], records.get(pid), found) for pid in pids),
    )


def _worker(row: ProcessRow, words: Words | None, found: Scan) -> Worker:
    task, begun, due = _task_of(words)
    now = time.monotonic()
    memory, cpu = _use_of(row.pid)
    return Worker(
        pid=row.pid,
        state=_state_of(row, words),
        task=task,
        running=None if begun is None else max(0.0, now - begun),
        left=None if due is None else due - now,
        runs=None if words is None else words.runs,
        memory=memory,
        cpu=cpu,
        below=tuple(_below(found.rows[pid]) for pid in sorted(_members(row, found) - {row.pid})),
    )


def _state_of(row: ProcessRow, words: Words | None) -> str:
    if row.state in _STOPPED:
        return "stopped"
    if words is None:
        return "process"
    return _STATES.get(words.state, WorkerState.STARTING).value


def _task_of(words: Words | None) -> tuple[int | None, float | None, float | None]:
    """Return the number of the task that a worker is at, when it began, and when something is due."""
    if words is None or _STATES.get(words.state) not in RUNNING:
        return None, None, None
    due = words.due or None
    if words.number == words.task:
        return words.number, words.begun, due
    if words.begun < words.handed:  # what it began last was over before it was given this one
        return words.task, None, due
    return words.number, words.begun, None  # it is further than the host knew, with what it was sent ahead


def _members(leader: ProcessRow, found: Scan) -> set[int]:
    """Return a worker and everybody beneath it: by session, by marker, by parent, or by its guardian."""
    own = [origin for origin in found.marked[leader.pid] if is_worker_of(leader, origin, found)]
    names = {(origin.token, origin.number) for origin in own}
    alive = [row for row in found.rows.values() if not row.is_dead]
    ours = {row.pid for row in alive if row.session == leader.pid}
    ours |= {
        pid for pid, origins in found.marked.items() if any((claim.token, claim.number) in names for claim in origins)
    }
    if any(origin.host is not None and has_guardian(leader, origin.host, found) for origin in own):
        ours |= {row.pid for row in alive if row.parent == leader.parent}
    return with_descendants(ours, alive)


def _below(row: ProcessRow) -> Below:
    memory, cpu = _use_of(row.pid)
    return Below(row.pid, row.parent, command_of(row.pid) or NO_COMMAND, memory, cpu)


def _use_of(pid: int) -> tuple[int, float]:
    """Return the bytes that a process has in memory, and the seconds of processor time that it has used."""
    try:
        process = psutil.Process(pid)
        times = process.cpu_times()
        return process.memory_info().rss, times.user + times.system
    except psutil.Error:  # it is gone
        return 0, 0.0


def _records_of(host: int) -> dict[int, Words]:
    """Return what stands in the records of its workers, by pid; nothing where its descriptors may not be looked at."""
    found = {}
    with contextlib.suppress(OSError):
        for name in os.listdir(f"/proc/{host}/fd"):
            words = _read(f"/proc/{host}/fd/{name}")
            if words is not None:
                found[words.pid] = words
    return found


def _read(path: str) -> Words | None:
    try:
        if not os.readlink(path).startswith(f"/memfd:{NAME} "):
            return None
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:  # it was closed meanwhile, or the host is gone
        return None
    try:
        return read_words(fd)
    finally:
        os.close(fd)
