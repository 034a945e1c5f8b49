"""Short tasks are sent before their worker is free, and nobody can tell but by the clock."""

from __future__ import annotations

import os
import random
import signal
import threading
from collections import Counter
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import pytest

from contract.gate import Gate
from contract.patience import eventually, result_of
from features import acts, ledger
from features.kills import workers_are_killed
from safepool import SafeProcessPoolExecutor, TaskKilledError, TaskTimeoutError, WorkerDiedError
from safepool._pool import future as future_module
from safepool._pool.task import TaskState

pytestmark = pytest.mark.timeout(180)


@pytest.fixture
def warm(new_pool: Any, tmp_path: Path) -> Any:
    """Make a pool whose workers are known to be quick, with a ledger for so many tasks."""

    def make(tasks: int, max_workers: int = 1, **options: Any) -> SafeProcessPoolExecutor:
        path = tmp_path / "ledger"
        ledger.new_ledger(path, tasks)
        pool: SafeProcessPoolExecutor = new_pool(
            max_workers, initializer=ledger.open_ledger, initargs=(str(path),), **options
        )
        for _ in range(20 * max_workers):
            result_of(pool.submit(acts.square, 2))
        return pool

    return make


def sent(futures: list[Any]) -> list[Any]:
    """Those that a worker has already, behind the task that it runs."""
    return [future for future in futures if (task := future._task) is not None and task.state is TaskState.SENT]


def test_tasks_behind_one_that_hangs_go_to_a_worker_that_is_free(warm, gate: Gate, tmp_path: Path) -> None:
    pool = warm(2000, max_workers=2)
    blocker = pool.submit(acts.pass_gate_and_tell_pid, gate.folder)
    futures = [pool.submit(ledger.mark, number) for number in range(2000)]
    gate.wait_until_arrived()

    assert [result_of(future) for future in futures] == list(range(2000))

    assert not blocker.done()
    gate.let_through()
    result_of(blocker)
    assert ledger.begun_counts(tmp_path / "ledger") == [1] * 2000


def test_task_that_was_sent_ahead_can_be_cancelled_and_never_runs(warm, tmp_path: Path) -> None:
    pool = warm(4000)
    futures = [pool.submit(ledger.mark_and_take, number, 0.0002) for number in range(4000)]
    eventually(lambda: sent(futures))
    seen_ahead = 0
    cancelled = set()
    for number in range(3999, -1, -1):
        future = futures[number]
        seen_ahead += bool(sent([future]))
        if future.cancel():
            assert future.cancelled()
            cancelled.add(number)
    outcomes = [None if future.cancelled() else result_of(future) for future in futures]
    pool.shutdown()

    assert cancelled
    assert outcomes == [None if number in cancelled else number for number in range(4000)]
    assert ledger.begun_counts(tmp_path / "ledger") == [int(number not in cancelled) for number in range(4000)]


def test_task_that_was_sent_ahead_does_not_count_as_running(warm, gate: Gate) -> None:
    pool = warm(50)
    blocker = pool.submit(acts.pass_gate_and_tell_pid, gate.folder)
    futures = [pool.submit(ledger.mark, number) for number in range(50)]
    gate.wait_until_arrived()
    assert not any(future.running() for future in futures)
    assert [future.cancel() for future in futures[25:]] == [True] * 25
    gate.let_through()
    result_of(blocker)
    assert [result_of(future) for future in futures[:25]] == list(range(25))


def test_death_of_a_worker_fails_the_task_that_runs_and_none_that_was_sent_ahead(warm, tmp_path: Path) -> None:
    pool = warm(1000)
    before = [pool.submit(ledger.mark, number) for number in range(500)]
    crash = pool.submit(os._exit, 3)
    after = [pool.submit(ledger.mark, number) for number in range(500, 1000)]

    assert isinstance(crash.exception(60), WorkerDiedError)
    assert [result_of(future) for future in before + after] == list(range(1000))
    assert ledger.begun_counts(tmp_path / "ledger") == [1] * 1000


def test_task_past_its_deadline_is_ended_and_none_that_was_sent_ahead(warm, tmp_path: Path) -> None:
    pool = warm(1000, task_timeout=0.5)
    before = [pool.submit(ledger.mark, number) for number in range(500)]
    hang = pool.submit(acts.hang_in_c)
    after = [pool.submit(ledger.mark, number) for number in range(500, 1000)]

    assert isinstance(hang.exception(60), TaskTimeoutError)
    assert [result_of(future) for future in before + after] == list(range(1000))
    assert ledger.begun_counts(tmp_path / "ledger") == [1] * 1000


def test_kill_of_the_running_task_spares_those_sent_ahead(warm, gate: Gate, tmp_path: Path) -> None:
    pool = warm(200)
    blocker = pool.submit(acts.pass_gate_and_tell_pid, gate.folder)
    futures = [pool.submit(ledger.mark, number) for number in range(200)]
    gate.wait_until_arrived()
    assert blocker.kill()
    assert isinstance(blocker.exception(60), TaskKilledError)
    assert [result_of(future) for future in futures] == list(range(200))
    assert ledger.begun_counts(tmp_path / "ledger") == [1] * 200


def test_shutdown_that_cancels_takes_back_what_was_sent_ahead(warm, gate: Gate, tmp_path: Path) -> None:
    pool = warm(200)
    blocker = pool.submit(acts.pass_gate_and_tell_pid, gate.folder)
    futures = [pool.submit(ledger.mark, number) for number in range(200)]
    gate.wait_until_arrived()
    pool.shutdown(wait=False, cancel_futures=True)
    eventually(lambda: all(future.cancelled() for future in futures))
    gate.let_through()
    result_of(blocker)
    pool.shutdown()
    assert ledger.begun_counts(tmp_path / "ledger") == [0] * 200


def test_urgent_task_goes_before_those_that_wait(warm) -> None:
    pool = warm(2000)
    futures = [pool.submit(ledger.mark_and_take, number, 0.0005) for number in range(2000)]
    urgent = pool.options(priority=-1).submit(acts.square, 3)
    result_of(urgent)
    assert sum(future.done() for future in futures) < 1000
    pool.shutdown(kill=True)


# --- a worker that does not take its ticket ---


@pytest.fixture
def stopped(warm) -> Any:
    """Make a pool whose only worker is stopped, and one task that it will not begin."""

    def make(**options: Any) -> tuple[SafeProcessPoolExecutor, Any]:
        pool = warm(1, **options)
        (worker,) = pool._pool._state.workers.values()
        worker.contained.send_signal(signal.SIGSTOP)
        future = pool.submit(ledger.mark, 0)
        eventually(lambda: worker.task is not None)
        return pool, future

    return make


def test_task_that_its_worker_has_not_begun_can_be_killed(stopped, tmp_path: Path) -> None:
    pool, future = stopped()
    assert future.kill()
    with pytest.raises((TaskKilledError, CancelledError)):
        future.result(60)
    assert ledger.begun_counts(tmp_path / "ledger") == [0]
    pool.shutdown(kill=True)


def test_pool_is_killed_together_with_a_task_that_its_worker_has_not_begun(stopped, tmp_path: Path) -> None:
    pool, future = stopped()
    pool.shutdown(kill=True)
    assert future.done()
    assert ledger.begun_counts(tmp_path / "ledger") == [0]


def test_deadline_of_a_task_that_its_worker_has_not_begun_holds(stopped, tmp_path: Path) -> None:
    _, future = stopped(task_timeout=0.2)
    assert isinstance(future.exception(60), TaskTimeoutError)
    assert ledger.begun_counts(tmp_path / "ledger") == [0]


# --- what else could be lost ---


def test_kill_of_a_pool_in_the_middle_of_short_tasks_settles_them_all(new_pool) -> None:
    for _ in range(10):
        pool = new_pool(2)
        result_of(pool.submit(acts.square, 2))
        futures = [pool.submit(acts.square, number) for number in range(2000)]
        result_of(futures[100])
        pool.shutdown(kill=True)
        assert all(future.done() for future in futures)


def test_worker_that_spoils_its_ring_ends_itself_and_no_other(warm) -> None:
    pool = warm(1000, max_workers=2)
    before = [pool.submit(ledger.mark, number) for number in range(500)]
    spoiler = pool.submit(acts.spoil_ring)
    after = [pool.submit(ledger.mark, number) for number in range(500, 1000)]
    errors = [future.exception(60) for future in [*before, *after]]
    assert spoiler.exception(60) is None or isinstance(spoiler.exception(60), WorkerDiedError)
    assert sum(error is not None for error in errors) < 500, "more than one worker's answers were lost"
    assert result_of(pool.submit(acts.square, 3)) == 9


@pytest.mark.parametrize("size", [1, 8])
def test_task_that_reads_tickets_ends_its_worker_and_loses_no_future(warm, size: int) -> None:
    pool = warm(1000, max_workers=2)
    before = [pool.submit(ledger.mark, number) for number in range(500)]
    thief = pool.submit(acts.steal_tickets, size)
    after = [pool.submit(ledger.mark, number) for number in range(500, 1000)]
    errors = [future.exception(60) for future in [*before, thief, *after]]
    assert {type(error) for error in errors} <= {type(None), WorkerDiedError}
    assert result_of(pool.submit(acts.square, 3)) == 9


def test_kill_that_comes_too_late_is_not_the_next_task_s(new_pool) -> None:
    pool = new_pool(1)
    for _ in range(20):
        quick = pool.submit(acts.square, 2)
        result_of(quick)
        quick = pool.submit(acts.square, 2)
        quick.kill()
        dying = pool.submit(acts.die)
        assert isinstance(dying.exception(60), WorkerDiedError)


def test_task_that_waits_for_a_retry_cannot_be_cancelled_and_is_run(new_pool, gate: Gate, tmp_path: Path) -> None:
    pool = new_pool(1, retries=1)
    dying = pool.submit(acts.fail_so_often, str(tmp_path / "runs"), 1, "die")
    assert not dying.cancel() or dying.cancelled()
    if not dying.cancelled():
        assert result_of(dying) == 2


def test_handler_that_waits_while_its_thread_has_the_lock_of_all_futures(new_pool) -> None:
    """1. A thread has the lock. 2. A signal handler in it waits for the pool. 3. That does not wait for the lock."""
    pool = new_pool(1)
    with future_module._unwatched:  # re-entrant: this is what a handler finds
        assert result_of(pool.submit(acts.square, 3)) == 9


def test_forked_child_has_a_lock_of_its_own_for_its_futures(new_pool) -> None:
    """1. A thread has the lock. 2. Another one forks. 3. In the child, nobody will ever give it back."""
    taken, done = threading.Event(), threading.Event()

    def take() -> None:
        with future_module._unwatched:
            taken.set()
            done.wait(60)

    thread = threading.Thread(target=take)
    thread.start()
    taken.wait(60)
    child = os.fork()
    if not child:
        os._exit(0 if future_module._unwatched.acquire(blocking=False) else 1)
    _, status = os.waitpid(child, 0)
    done.set()
    thread.join()
    assert status == 0


@pytest.mark.parametrize("tasks", [5_000, pytest.param(100_000, marks=[pytest.mark.torture, pytest.mark.timeout(600)])])
def test_random_kills_of_workers_lose_no_task_and_run_none_twice(warm, tmp_path: Path, tasks: int) -> None:
    chance = random.Random(tasks)
    pool = warm(tasks, max_workers=3)
    settled: Counter[int] = Counter()
    with workers_are_killed(pool, chance, 0.03) as kills:
        futures = []
        for number in range(tasks):
            seconds = chance.choice([0, 0, 0, 0, 0, 0.0001, 0.002]) if number % 10 == 0 else 0
            call = (ledger.mark_and_take, number, seconds) if seconds else (ledger.mark, number)
            future = pool.submit(*call)
            future.add_done_callback(lambda _, number=number: settled.update([number]))
            futures.append(future)
        errors = {number: future.exception(300) for number, future in enumerate(futures)}
    pool.shutdown()

    begun = ledger.begun_counts(tmp_path / "ledger")
    failed = {number: error for number, error in errors.items() if error is not None}
    assert kills
    assert {type(error) for error in failed.values()} <= {WorkerDiedError}
    assert len(failed) <= len(kills)
    assert all(error.elapsed is not None for error in failed.values()), "a task failed that had not begun"
    assert max(begun) == 1, "a task ran twice"
    assert all(begun[number] == 1 for number in range(tasks) if number not in failed), "a result without a task"
    assert [future.result() for future in futures if future.exception() is None] == [
        number for number in range(tasks) if number not in failed
    ]
    eventually(lambda: len(settled) == tasks)
    assert set(settled.values()) == {1}
