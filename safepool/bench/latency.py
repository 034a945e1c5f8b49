"""How long is the way to a result: in a warm pool, from nothing, and after a worker died?"""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from multiprocessing.connection import Connection

from safepool._os.process_exit import has_ended, open_pidfd, send_signal
from safepool.bench import tasks
from safepool.bench.peer import Peer
from safepool.bench.quantiles import median, quantile

__all__ = ["bare_spawn", "first_result", "import_time", "replacement", "round_trip"]

Values = dict[str, float]

_LOST_AFTER = 10.0  # seconds without an answer
_MOST_TRIES = 4
_LATE = (
    TimeoutError,
    concurrent.futures.TimeoutError,
    multiprocessing.TimeoutError,
)  # two of them are one from 3.11 on


def round_trip(peer: Peer, workers: int, count: int) -> Values:
    """One task at a time."""
    peer.open(workers)
    peer.warm_up()
    taken = []
    for number in range(count):
        started = time.perf_counter()
        peer.gather(tasks.echo, [number])
        taken.append((time.perf_counter() - started) * 1e6)
    return _spread(taken)


def first_result(peer: Peer, workers: int) -> Values:
    """From an interpreter that has not imported the library to the first result; from the last one to the end."""
    started = time.perf_counter()
    peer.open(workers)
    peer.gather(tasks.echo, [1])
    first = time.perf_counter()
    peer.warm_up()
    idle = time.perf_counter()
    peer.close()
    closed = time.perf_counter()
    peer.pool = None
    return {"first": (first - started) * 1e3, "close": (closed - idle) * 1e3}


def import_time(peer: Peer, workers: int, count: int) -> Values:
    """Compare interpreters that import the library with such that do not, turn by turn."""
    pairs = [(_time_of(peer.statement), _time_of("pass")) for _ in range(count)]
    return {"import": median([(importing - bare) * 1e3 for importing, bare in pairs])}


def replacement(peer: Peer, workers: int, count: int, spare: int, rest: float) -> Values:
    """Kill the only worker while it is idle, and hand in a task: how long until a task starts?

    Where that breaks the executor, the program makes another; where the task is lost, it hands it in again.

    Args:
        peer: Whose.
        workers: Not used: there is one.
        count: How often.
        spare: How many stand by.
        rest: Seconds for those who stand by to come up.
    """
    peer.open(1, spare=spare)
    peer.warm_up()
    taken = []
    for _ in range(count):
        killed_at = _kill(peer.submit(tasks.nap, rest).result(_LOST_AFTER + rest))
        taken.append((_next_start(peer) - killed_at) * 1e3)
    return _spread(taken)


def bare_spawn(peer: Peer, workers: int, count: int) -> Values:
    """Start a process with multiprocessing's spawn: how long until its function runs?"""
    context = multiprocessing.get_context("spawn")
    taken = []
    for _ in range(count):
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_say_when, args=(theirs,))
        started = time.monotonic()
        process.start()
        taken.append((ours.recv() - started) * 1e3)
        process.join()
    return _spread(taken)


def _say_when(answer: Connection) -> None:
    answer.send(time.monotonic())


def _kill(pid: int) -> float:
    """End the process; return when that was asked for."""
    pidfd = open_pidfd(pid)
    if pidfd is None:
        raise ProcessLookupError("the worker is gone already")
    killed_at = time.monotonic()
    send_signal(pidfd, signal.SIGKILL)
    has_ended(pidfd, _LOST_AFTER)
    os.close(pidfd)
    return killed_at


def _next_start(peer: Peer) -> float:
    for attempt in range(_MOST_TRIES):
        if attempt > 1:  # it fails twice: the pool is broken
            peer.open(1)
        try:
            return float(peer.submit(tasks.start_instant).result(_LOST_AFTER))
        except _LATE as error:
            raise TimeoutError(f"no task ran within {_LOST_AFTER:g} s of the death") from error
        except Exception as error:  # the task is lost with the worker, or was not even taken
            failure = error
    raise failure


def _time_of(statement: str) -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", statement], check=True, stdin=subprocess.DEVNULL)
    return time.perf_counter() - started


def _spread(values: list[float]) -> Values:
    return {"p50": quantile(values, 0.5), "p99": quantile(values, 0.99)}
