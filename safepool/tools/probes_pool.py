"""Probes of a whole pool, and of the room that there is for workers."""

from __future__ import annotations

import os
import resource

from safepool._os.process_table import list_rows
from safepool._pool.cpus import cpu_count
from safepool.tools.probe import DEGRADED, EVERY_POOL, OK, TASKS, Finding, Probe
from safepool.tools.staged import Program
from safepool.tools.units import size

__all__ = ["PROBES"]

_SMALL_SHM = 64 << 20  # bytes: what Docker gives if not asked for more
_PIDS_FILES = ("/sys/fs/cgroup{path}/pids.max", "/sys/fs/cgroup/pids{path}/pids.max")

_POOL = """
import time
from safepool import SafeProcessPoolExecutor, TaskTimeoutError

def descriptors():
    return len(os.listdir("/proc/self/fd"))

with SafeProcessPoolExecutor(1) as first, SafeProcessPoolExecutor(1) as second:
    assert first.submit(pow, 2, 5).result() == 32
    say("result", 1)
    before = descriptors()
    second.submit(os.getpid).result()
    say("descriptors", descriptors() - before)
    try:
        first.submit(time.sleep, 600, task_timeout=0.2).result()
    except TaskTimeoutError as error:
        say("elapsed", round(error.elapsed * 1000))
        say("stack", int("thread" in error.stack))
    first.submit(pow, 2, 5).result()
    say("next", 1)
"""


def _pool() -> Finding:
    with Program(_POOL, needs_packages=True) as program:
        said = program.hear("result", "elapsed", "stack", "next")
    if not said["stack"]:
        return Finding(DEGRADED, "a task past its deadline was ended, and its stacks were not to be had")
    return Finding(
        OK, f"got a result; a task with a limit of 200 ms was ended after {said['elapsed']} ms, and the pool went on"
    )


def _descriptors() -> Finding:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with Program(_POOL, needs_packages=True) as program:
        each = max(1, program.hear("descriptors")["descriptors"])
    room = max(0, soft - len(os.listdir("/proc/self/fd"))) // each
    status = OK if room >= 2 * cpu_count() else DEGRADED
    limit = "no limit" if soft == resource.RLIM_INFINITY else f"{soft:,} (could be raised to {hard:,})"
    return Finding(status, f"room for {room:,} workers: {each} descriptors each, of {limit}")


def _processes() -> Finding:
    mine = [row for row in list_rows() if _uid_of(row.pid) == os.getuid()]
    used = sum(row.threads for row in mine)
    soft, _ = resource.getrlimit(resource.RLIMIT_NPROC)
    limits = [] if soft == resource.RLIM_INFINITY or os.geteuid() == 0 else [soft - used]  # root is exempt
    group = _room_in_group()
    limits += [] if group is None else [group]
    if not limits:
        return Finding(OK, "no limit on processes")
    room = max(0, min(limits))
    return Finding(OK if room >= 4 * cpu_count() else DEGRADED, f"room for {room:,} more processes and threads")


def _shm() -> Finding:
    room = os.statvfs("/dev/shm")  # noqa: S108  # nothing is put there
    free = room.f_bavail * room.f_frsize
    return Finding(OK if free > _SMALL_SHM else DEGRADED, f"{size(free)} free in /dev/shm")


def _room_in_group() -> int | None:
    """Return how many more processes our control group may have; None if there is no limit."""
    with open("/proc/self/cgroup", encoding="utf-8") as file:
        lines = [line.rstrip("\n").split(":", 2) for line in file]
    for _, controllers, path in lines:
        if controllers not in ("", "pids"):
            continue
        for place in _PIDS_FILES:
            try:
                with open(place.format(path=path.rstrip("/")), encoding="ascii") as file:
                    limit = file.read().strip()
                with open(place.format(path=path.rstrip("/")).replace("max", "current"), encoding="ascii") as file:
                    current = int(file.read())
            except OSError:  # no such controller here
                continue
            return None if limit == "max" else int(limit) - current
    return None


def _uid_of(pid: int) -> int:
    try:
        return os.stat(f"/proc/{pid}").st_uid
    except OSError:
        return -1


PROBES = [
    Probe(
        "pool",
        EVERY_POOL,
        _pool,
        "no pool works here",
        "whatever the other rows want; if all of these are ok, try safepool's quickstart, and file an issue",
    ),
    Probe(
        "descriptors",
        EVERY_POOL,
        _descriptors,
        "starting a worker fails, and that a task past its deadline is gone may be confirmed five seconds late",
        "ulimit -n 4096; docker run --ulimit nofile=65536; LimitNOFILE= of the systemd unit; or fewer workers",
    ),
    Probe(
        "processes",
        EVERY_POOL,
        _processes,
        "starting a worker, or what a task starts, fails with EAGAIN",
        "ulimit -u; docker run --pids-limit; TasksMax= of the systemd unit; or fewer workers",
    ),
    Probe(
        "shm",
        TASKS,
        _shm,
        "nothing of the pool: its memory has no name. What tasks put there (torch's DataLoader,"
        " multiprocessing.shared_memory) ends in SIGBUS when it is full",
        "docker run --shm-size=1g; mount -o remount,size=50% /dev/shm",
    ),
]
