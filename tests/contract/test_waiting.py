"""``as_completed`` and ``wait``, which know nothing of pools, and so show whether futures are true ones."""

from __future__ import annotations

import concurrent.futures
from concurrent.futures import ALL_COMPLETED, FIRST_COMPLETED, FIRST_EXCEPTION, Executor, Future, ThreadPoolExecutor
from typing import Any

import pytest

from contract import calls
from contract.gate import Gate, pass_gate
from contract.kinds import STANDARD, NewPool
from contract.patience import PATIENCE, result_of


def test_as_completed_yields_every_future_once(pool: Executor) -> None:
    futures = [pool.submit(calls.square, number) for number in range(20)]
    completed = list(concurrent.futures.as_completed([*futures, *futures], timeout=PATIENCE))
    assert len(completed) == 20
    assert set(completed) == set(futures)


def test_as_completed_yields_the_finished_before_the_running(pool: Executor, gate: Gate) -> None:
    slow: Future[Any] = pool.submit(pass_gate, gate.folder, "slow")
    quick: Future[Any] = pool.submit(calls.square, 2)
    completed = concurrent.futures.as_completed([slow, quick], timeout=PATIENCE)
    assert next(completed) is quick
    gate.let_through()
    assert next(completed) is slow


def test_as_completed_timeout_raises_and_says_how_many_are_missing(pool: Executor, gate: Gate) -> None:
    future = pool.submit(pass_gate, gate.folder, None)
    with pytest.raises(concurrent.futures.TimeoutError, match="1 "):
        list(concurrent.futures.as_completed([future], timeout=0.05))
    gate.let_through()


def test_as_completed_after_cancel_yields_the_cancelled(new_pool: NewPool, gate: Gate) -> None:
    pool = new_pool(max_workers=1)
    futures = [pool.submit(pass_gate, gate.folder, number) for number in range(6)]
    gate.wait_until_arrived()
    assert futures[-1].cancel()
    gate.close()
    assert set(concurrent.futures.as_completed(futures, timeout=PATIENCE)) == set(futures)


def test_as_completed_after_cancel_futures_yields_what_was_cancelled(kind: str, new_pool: NewPool, gate: Gate) -> None:
    pool = new_pool(max_workers=1)
    futures = [pool.submit(pass_gate, gate.folder, number) for number in range(6)]
    gate.wait_until_arrived()
    pool.shutdown(wait=False, cancel_futures=True)
    gate.close()
    patience = 1.0 if kind == STANDARD else PATIENCE  # the standard library's executor uses all of it up
    assert set(concurrent.futures.as_completed(futures, timeout=patience)) == set(futures)


def test_wait_first_completed_returns_with_the_first(pool: Executor, gate: Gate) -> None:
    slow: Future[Any] = pool.submit(pass_gate, gate.folder, "slow")
    quick: Future[Any] = pool.submit(calls.square, 2)
    done, waiting = concurrent.futures.wait([slow, quick], PATIENCE, FIRST_COMPLETED)
    assert (done, waiting) == ({quick}, {slow})
    gate.let_through()
    assert result_of(slow) == "slow"


def test_wait_first_exception_returns_with_the_first_failure(pool: Executor, gate: Gate) -> None:
    slow: Future[Any] = pool.submit(pass_gate, gate.folder, "slow")
    failing: Future[Any] = pool.submit(calls.raise_value_error_in_the_worker, "failed")
    done, waiting = concurrent.futures.wait([slow, failing], PATIENCE, FIRST_EXCEPTION)
    assert (done, waiting) == ({failing}, {slow})
    gate.let_through()
    assert result_of(slow) == "slow"


def test_wait_all_completed_returns_with_the_last(pool: Executor) -> None:
    futures = {pool.submit(calls.square, number) for number in range(10)}
    done, waiting = concurrent.futures.wait(futures, PATIENCE, ALL_COMPLETED)
    assert (done, waiting) == (futures, set())


def test_wait_timeout_returns_what_there_is(pool: Executor, gate: Gate) -> None:
    future = pool.submit(pass_gate, gate.folder, None)
    done, waiting = concurrent.futures.wait([future], timeout=0.05)
    assert (done, waiting) == (set(), {future})
    gate.let_through()


def test_wait_futures_of_different_executors_waits_for_all(pool: Executor) -> None:
    with ThreadPoolExecutor(1) as threads:
        futures = {pool.submit(calls.square, 2), threads.submit(calls.square, 3)}
        done, waiting = concurrent.futures.wait(futures, PATIENCE)
    assert ({future.result() for future in done}, waiting) == ({4, 9}, set())
