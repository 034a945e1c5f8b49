"""How much work gets through a warm pool, and how well it is spread?"""

from __future__ import annotations

import heapq
import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from safepool.bench import tasks
from safepool.bench.peer import Lacks, Peer

__all__ = [
    "deadlines_in_flight",
    "ideal_makespan",
    "map_items",
    "mixed_lengths",
    "queued",
    "scaling_tasks",
    "scaling_workers",
    "short_tasks",
    "submit_and_gather",
    "submit_with_timeout",
]

Values = dict[str, float]

_EVERY = 100  # one task in so many is long
_GENEROUS = 600.0  # seconds: a limit that no task here comes near


def submit_and_gather(peer: Peer, workers: int, count: int) -> Values:
    """Tasks that do nothing."""
    _need_submit(peer)
    peer.open(workers)
    peer.warm_up()
    return {"rate": _rate(peer, count)}


def submit_with_timeout(peer: Peer, workers: int, count: int) -> Values:
    """Tasks that do nothing, each with a limit."""
    _need_timeouts(peer)
    peer.open(workers)
    peer.warm_up()
    return {"rate": _rate(peer, count, _GENEROUS)}


def deadlines_in_flight(peer: Peer, workers: int, count: int, window: int) -> Values:
    """Tasks that do nothing, so many of them pending at any time, each with a limit of its own."""
    _need_timeouts(peer)
    peer.open(workers, unbounded=True)
    peer.warm_up()
    pending: deque[Any] = deque()
    started = time.perf_counter()
    for number in range(count):
        if len(pending) == window:
            pending.popleft().result()
        pending.append(peer.submit(tasks.echo, number, timeout=_GENEROUS + number))
    for task in pending:
        task.result()
    return {"rate": count / (time.perf_counter() - started)}


def map_items(peer: Peer, workers: int, count: int, chunk: int) -> Values:
    """Map a function that does nothing."""
    peer.open(workers)
    peer.warm_up()
    items = range(count)
    return {"rate": count / _time(lambda: list(peer.map(tasks.echo, items, chunk)), items)}


def queued(peer: Peer, workers: int, few: int, many: int) -> Values:
    """Compare the rates with few and with many tasks in the queue, in the same pool."""
    _need_submit(peer)
    peer.open(workers, unbounded=True)
    peer.warm_up()
    small, large = _rate(peer, few), _rate(peer, many)
    return {"rate": large, "kept": 100 * large / small}


def short_tasks(peer: Peer, workers: int, count: int, seconds: float) -> Values:
    """Tasks of a millisecond: how much of the CPUs' time is theirs?"""
    peer.open(workers)
    peer.warm_up()
    lengths = [seconds] * count
    taken = _time(lambda: peer.gather(tasks.spin, lengths), lengths)
    return {"efficiency": 100 * sum(lengths) / _lanes(workers) / taken}


def mixed_lengths(peer: Peer, workers: int, count: int, short: float, factor: int) -> Values:
    """One task in a hundred is a thousand times longer: does it hold up those that come after it?"""
    peer.open(workers)
    peer.warm_up()
    lengths = [short * factor if number % _EVERY == _EVERY // 2 else short for number in range(count)]
    taken = _time(lambda: peer.gather(tasks.spin, lengths), lengths)
    return {"makespan": taken / ideal_makespan(lengths, _lanes(workers))}


def scaling_workers(peer: Peer, workers: int, counts: Sequence[int], per_worker: int, at_least: int) -> Values:
    """Rate of tasks that do nothing, by the number of workers."""
    _need_submit(peer)
    rates = {}
    for number in counts:
        peer.open(number)
        peer.warm_up()
        rates[str(number)] = _rate(peer, max(at_least, per_worker * number))
        peer.close()
    peer.pool = None
    return rates


def scaling_tasks(peer: Peer, workers: int, counts: Sequence[int]) -> Values:
    """Rate of tasks that do nothing, by their number."""
    _need_submit(peer)
    peer.open(workers, unbounded=True)
    peer.warm_up()
    return {str(count): _rate(peer, count) for count in counts}


def ideal_makespan(lengths: Sequence[float], lanes: int) -> float:
    """Return how long list scheduling takes: each task, in order, goes to whoever is free first."""
    free_at = [0.0] * lanes
    for length in lengths:
        heapq.heappush(free_at, heapq.heappop(free_at) + length)
    return max(free_at)


def _rate(peer: Peer, count: int, timeout: float | None = None) -> float:
    items = range(count)
    return count / _time(lambda: peer.gather(tasks.echo, items, timeout), items)


def _time(work: Callable[[], list[Any]], right: Sequence[Any]) -> float:
    started = time.perf_counter()
    results = work()
    taken = time.perf_counter() - started
    if results != list(right):
        raise AssertionError("the results are not those of the items, in order")
    return taken


def _lanes(workers: int) -> int:
    """Return how many tasks can really run at once."""
    return min(workers, len(os.sched_getaffinity(0)))


def _need_submit(peer: Peer) -> None:
    """Leave out who has none: one call for all tasks may put many of them into one message, as a map does."""
    if not peer.has_submit:
        raise Lacks("submit")


def _need_timeouts(peer: Peer) -> None:
    if not peer.has_timeout:
        raise Lacks("a timeout that ends a task")
