"""``max_worker_memory``: a worker that has become too large is replaced between two tasks."""

from __future__ import annotations

import os
import signal

from contract.patience import error_of, eventually, is_gone, result_of
from features import acts
from safepool import WorkerDiedError

LIMIT = "64MiB"


def test_worker_that_holds_too_much_after_a_task_is_replaced(new_pool) -> None:
    pool = new_pool(max_worker_memory=LIMIT)

    large = result_of(pool.submit(acts.hoard, 100))

    assert result_of(pool.submit(acts.tell_pid)) != large
    assert eventually(lambda: is_gone(large))


def test_worker_that_lets_go_in_time_stays(new_pool) -> None:
    pool = new_pool(max_worker_memory=LIMIT)
    worker = result_of(pool.submit(acts.tell_pid))

    assert result_of(pool.submit(acts.let_go, 100)) == worker
    assert result_of(pool.submit(acts.tell_pid)) == worker


def test_no_task_is_lost_to_it(new_pool) -> None:
    pool = new_pool(2, max_worker_memory=LIMIT)

    workers = list(pool.map(acts.hoard, [60] * 12))

    assert len(workers) == 12
    assert len(set(workers)) >= 6  # two tasks each at the most


def test_worker_that_dies_while_large_fails_its_task_as_ever(new_pool, gate) -> None:
    pool = new_pool(max_worker_memory=LIMIT)
    future = pool.submit(acts.pass_gate_and_tell_pid, gate.folder)
    (worker,) = gate.wait_until_arrived()
    os.kill(worker, signal.SIGKILL)

    assert isinstance(error_of(future), WorkerDiedError)
    assert result_of(pool.submit(acts.square, 3)) == 9
