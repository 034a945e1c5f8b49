"""How fast do large things go to a worker and come back?"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

from safepool.bench import arrays, tasks
from safepool.bench.peer import Peer
from safepool.bench.quantiles import median

__all__ = ["arrays_in_and_out", "bytes_and_back"]

Values = dict[str, float]

_GIGA = 1e9


def bytes_and_back(peer: Peer, workers: int, size: int, count: int) -> Values:
    """One block of bytes at a time, there and back."""
    peer.open(workers)
    peer.warm_up()
    block = os.urandom(min(size, 1 << 20)) * max(1, size >> 20)
    taken = [_time(lambda: peer.gather(tasks.echo, [block]), [block]) for _ in range(count)]
    return {"both": 2 * len(block) / _GIGA / median(taken)}


def arrays_in_and_out(peer: Peer, workers: int, size: int, batch: int, count: int) -> Values:
    """So many arrays at a time, in and a number out; then the other way."""
    peer.open(workers)
    peer.warm_up()
    block = arrays.make(size)
    blocks, sizes = [block] * batch, [size] * batch
    peer.gather(tasks.produce, sizes * max(1, 4 * workers // batch))  # each worker makes its own beforehand
    there = [_time(lambda: peer.gather(tasks.size_of, blocks), sizes) for _ in range(count)]
    back = [
        _time(lambda: [memoryview(one).nbytes for one in peer.gather(tasks.produce, sizes)], sizes)
        for _ in range(count)
    ]
    moved = size * batch / _GIGA
    return {"in": moved / median(there), "out": moved / median(back)}


def _time(work: Callable[[], list[Any]], right: list[Any]) -> float:
    started = time.perf_counter()
    results = work()
    taken = time.perf_counter() - started
    if results != right:
        raise AssertionError("what came back is not what was sent")
    return taken
