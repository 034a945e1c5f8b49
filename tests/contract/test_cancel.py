"""``cancel`` and the states that a future tells."""

from __future__ import annotations

import concurrent.futures
from concurrent.futures import CancelledError, Executor, Future
from pathlib import Path
from typing import Any

import pytest

from contract import calls
from contract.gate import Gate, pass_gate
from contract.kinds import NewPool
from contract.patience import eventually, result_of

# The standard library moves a few tasks to its workers' queue ahead of time, and these say that they run.
ENOUGH_TO_WAIT = 6


def test_cancel_waiting_task_succeeds(new_pool: NewPool, gate: Gate) -> None:
    pool = new_pool(max_workers=1)
    futures = [pool.submit(pass_gate, gate.folder, number) for number in range(ENOUGH_TO_WAIT)]
    last = futures[-1]
    gate.wait_until_arrived()
    assert (last.running(), last.done(), last.cancelled()) == (False, False, False)
    assert last.cancel()
    assert (last.running(), last.done(), last.cancelled()) == (False, True, True)
    gate.close()
    assert [result_of(future) for future in futures[:-1]] == list(range(ENOUGH_TO_WAIT - 1))


def test_cancelled_future_raises_cancelled_error(new_pool: NewPool, gate: Gate) -> None:
    pool = new_pool(max_workers=1)
    futures = [pool.submit(pass_gate, gate.folder, number) for number in range(ENOUGH_TO_WAIT)]
    gate.wait_until_arrived()
    futures[-1].cancel()
    with pytest.raises(CancelledError):
        futures[-1].result(timeout=0)
    with pytest.raises(CancelledError):
        futures[-1].exception(timeout=0)


def test_cancelled_task_never_runs(new_pool: NewPool, gate: Gate, tmp_path: Path) -> None:
    path = tmp_path / "ran"
    pool = new_pool(max_workers=1)
    for _ in range(ENOUGH_TO_WAIT):
        pool.submit(pass_gate, gate.folder, None)
    cancelled = pool.submit(calls.append_line, str(path), "ran")
    last = pool.submit(calls.square, 3)
    gate.wait_until_arrived()
    assert cancelled.cancel()
    gate.close()
    assert result_of(last) == 9
    assert not path.exists()


def test_cancel_twice_succeeds_twice(new_pool: NewPool, gate: Gate) -> None:
    pool = new_pool(max_workers=1)
    futures = [pool.submit(pass_gate, gate.folder, number) for number in range(ENOUGH_TO_WAIT)]
    assert (futures[-1].cancel(), futures[-1].cancel()) == (True, True)


def test_cancel_running_task_is_refused(pool: Executor, gate: Gate) -> None:
    future = pool.submit(pass_gate, gate.folder, "undisturbed")
    gate.wait_until_arrived()
    assert (future.cancel(), future.cancelled()) == (False, False)
    gate.let_through()
    assert result_of(future) == "undisturbed"


def test_cancel_finished_task_is_refused(pool: Executor) -> None:
    future = pool.submit(calls.square, 3)
    result_of(future)
    assert (future.cancel(), future.cancelled()) == (False, False)
    assert future.result() == 9


def test_running_while_the_task_runs_is_true(pool: Executor, gate: Gate) -> None:
    future = pool.submit(pass_gate, gate.folder, None)
    gate.wait_until_arrived()
    assert eventually(future.running)
    assert not future.done()
    gate.let_through()
    result_of(future)
    assert (future.running(), future.done()) == (False, True)


def test_cancel_of_all_waiting_lets_the_pool_go_on(new_pool: NewPool, gate: Gate) -> None:
    pool = new_pool(max_workers=1)
    futures = [pool.submit(pass_gate, gate.folder, number) for number in range(20)]
    gate.wait_until_arrived()
    cancelled = [future for future in futures if future.cancel()]
    assert len(cancelled) >= 20 - ENOUGH_TO_WAIT
    gate.close()
    assert result_of(pool.submit(calls.square, 4)) == 16


def test_cancelled_future_wakes_a_waiting_wait(new_pool: NewPool, gate: Gate) -> None:
    pool = new_pool(max_workers=1)
    futures: list[Future[Any]] = [pool.submit(pass_gate, gate.folder, number) for number in range(ENOUGH_TO_WAIT)]
    gate.wait_until_arrived()
    futures[-1].cancel()
    gate.close()
    assert concurrent.futures.wait(futures, timeout=30).not_done == set()
