"""How long until processes are really gone? Hosts and their tasks are watched from a process that is neither.

What a function here measures happens in a host of its own, which it starts: ``host_...`` are what those run. Whoever is
still alive after ``patience`` seconds counts as left behind.
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
import time
from collections.abc import Iterator
from typing import Any

from safepool.bench import tasks
from safepool.bench.cage import start_host
from safepool.bench.observe import Reports, Watch, wait_at_gate
from safepool.bench.peer import Lacks, Peer
from safepool.bench.peers import PEERS
from safepool.bench.quantiles import median, quantile

__all__ = [
    "deadline_overshoot",
    "host_killed",
    "host_that_hangs",
    "host_that_kills",
    "host_with_deadlines",
    "tree_ended",
]

Values = dict[str, float]

_UP = 30.0  # seconds for a host to have its tasks running


def host_killed(peer: Peer, workers: int, hosted: int, children: int, trials: int, patience: float) -> Values:
    """SIGKILL to a host whose workers are busy and have children: when is the last of them gone, and how many never?"""
    taken, left = [], []
    for _ in range(trials):
        with _host("host_that_hangs", peer, workers=hosted, children=children) as (host, reports):
            pids = [int(pid) for line in reports.lines(hosted, _UP) for pid in line]
            with Watch(pids) as watch:
                killed_at = time.monotonic()
                host.kill()
                left.append(len(watch.wait(patience)))
                taken.append((max(watch.gone_at.values(), default=killed_at) - killed_at) * 1e3)
    return _verdict(taken, left)


def tree_ended(peer: Peer, workers: int, branches: int, leaves: int, trials: int, patience: float) -> Values:
    """A running task is ended that has started a tree of processes: when is the last of them gone?"""
    if not peer.has_kill:
        raise Lacks("an end for a running task")
    taken, left = [], []
    for _ in range(trials):
        with _host("host_that_kills", peer, branches=branches, leaves=leaves) as (_, reports):
            (pids,) = reports.lines(1, _UP)
            with Watch(map(int, pids)) as watch:
                reports.open_gate()
                ((killed_at,),) = reports.lines(1, _UP)
                left.append(len(watch.wait(patience)))
                taken.append((max(watch.gone_at.values(), default=killed_at) - killed_at) * 1e3)
    return _verdict(taken, left)


def deadline_overshoot(peer: Peer, workers: int, timeout: float, trials: int, patience: float) -> Values:
    """A task hangs: how long after its time is up is its process gone?"""
    if not peer.has_timeout:
        raise Lacks("a timeout that ends a task")
    gone, told, left = [], [], []
    with _host("host_with_deadlines", peer, timeout=timeout, trials=trials) as (_, reports):
        for _ in range(trials):
            ((pid, started),) = reports.lines(1, _UP)
            with Watch([int(pid)]) as watch:
                left.append(len(watch.wait(timeout + patience)))
                gone.append((watch.gone_at.get(int(pid), 0.0) - started - timeout) * 1e3)
            ((told_at,),) = reports.lines(1, _UP)
            told.append((told_at - started - timeout) * 1e3)
    return {"told": median(told), **_verdict(gone, left)}


# --- what hosts run ---------------------------------------------------------------------------------------------------


def host_that_hangs(peer: str, reports: str, workers: int, children: int) -> None:
    """Give every worker a task that never ends, and wait for them."""
    pool = PEERS[peer]()
    pool.open(workers)
    pool.warm_up()
    pool.gather(tasks.hang_with_children, [(reports, children)] * workers)


def host_that_kills(peer: str, reports: str, branches: int, leaves: int) -> None:
    """Start a task that never ends, and end it when told to; say when, and stay: nobody shall go for that."""
    pool = PEERS[peer]()
    pool.open(1)
    task = pool.submit(tasks.hang_with_tree, reports, branches, leaves)
    wait_at_gate(reports)
    killed_at = time.monotonic()
    pool.kill(task)
    _tell(reports, killed_at)
    signal.pause()


def host_with_deadlines(peer: str, reports: str, timeout: float, trials: int) -> None:
    """Hand in tasks that never end, each with a limit, one after another."""
    pool = PEERS[peer]()
    pool.open(1)
    for _ in range(trials):
        try:
            pool.submit(tasks.hang, reports, timeout=timeout).result()
        except Exception:  # each library has its own
            _tell(reports, time.monotonic())
        if peer == "mpire":  # the task's end is the pool's
            pool.open(1)


def _tell(reports: str, instant: float) -> None:
    with open(reports, "w", encoding="ascii") as pipe:
        pipe.write(f"{instant!r}\n")


@contextlib.contextmanager
def _host(name: str, peer: Peer, **arguments: Any) -> Iterator[tuple[subprocess.Popen[bytes], Reports]]:
    """Start a host and a pipe for its tasks; end the host. What else is left, the cage around all of this ends."""
    with Reports() as reports:
        call = {"peer": peer.name, "reports": reports.path, **arguments}
        host = start_host({"function": f"{__name__}:{name}", "arguments": call}, stdout=subprocess.DEVNULL)
        try:
            with reports.of(host.pid):
                yield host, reports
        finally:
            host.kill()
            host.wait()


def _verdict(taken: list[float], left: list[int]) -> Values:
    """Return who was left; times only if nobody was: there is no time for what did not happen."""
    if any(left):
        return {"left": median(left)}
    return {"left": 0.0, "p50": quantile(taken, 0.5), "p99": quantile(taken, 0.99)}
