"""What hosts run whose work is counted, and what the counters are. Every function prints or returns plain numbers."""

from __future__ import annotations

import os
import select
import sys
import threading
import time
import tracemalloc

from safepool import SafeProcessPoolExecutor
from safepool.bench import tasks
from safepool.bench.observe import Reports, members, my_marker, voluntary_switches

WORKERS = 2
NOTICE = 0.1  # seconds between two looks at a pool that settles


def run_tasks(pool: SafeProcessPoolExecutor, count: int) -> None:
    futures = [pool.submit(tasks.echo, number) for number in range(count)]
    assert [future.result() for future in futures] == list(range(count))


def per_thousand_tasks(count: int) -> dict[str, float]:
    """What a warm pool costs, host and workers together, for a thousand tasks."""
    with SafeProcessPoolExecutor(WORKERS) as pool:
        run_tasks(pool, count)
        pids = members(my_marker())
        switches, faults = voluntary_switches(pids), minor_faults(pids)
        run_tasks(pool, count)
        return {
            "switches": (voluntary_switches(pids) - switches) * 1000 / count,
            "faults": (minor_faults(pids) - faults) * 1000 / count,
        }


def while_idle(seconds: float, settle: float) -> dict[str, int]:
    """How often the processes of an idle pool, once it has settled, wake up in this time."""
    with SafeProcessPoolExecutor(WORKERS) as pool:
        run_tasks(pool, 20)
        mine = [f"/proc/{os.getpid()}/task/{threading.get_native_id()}"]
        pids = members(my_marker())
        until = time.monotonic() + settle
        before = -1
        while (now := voluntary_switches(pids, mine)) != before:
            assert time.monotonic() < until, "the pool goes on waking up"
            before = now
            select.select([], [], [], NOTICE)
        select.select([], [], [], seconds)
        return {"processes": len(pids), "switches": voluntary_switches(pids, mine) - before}


def for_each_queued_task(count: int) -> dict[str, float]:
    """How many bytes of Python objects the host holds for a task that waits."""
    with Reports() as reports, SafeProcessPoolExecutor(WORKERS) as pool:
        for _ in range(WORKERS):
            pool.submit(tasks.hang, reports.path)
        reports.lines(WORKERS, 30)
        tracemalloc.start()
        before, _ = tracemalloc.get_traced_memory()
        futures = [pool.submit(tasks.echo, number) for number in range(count)]
        after, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        pool.kill_workers()
        return {"bytes": (after - before) / len(futures)}


def minor_faults(pids: set[int]) -> int:
    total = 0
    for pid in pids:
        with open(f"/proc/{pid}/stat", "rb") as file:
            total += int(file.read().rpartition(b")")[2].split()[7])
    return total


if __name__ == "__main__":  # under strace
    with SafeProcessPoolExecutor(WORKERS) as traced_pool:
        run_tasks(traced_pool, int(sys.argv[1]))
