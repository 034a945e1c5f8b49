"""Tasks, arguments and callers that work against the pool: what they break is their own."""

from __future__ import annotations

import errno
import gc
import logging
import threading
import time
from types import SimpleNamespace
from typing import NoReturn

import pytest

from contract.patience import PATIENCE, error_of, eventually, result_of
from executor import calls
from features import acts, hostile
from safepool import (
    SafeProcessPoolExecutor,
    SoftTimeoutError,
    TaskMemoryError,
    TaskTimeoutError,
    WorkerDiedError,
)
from safepool._pool import outcomes
from safepool._pool import pool as pool_module
from support import census

# --- signals ---


@pytest.mark.parametrize("spoil", [hostile.reset_signals, hostile.block_signals, hostile.ignore_signals])
def test_task_that_spoils_the_signals_spoils_them_for_nobody_else(new_pool, spoil) -> None:
    pool = new_pool(soft_timeout=0.3)
    worker = result_of(pool.options(soft_timeout=None).submit(spoil))

    limit, _ = result_of(pool.submit(acts.catch_soft_timeout, "asleep"))
    stacks = []
    for _ in range(3):  # one may be late
        result_of(pool.options(soft_timeout=None).submit(spoil))
        error = error_of(pool.options(soft_timeout=None, timeout=2.0).submit(calls.hang_in_a_python_loop))
        assert isinstance(error, TaskTimeoutError)
        stacks.append(error.stack)

    assert limit == 0.3
    assert worker > 0
    assert "hang_in_a_python_loop" in "".join(stacks)


def test_soft_timeout_while_the_result_is_pickled_is_not_lost(new_pool) -> None:
    error = error_of(new_pool(soft_timeout=0.3).submit(hostile.SlowToPickle, 2.0))

    assert isinstance(error, SoftTimeoutError)


# --- exceptions ---


@pytest.mark.parametrize("kind", ["text", "exit", "interrupt"])
def test_exception_that_cannot_be_described_fails_its_task_and_not_its_worker(new_pool, kind) -> None:
    pool = new_pool()
    worker = result_of(pool.submit(acts.tell_pid))

    error = error_of(pool.submit(hostile.raise_indescribable, kind))

    assert isinstance(error, Exception)
    assert not isinstance(error, WorkerDiedError)
    assert result_of(pool.submit(acts.tell_pid)) == worker


def test_task_that_used_up_all_descriptors_has_its_traceback_all_the_same(new_pool) -> None:
    pool = new_pool()
    worker = result_of(pool.submit(acts.tell_pid))

    error = error_of(pool.submit(hostile.use_up_descriptors))

    assert isinstance(error, OSError)
    assert error.errno == errno.EMFILE
    assert "in use_up_descriptors" in str(error.__cause__)
    assert "Too many open files" in str(error.__cause__)
    assert result_of(pool.submit(acts.tell_pid)) == worker


# --- memory ---


def test_process_between_vfork_and_exec_does_not_count_its_parent_s_memory_again(new_pool, tmp_path) -> None:
    """The child waits for a writer before its exec, for longer than ten looks take."""
    pool = new_pool(memory_limit="400MB")

    outcome = pool.submit(hostile.start_slowly, str(tmp_path / "fifo"), 250)

    error = error_of(outcome)
    assert not isinstance(error, TaskMemoryError), error
    assert result_of(outcome) == 0


# --- the end ---


def test_shutdown_that_overtakes_the_first_submit_ends_the_pool_after_its_task(new_pool, caplog) -> None:
    """1. ``submit`` finds the pool open. 2. ``shutdown`` finds that nothing was ever begun. 3. ``submit`` goes on."""
    pool = new_pool()
    argument = hostile.HeldUp(5)
    shutting = threading.Thread(target=lambda: (argument.arrived.wait(PATIENCE), pool.shutdown(), argument.go_on.set()))
    shutting.start()

    future = pool.submit(abs, argument)
    shutting.join(PATIENCE)

    assert result_of(future) == 5
    assert not [record for record in caplog.records if record.levelno >= logging.CRITICAL]
    pool.shutdown()
    assert pool._pool._is_over.is_set()


@pytest.mark.parametrize(
    ("end", "is_room_again"),
    [
        ("waited for", True),
        ("not waited for", True),
        ("forgotten", True),
        ("waited for", False),
        ("not waited for", False),
        ("forgotten", False),
    ],
)
def test_pool_whose_supervisor_could_not_be_started_keeps_no_descriptor(monkeypatch, end, is_room_again) -> None:
    """1. There is no room for a thread. 2. The first ``submit`` says so. 3. The pool ends; nothing was begun."""

    def refuse(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    before = len(census.open_files())
    executor = SafeProcessPoolExecutor(1)
    pool = executor._pool
    monkeypatch.setattr(pool_module, "_thread", SimpleNamespace(start_new_thread=refuse))
    with pytest.raises(RuntimeError, match="can't start new thread"):
        executor.submit(abs, -1)
    assert len(census.open_files()) > before
    if is_room_again:
        monkeypatch.undo()

    if end == "forgotten":
        del executor
        gc.collect()
    else:
        executor.shutdown(wait=end == "waited for")

    eventually(pool._is_over.is_set)
    assert len(census.open_files()) == before
    assert pool not in pool_module._open_pools


def test_pool_with_room_for_one_thread_but_not_for_two_works_and_leaves_none(monkeypatch) -> None:
    def start(thread: threading.Thread, begin=threading.Thread.start) -> None:
        if thread.name == "safepool-supervisor":
            raise RuntimeError("can't start new thread")
        begin(thread)

    monkeypatch.setattr(threading.Thread, "start", start)
    before = set(threading.enumerate())
    with SafeProcessPoolExecutor(1) as executor:
        future = executor.submit(acts.square, 3)
        assert result_of(future) == 9
        assert executor._pool.thread is None
        assert isinstance(error_of(executor.submit(calls.hang, task_timeout=0.3)), TaskTimeoutError)

    assert set(threading.enumerate()) <= before


def test_supervisor_that_a_finalizer_has_wait_for_the_pool_s_end_does_not_wait_for_itself() -> None:
    """1. The pool is over. 2. Before the thread is, a collection runs there. 3. A finalizer joins the pool."""
    executor = SafeProcessPoolExecutor(1)
    pool = executor._pool
    assert result_of(executor.submit(acts.square, 3)) == 9
    tell, joined = pool._is_over.set, threading.Event()

    def tell_and_join() -> None:
        pool.join()
        tell()
        pool.join()
        number, pool._thread_id = pool._thread_id, None
        pool.join()
        pool._thread_id = number
        joined.set()

    pool._is_over.set = tell_and_join
    executor.shutdown(wait=False)

    assert joined.wait(PATIENCE)
    pool.join()


def test_kill_that_overtakes_a_submit_runs_nothing_any_more(new_pool, gate) -> None:
    """1. ``submit`` finds the pool open. 2. The pool is killed, which takes a while. 3. ``submit`` goes on."""
    pool = new_pool()
    running = pool.submit(acts.pass_gate_and_tell_pid, gate.folder)
    gate.wait_until_arrived()
    argument = hostile.HeldUp(600)
    killing = threading.Thread(target=lambda: (argument.arrived.wait(PATIENCE), kill(pool), argument.go_on.set()))
    killing.start()

    late = None
    try:
        late = pool.submit(time.sleep, argument)
    except RuntimeError as error:  # everything was over before
        assert "shutdown" in str(error)  # noqa: PT017  # which of the two comes is up to the threads
    killing.join(PATIENCE)
    pool.shutdown()

    assert running.done()
    assert late is None or late.cancelled()


def kill(pool: SafeProcessPoolExecutor) -> None:
    """Kill it, and return when that has been heard of and not more."""
    pool.shutdown(kill=True, wait=False)
    eventually(lambda: pool._pool._state.is_killed or pool._pool._is_over.is_set())


def test_shutdown_while_a_result_is_unpickled_does_not_wait_for_itself(new_pool) -> None:
    pool = new_pool()
    hostile.on_rebuild[:] = [pool.shutdown]
    try:
        value = result_of(pool.submit(hostile.CallsOnRebuild))
    finally:
        hostile.on_rebuild.clear()

    assert isinstance(value, hostile.CallsOnRebuild)
    pool.shutdown()
    assert pool._pool._is_over.is_set()


# --- callers ---


def test_future_whose_waiters_somebody_else_has_told_harms_nobody(new_pool, gate) -> None:
    pool = new_pool()
    running = pool.submit(acts.pass_gate_and_tell_pid, gate.folder)
    gate.wait_until_arrived()
    for _ in range(50):
        future = pool.submit(abs, -1)
        future.cancel()
        try:
            future.set_running_or_notify_cancel()
        except RuntimeError:
            pass  # the pool was quicker
    gate.let_through()

    assert result_of(running)
    assert result_of(pool.submit(acts.square, 3)) == 9


def test_log_handler_that_raises_keeps_nobody_from_the_results(new_pool, monkeypatch) -> None:
    class Broken(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise LookupError(record.getMessage())

    def fail_once(*_: object) -> NoReturn:
        monkeypatch.undo()
        failed.set()
        raise LookupError("on purpose")

    failed = threading.Event()
    handler = Broken()
    logging.getLogger("safepool").addHandler(handler)
    try:
        pool = new_pool()
        monkeypatch.setattr(outcomes, "rebuild", fail_once)
        pool.submit(set, "ab")  # a defect of ours, for once
        assert failed.wait(PATIENCE)
        assert result_of(pool.submit(set, "cd")) == {"c", "d"}
    finally:
        logging.getLogger("safepool").removeHandler(handler)
