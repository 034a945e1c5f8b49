"""What user code can do to the host by being printed, rebuilt, let go of, or settled: nothing to anybody else."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

from contract.patience import PATIENCE, error_of, eventually, result_of
from features import acts, hostile
from safepool import InitializerError, TaskKilledError, WorkerDiedError


def test_exception_that_takes_no_cause_arrives(new_pool) -> None:
    pool = new_pool()

    assert isinstance(error_of(pool.submit(hostile.raise_frozen)), hostile.FrozenError)
    assert result_of(pool.submit(acts.square, 3)) == 9


def test_argument_that_cannot_be_printed_fails_no_message(new_pool) -> None:
    error = error_of(new_pool().submit(hostile.die_with, hostile.Unprintable()))

    assert isinstance(error, WorkerDiedError)
    assert "<Unprintable>" in str(error)


def test_call_without_a_name_fails_no_message(new_pool) -> None:
    error = error_of(new_pool().submit(hostile.Nameless()))

    assert isinstance(error, WorkerDiedError)
    assert error.exitcode == 7


def test_finalizer_of_a_cancelled_argument_may_use_the_pool(new_pool, gate) -> None:
    pool = new_pool()
    pool.submit(acts.pass_gate_and_tell_pid, gate.folder)
    gate.wait_until_arrived()
    victim = pool.submit(acts.square, 5)
    cancelled = pool.submit(hostile.accept, hostile.Finalized(victim.cancel))

    assert cancelled.cancel()
    del cancelled

    assert eventually(victim.cancelled)
    gate.let_through()
    assert result_of(pool.submit(acts.square, 3)) == 9


def test_finalizer_of_an_argument_runs_in_no_thread_that_keeps_deadlines(new_pool) -> None:
    threads: list[str] = []
    pool = new_pool()
    argument = hostile.Finalized(lambda: threads.append(threading.current_thread().name))
    future = pool.submit(hostile.accept, argument)
    del argument

    assert result_of(future) == 1

    assert eventually(lambda: threads)
    assert threads != ["safepool-supervisor"]


def test_future_that_somebody_else_settles_harms_no_other(new_pool, gate) -> None:
    pool = new_pool()
    running = pool.submit(acts.pass_gate_and_tell_pid, gate.folder)
    gate.wait_until_arrived()
    waiting, last = pool.submit(acts.square, 2), pool.submit(acts.square, 3)

    waiting.set_result("mine")
    running.set_exception(LookupError("mine, too"))
    gate.let_through()

    assert result_of(waiting) == "mine"
    assert isinstance(error_of(running), LookupError)
    assert result_of(last) == 9


@pytest.mark.parametrize(("ending", "most"), [(hostile.leave, 4), (hostile.be_killed, 10)])
def test_task_that_hides_that_it_began_is_not_run_for_ever(
    new_pool, tmp_path: Path, ending: Callable[[], NoReturn], most: int
) -> None:
    runs = tmp_path / "runs"
    pool = new_pool()
    error = error_of(pool.submit(hostile.note_run_and_spoil_the_record, str(runs), ending))

    assert isinstance(error, WorkerDiedError)
    assert runs.stat().st_size == most
    assert result_of(pool.submit(acts.square, 3)) == 9


def test_child_that_a_task_forked_cannot_speak_for_the_worker(new_pool, tmp_path: Path) -> None:
    pool = new_pool()
    written = tmp_path / "written"
    result_of(pool.submit(hostile.leave_a_child_that_writes_to_every_socket, str(written)))
    assert eventually(written.exists)

    assert [result_of(pool.submit(acts.square, number)) for number in range(5)] == [0, 1, 4, 9, 16]


def test_shutdown_from_a_callback_ends(new_pool) -> None:
    pool = new_pool(2)
    list(pool.map(hostile.nap_and_give_a_list, [0.0, 0.0]))
    over = threading.Event()
    first = pool.submit(hostile.nap_and_give_a_list, 0.0)
    second = pool.submit(hostile.nap_and_give_a_list, 0.3)

    first.add_done_callback(lambda _: (pool.shutdown(), over.set()))

    assert result_of(second) == [0.3]
    assert over.wait(PATIENCE)


def test_initializer_that_fails_in_a_pool_that_is_closing_ends_it(new_pool) -> None:
    pool = new_pool(initializer=hostile.refuse)
    future = pool.submit(acts.square, 3)

    pool.shutdown()

    assert isinstance(error_of(future), InitializerError)
    assert isinstance(error_of(future).__cause__, ValueError)


def test_killed_pool_runs_nothing_again_whose_worker_had_just_died(new_pool) -> None:
    """1. An idle worker dies. 2. It is given a task that it never begins. 3. The pool is killed before it is missed."""
    pool = new_pool(retries=3)
    pid = result_of(pool.submit(acts.tell_pid))
    os.kill(pid, signal.SIGSTOP)
    future = pool.submit(acts.tell_pid)
    assert eventually(future.running)
    os.kill(pid, signal.SIGKILL)

    pool.shutdown(kill=True)

    assert future.done()
    assert (
        future.cancelled() or isinstance(error_of(future), (TaskKilledError, WorkerDiedError)) or future.result() != pid
    )


@pytest.mark.parametrize("signum", [signal.SIGABRT, signal.SIGKILL])
def test_argument_that_ends_whoever_unpickles_it_costs_one_worker(new_pool, tmp_path: Path, signum: int) -> None:
    notes = tmp_path / "notes"
    pool = new_pool()
    assert isinstance(error_of(pool.submit(len, hostile.DiesWhenRebuilt(str(notes), signum))), WorkerDiedError)
    assert notes.stat().st_size == 1
    assert pool.submit(abs, -1).result(60) == 1
