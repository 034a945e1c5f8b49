"""What does a pool take while nothing happens: memory of its processes, of what waits in its queue, and wake-ups?"""

from __future__ import annotations

import os
import select
import threading

from safepool.bench import tasks
from safepool.bench.observe import (
    Reports,
    host_memory,
    members,
    my_marker,
    pss,
    rss,
    voluntary_switches,
)
from safepool.bench.peer import Peer
from safepool.bench.quantiles import median

__all__ = ["idle_memory", "idle_switches", "queue_memory"]

Values = dict[str, float]

_MEBI = float(1 << 20)
_FAR = 60.0  # seconds
_PERIOD = 5.0  # seconds that wake-ups are counted for


def idle_memory(peer: Peer, workers: int) -> Values:
    """Memory of an idle worker, and of all processes of the pool but the host."""
    peer.open(workers)
    pids = peer.warm_up()
    others = members(my_marker()) - {os.getpid()}
    return {
        "rss": median([rss(pid) for pid in pids]) / _MEBI,
        "pss": median([pss(pid) for pid in pids]) / _MEBI,
        "all": sum(map(pss, others)) / _MEBI,
    }


def queue_memory(peer: Peer, workers: int, count: int) -> Values:
    """How the host grows with each task that waits while all workers are busy."""
    with Reports() as reports:
        peer.open(workers, unbounded=True)
        peer.warm_up()
        for _ in range(workers):
            peer.submit(tasks.hang, reports.path)
        reports.lines(workers, _FAR)
        before = host_memory()
        waiting = [peer.submit(tasks.echo, number) for number in range(count)]
        grown = host_memory() - before
        return {"task": grown / len(waiting)}


def idle_switches(peer: Peer, workers: int, settle: float, seconds: float) -> Values:
    """How often the threads of a pool with nothing to do wake up and go to sleep again, host included."""
    peer.open(workers)
    peer.warm_up()
    marker = my_marker()
    mine = f"/proc/{os.getpid()}/task/{threading.get_native_id()}"  # which waits here, and is not the pool's
    _pass_time(settle)  # what the last task has stirred up
    pids = members(marker)
    before = voluntary_switches(pids, [mine])
    _pass_time(seconds)
    switches = max(0, voluntary_switches(pids, [mine]) - before)
    return {"switches": switches * _PERIOD / seconds}


def _pass_time(seconds: float) -> None:
    """Let time go by: nothing is waited for."""
    select.select([], [], [], seconds)
