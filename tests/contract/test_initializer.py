"""The initializer runs once in each worker, before its first task."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import Executor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import pytest

from contract import calls
from contract.gate import Gate, announce
from contract.kinds import STANDARD, NewPool, class_of
from contract.patience import PATIENCE, error_of, result_of


def test_initializer_runs_before_the_first_task(new_pool: NewPool) -> None:
    pool = new_pool(initializer=calls.keep, initargs=("name", "value"))
    assert result_of(pool.submit(calls.kept, "name")) == "value"


def test_initializer_runs_once_in_a_worker(new_pool: NewPool) -> None:
    pool = new_pool(max_workers=1, initializer=calls.keep_count_of_initializations)
    assert [result_of(pool.submit(calls.kept, "count")) for _ in range(3)] == [1, 1, 1]


def test_initializer_runs_in_the_worker_itself(new_pool: NewPool, gate: Gate) -> None:
    pool = new_pool(max_workers=1, initializer=announce, initargs=(gate.folder,))
    assert [result_of(pool.submit(os.getpid))] == gate.wait_until_arrived()


def test_initializer_arguments_given_in_place_work(kind: str, new_pool: NewPool) -> None:
    context = multiprocessing.get_context("spawn") if kind == STANDARD else None
    make: Callable[..., Executor] = class_of(kind)
    with make(1, context, calls.keep, ("name", 5)) as pool:
        assert result_of(pool.submit(calls.kept, "name")) == 5


def test_initializer_with_a_lock_shares_it(new_pool: NewPool) -> None:
    lock = multiprocessing.get_context("spawn").Lock()
    pool = new_pool(max_workers=1, initializer=calls.keep, initargs=("lock", lock))
    with lock:
        assert not result_of(pool.submit(calls.acquire_kept_lock))
    assert result_of(pool.submit(calls.acquire_kept_lock))


@pytest.mark.parametrize("shape", ["Queue", "SimpleQueue"])
def test_initializer_with_a_queue_shares_it(new_pool: NewPool, shape: str) -> None:
    queue: Any = getattr(multiprocessing.get_context("spawn"), shape)()
    pool = new_pool(max_workers=1, initializer=calls.keep, initargs=("queue", queue))
    result_of(pool.submit(calls.put_into_kept_queue, "through the queue"))
    assert _get(queue) == "through the queue"
    queue.close()


def _get(queue: Any) -> object:
    """Get within patience; a SimpleQueue has no timeout of its own."""
    assert queue._reader.poll(PATIENCE)
    return queue.get()


def test_initializer_that_raises_breaks_the_pool(new_pool: NewPool) -> None:
    pool = new_pool(max_workers=1, initializer=calls.raise_in_initializer)
    assert isinstance(error_of(pool.submit(calls.square, 2)), BrokenProcessPool)
    with pytest.raises(BrokenProcessPool):
        result_of(pool.submit(calls.square, 3))


def test_initializer_that_raises_fails_everything_that_waits(new_pool: NewPool, gate: Gate) -> None:
    pool = new_pool(max_workers=1, initializer=calls.pass_gate_and_raise, initargs=(gate.folder,))
    futures = [pool.submit(calls.square, number) for number in range(10)]
    gate.wait_until_arrived()
    gate.close()
    assert all(isinstance(error_of(future), BrokenProcessPool) for future in futures)


def test_initializer_that_raises_lets_shutdown_return(new_pool: NewPool) -> None:
    pool = new_pool(max_workers=1, initializer=calls.raise_in_initializer)
    error_of(pool.submit(calls.square, 2))
    pool.shutdown(wait=True)
