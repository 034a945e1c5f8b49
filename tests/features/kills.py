"""Workers that are killed at random instants, while something else goes on."""

from __future__ import annotations

import contextlib
import random
import signal
import threading
from collections.abc import Iterator

from safepool import SafeProcessPoolExecutor
from safepool._pool.worker import WorkerState

__all__ = ["workers_are_killed"]


@contextlib.contextmanager
def workers_are_killed(pool: SafeProcessPoolExecutor, chance: random.Random, longest: float) -> Iterator[list[int]]:
    """Kill one that is busy, again and again, at most so many seconds apart; give the pids of those struck."""
    kills: list[int] = []
    is_over = threading.Event()

    def kill() -> None:
        while not is_over.wait(chance.uniform(0.001, longest)):
            # Not those that are starting: three of these in a row, and the initializer counts as failing.
            busy = [worker for worker in list(pool._pool._state.workers.values()) if worker.state is WorkerState.BUSY]
            if busy:
                victim = chance.choice(busy)
                victim.contained.send_signal(signal.SIGKILL)
                kills.append(victim.contained.pid)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        yield kills
    finally:
        is_over.set()
        killer.join()
