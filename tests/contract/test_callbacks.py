"""``add_done_callback``: once, in the host, with the future; its own failures hurt nobody."""

from __future__ import annotations

import logging
import os
import queue
from concurrent.futures import Executor, Future
from typing import Any, NoReturn

import pytest

from contract import calls
from contract.gate import Gate, pass_gate
from contract.kinds import NewPool
from contract.patience import PATIENCE, result_of


def test_callback_after_success_is_called_once_with_the_future(pool: Executor, gate: Gate) -> None:
    called: queue.Queue[Future[str]] = queue.Queue()
    future = pool.submit(pass_gate, gate.folder, "done")
    future.add_done_callback(called.put)
    gate.let_through()
    assert called.get(timeout=PATIENCE) is future
    assert result_of(future) == "done"
    result_of(pool.submit(calls.square, 2))
    assert called.empty()


def test_callback_after_failure_is_called(pool: Executor) -> None:
    called: queue.Queue[Future[Any]] = queue.Queue()
    future = pool.submit(calls.raise_value_error_in_the_worker, "failed")
    future.add_done_callback(called.put)
    assert isinstance(called.get(timeout=PATIENCE).exception(), ValueError)


def test_callback_after_cancel_is_called(new_pool: NewPool, gate: Gate) -> None:
    called: queue.Queue[Future[Any]] = queue.Queue()
    pool = new_pool(max_workers=1)
    futures = [pool.submit(pass_gate, gate.folder, number) for number in range(6)]
    gate.wait_until_arrived()
    futures[-1].add_done_callback(called.put)
    futures[-1].cancel()
    assert called.get(timeout=PATIENCE) is futures[-1]
    gate.close()
    result_of(futures[0])
    assert called.empty()


def test_callback_added_late_is_called_at_once(pool: Executor) -> None:
    called: list[Future[int]] = []
    future = pool.submit(calls.square, 2)
    result_of(future)
    future.add_done_callback(called.append)
    assert called == [future]


def test_callbacks_are_called_in_the_order_they_were_added(pool: Executor, gate: Gate) -> None:
    called: queue.Queue[int] = queue.Queue()
    future = pool.submit(pass_gate, gate.folder, None)
    for number in range(5):
        future.add_done_callback(lambda _, number=number: called.put(number))  # type: ignore[misc]
    gate.let_through()
    assert [called.get(timeout=PATIENCE) for _ in range(5)] == [0, 1, 2, 3, 4]


def test_callback_runs_in_the_host(pool: Executor, gate: Gate) -> None:
    called: queue.Queue[int] = queue.Queue()
    future = pool.submit(pass_gate, gate.folder, None)
    future.add_done_callback(lambda _: called.put(os.getpid()))
    gate.let_through()
    assert called.get(timeout=PATIENCE) == os.getpid()


def test_callback_that_raises_is_logged_and_hurts_nobody(
    pool: Executor, gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    called: queue.Queue[Future[Any]] = queue.Queue()

    def fail(_: Future[Any]) -> NoReturn:
        raise ZeroDivisionError("from the callback")

    future = pool.submit(pass_gate, gate.folder, "unharmed")
    future.add_done_callback(fail)
    future.add_done_callback(called.put)
    with caplog.at_level(logging.ERROR, logger="concurrent.futures"):
        gate.let_through()
        assert called.get(timeout=PATIENCE).result() == "unharmed"
    assert "from the callback" in caplog.text
    assert result_of(pool.submit(calls.square, 3)) == 9


def test_callback_may_submit(pool: Executor) -> None:
    second: queue.Queue[Future[int]] = queue.Queue()
    first = pool.submit(calls.square, 3)
    first.add_done_callback(lambda future: second.put(pool.submit(calls.square, future.result())))
    assert result_of(second.get(timeout=PATIENCE)) == 81


def test_callback_may_cancel_another(new_pool: NewPool, gate: Gate) -> None:
    pool = new_pool(max_workers=1)
    futures = [pool.submit(pass_gate, gate.folder, number) for number in range(8)]
    cancelled: queue.Queue[bool] = queue.Queue()
    futures[0].add_done_callback(lambda _: cancelled.put(futures[-1].cancel()))
    gate.wait_until_arrived()
    gate.let_through()
    assert cancelled.get(timeout=PATIENCE)
    gate.close()
