"""Items of a ``map`` travel together, and nobody can tell but by the clock."""

from __future__ import annotations

import random
import select
import signal
import threading
import weakref
from array import array
from collections.abc import Iterator
from concurrent.futures import CancelledError
from concurrent.futures import TimeoutError as FuturesTimeoutError
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from contract.gate import Gate
from contract.patience import eventually, result_of
from features import acts, ledger
from features.kills import workers_are_killed
from safepool import SafeProcessPoolExecutor, TaskKilledError, TaskTimeoutError, WorkerDiedError
from safepool._pool.bundle import Bundle
from safepool._pool.worker import Worker, WorkerState

pytestmark = pytest.mark.timeout(180)


@pytest.fixture
def warm(new_pool: Any, tmp_path: Path) -> Any:
    """Make a pool whose workers are known to be quick, with a ledger for so many items."""

    def make(items: int, max_workers: int = 1, **options: Any) -> SafeProcessPoolExecutor:
        path = tmp_path / "ledger"
        ledger.new_ledger(path, items)
        pool: SafeProcessPoolExecutor = new_pool(
            max_workers, initializer=ledger.open_ledger, initargs=(str(path),), **options
        )
        assert list(pool.map(acts.square, range(200))) == [number * number for number in range(200)]
        return pool

    return make


def bundles_of(pool: SafeProcessPoolExecutor) -> list[Bundle]:
    """Those that workers have."""
    workers = list(pool._pool._state.workers.values())
    tasks = [task for worker in workers for task in worker.sent()]
    return [task for task in tasks if isinstance(task, Bundle)]


def outcomes_of(results: Any, count: int) -> list[Any]:
    """Each value, or the class of what was raised, of results that keep exceptions."""
    outcomes = [type(outcome) if isinstance(outcome, Exception) else outcome for outcome in results]
    assert len(outcomes) == count
    return outcomes


def test_items_travel_together(warm, gate: Gate) -> None:
    """Else everything below shows nothing."""
    pool = warm(1)
    blocker = pool.submit(acts.pass_gate_and_tell_pid, gate.folder)
    gate.wait_until_arrived()
    results = pool.map(acts.square, range(1000))
    gate.let_through()
    result_of(blocker)
    assert list(results) == [number * number for number in range(1000)]
    results = pool.map(acts.pass_gate_if_first, [gate.folder] * 200, range(200))
    gate.wait_until_arrived()
    eventually(lambda: [task for task in pool._pool._state.waiting if isinstance(task, Bundle)])
    gate.let_through()
    assert list(results) == list(range(200))


def test_death_of_a_worker_fails_the_item_that_runs_and_no_other(warm, tmp_path: Path) -> None:
    pool = warm(1000)
    outcomes = outcomes_of(pool.map(ledger.mark_or_die, range(1000), [500] * 1000, return_exceptions=True), 1000)
    assert outcomes[500] is WorkerDiedError
    assert outcomes[:500] + outcomes[501:] == [*range(500), *range(501, 1000)]
    assert ledger.begun_counts(tmp_path / "ledger") == [1] * 1000


def test_item_past_its_deadline_is_ended_and_no_other(warm, tmp_path: Path) -> None:
    pool = warm(1000)
    calls = range(1000), [500] * 1000
    outcomes = outcomes_of(pool.map(ledger.mark_or_hang, *calls, task_timeout=1, return_exceptions=True), 1000)
    assert outcomes[500] is TaskTimeoutError
    assert outcomes[:500] + outcomes[501:] == [*range(500), *range(501, 1000)]
    assert ledger.begun_counts(tmp_path / "ledger") == [1] * 1000


def test_items_behind_a_long_one_go_to_a_worker_that_is_free(warm, gate: Gate, tmp_path: Path) -> None:
    pool = warm(2000, max_workers=2)
    results = pool.map(ledger.mark_or_pass_gate, range(2000), [300] * 2000, [gate.folder] * 2000)
    gate.wait_until_arrived()
    eventually(lambda: ledger.begun_counts(tmp_path / "ledger") == [1] * 2000)
    gate.let_through()
    assert list(results) == list(range(2000))


def test_worker_that_is_stopped_between_two_items_begins_none_that_is_run_elsewhere(warm, tmp_path: Path) -> None:
    """Wherever the stop strikes: what the worker had announced and not begun comes back when it goes on."""
    pool = warm(30_000, max_workers=2)
    chance = random.Random(5)
    is_over = threading.Event()
    stops = 0

    def stop_workers() -> None:
        nonlocal stops
        while not is_over.wait(0.001):
            for worker in list(pool._pool._state.workers.values()):
                if worker.state is WorkerState.BUSY:
                    worker.contained.send_signal(signal.SIGSTOP)
                    is_over.wait(chance.uniform(0.003, 0.02))
                    worker.contained.send_signal(signal.SIGCONT)
                    stops += 1

    stopper = threading.Thread(target=stop_workers)
    stopper.start()
    try:
        assert list(pool.map(ledger.mark, range(30_000))) == list(range(30_000))
    finally:
        is_over.set()
        stopper.join()
    assert stops
    assert ledger.begun_counts(tmp_path / "ledger") == [1] * 30_000


def test_item_that_its_worker_announced_and_did_not_begin_comes_back(warm, tmp_path: Path, monkeypatch) -> None:
    """1. The host stops a bundle that its worker has not come to. 2. The worker comes to it, and begins nothing."""
    pool = warm(1000)
    parted: list[int] = []
    on_parted = pool._pool._supervisor._feeding.on_parted

    def note(worker: Worker, bundle: Bundle) -> None:
        parted.append(bundle.size)
        on_parted(worker, bundle)

    monkeypatch.setattr(pool._pool._supervisor._feeding, "on_parted", note)
    (worker,) = pool._pool._state.workers.values()

    def stop(bundle: Bundle) -> None:
        bundle.is_stopped = True
        worker.record.stop(bundle.ticket)

    for _ in range(200):
        worker.contained.send_signal(signal.SIGSTOP)
        results = pool.map(acts.square, range(300))
        eventually(lambda: bundles_of(pool))
        for bundle in bundles_of(pool)[:1]:
            pool._pool._tell(partial(stop, bundle))
        worker.contained.send_signal(signal.SIGCONT)
        assert list(results) == [number * number for number in range(300)]
        if parted:
            break
    assert parted


def test_map_that_is_closed_runs_no_more_items(warm, gate: Gate, tmp_path: Path) -> None:
    pool = warm(2000)
    results = pool.map(ledger.mark_or_pass_gate, range(2000), [300] * 2000, [gate.folder] * 2000)
    assert next(results) == 0
    gate.wait_until_arrived()
    results.close()
    gate.let_through()
    assert result_of(pool.submit(acts.square, 2)) == 4
    assert ledger.begun_counts(tmp_path / "ledger") == [1] * 301 + [0] * 1699


def test_shutdown_that_cancels_leaves_what_has_begun_and_cancels_the_rest(warm, gate: Gate, tmp_path: Path) -> None:
    pool = warm(1000)
    results = pool.map(ledger.mark_or_pass_gate, range(1000), [300] * 1000, [gate.folder] * 1000)
    gate.wait_until_arrived()
    pool.shutdown(wait=False, cancel_futures=True)
    eventually(lambda: not pool._pool._state.waiting_count)
    gate.let_through()
    assert [next(results) for _ in range(301)] == list(range(301))
    with pytest.raises(CancelledError):
        next(results)
    pool.shutdown()
    assert ledger.begun_counts(tmp_path / "ledger") == [1] * 301 + [0] * 699


def test_kill_of_the_pool_ends_the_item_that_runs_and_cancels_the_rest(warm, gate: Gate, tmp_path: Path) -> None:
    pool = warm(1000)
    results = pool.map(ledger.mark_or_pass_gate, range(1000), [300] * 1000, [gate.folder] * 1000)
    gate.wait_until_arrived()
    pool.shutdown(kill=True)
    assert [next(results) for _ in range(300)] == list(range(300))
    with pytest.raises(TaskKilledError):
        next(results)
    assert ledger.begun_counts(tmp_path / "ledger") == [1] * 301 + [0] * 699


def test_values_of_every_kind_keep_their_places(warm) -> None:
    pool = warm(1)
    given = [1, "a", b"b" * 10_000, [1, {2}], {3: (4,)}, lambda: 5, b"c" * 200_000, None, 6.5, "d" * 5000] * 30
    taken = list(pool.map(acts.give_back, given))
    assert [value() if callable(value) else value for value in taken] == [
        value() if callable(value) else value for value in given
    ]


def test_arguments_that_cannot_be_pickled_fail_their_own_item(warm) -> None:
    pool = warm(1)
    given = [1, 2, threading.Lock(), 4]
    outcomes = outcomes_of(pool.map(acts.give_back, given, return_exceptions=True), 4)
    assert outcomes == [1, 2, TypeError, 4]


def test_exceptions_in_every_third_item_keep_their_places(warm) -> None:
    pool = warm(1, max_workers=2)
    given = [-number if number % 3 == 0 and number else number for number in range(1000)]
    outcomes = outcomes_of(pool.map(acts.square_or_raise, given, return_exceptions=True), 1000)
    assert outcomes == [ValueError if number < 0 else number * number for number in given]


def test_arguments_are_let_go_of_when_their_item_is_over(warm) -> None:
    pool = warm(1)
    given = [acts.Marked() for _ in range(500)]
    kept = [weakref.ref(argument) for argument in given]
    results = pool.map(acts.tell_type, given)
    given.clear()
    assert next(results) == "Marked"
    assert set(results) == {"Marked"}
    eventually(lambda: not any(reference() for reference in kept))


def test_map_timeout_cancels_the_items_that_wait(warm, gate: Gate, tmp_path: Path) -> None:
    pool = warm(1000)
    results = pool.map(ledger.mark_or_pass_gate, range(1000), [300] * 1000, [gate.folder] * 1000, timeout=1)
    gate.wait_until_arrived()
    assert [next(results) for _ in range(300)] == list(range(300))
    with pytest.raises(FuturesTimeoutError):
        next(results)
    gate.let_through()
    result_of(pool.submit(acts.square, 2))
    assert ledger.begun_counts(tmp_path / "ledger") == [1] * 301 + [0] * 699


def test_map_in_a_pool_that_is_shut_down_is_refused(warm) -> None:
    pool = warm(1)
    pool.shutdown()
    with pytest.raises(RuntimeError, match="shutdown"):
        pool.map(acts.square, range(3))


def test_task_that_forks_and_comes_back_twice_is_one_item(warm, tmp_path: Path) -> None:
    pool = warm(300)
    assert list(pool.map(ledger.mark_and_fork, range(300))) == list(range(300))
    assert ledger.begun_counts(tmp_path / "ledger") == [1] * 300


def test_worn_worker_is_replaced_between_items(warm, tmp_path: Path) -> None:
    pool = warm(300, max_tasks_per_child=25)
    pids = list(pool.map(ledger.mark_and_tell_pid, range(300)))
    assert max(pids.count(pid) for pid in pids) <= 25
    assert ledger.begun_counts(tmp_path / "ledger") == [1] * 300


@pytest.mark.parametrize("items", [5_000, pytest.param(100_000, marks=[pytest.mark.torture, pytest.mark.timeout(600)])])
@pytest.mark.parametrize("limit", [None, 100])
def test_random_kills_of_workers_lose_no_item_and_run_none_twice(
    warm, tmp_path: Path, items: int, limit: float | None
) -> None:
    chance = random.Random(items)
    pool = warm(items, max_workers=3)
    with workers_are_killed(pool, chance, 0.02) as kills:
        seconds = [chance.choice([0.0001, 0.002]) if number % 50 == 0 else 0.0 for number in range(items)]
        calls = range(items), seconds
        outcomes = list(pool.map(ledger.mark_and_take, *calls, task_timeout=limit, return_exceptions=True))
    pool.shutdown()

    begun = ledger.begun_counts(tmp_path / "ledger")
    failed = {number: error for number, error in enumerate(outcomes) if isinstance(error, Exception)}
    assert kills
    assert {type(error) for error in failed.values()} <= {WorkerDiedError}
    assert len(failed) <= len(kills)
    unbegun = [str(error) for error in failed.values() if error.elapsed is None]
    assert not unbegun, "an item failed that had not begun"
    assert max(begun) == 1, "an item ran twice"
    assert all(begun[number] == 1 for number in range(items) if number not in failed), "a result without an item"
    assert [value for value in outcomes if not isinstance(value, Exception)] == [
        number for number in range(items) if number not in failed
    ]


def test_item_that_comes_back_from_a_worker_of_a_killed_pool_is_cancelled(warm, tmp_path: Path, monkeypatch) -> None:
    """1. Its worker takes the ticket. 2. The pool is killed, and stops the bundle. 3. The worker begins nothing."""
    pool = warm(300)
    supervisor = pool._pool._supervisor
    (worker,) = pool._pool._state.workers.values()
    parted: list[int] = []
    on_parted, end, take_back = supervisor._feeding.on_parted, supervisor._endings.end, worker.channel.take_back

    def note(worker: Worker, bundle: Bundle) -> None:
        parted.append(bundle.size)
        on_parted(worker, bundle)

    def end_later(worker: Worker) -> None:
        worker.contained.send_signal(signal.SIGCONT)
        ring = worker.record.ring
        eventually(lambda: ring._read[0] != ring._written[0] or select.select([worker.channel.fileno()], [], [], 0)[0])
        end(worker)

    def take_back_but_first() -> list[int]:
        numbers = take_back()
        worker.channel._tickets.send(array("Q", numbers[:1]))  # as if it had just been taken
        return numbers[1:]

    monkeypatch.setattr(supervisor._feeding, "on_parted", note)
    monkeypatch.setattr(supervisor._endings, "end", end_later)
    worker.contained.send_signal(signal.SIGSTOP)
    monkeypatch.setattr(worker.channel, "take_back", take_back_but_first)
    results = pool.map(ledger.mark, range(300), return_exceptions=True)
    eventually(lambda: bundles_of(pool))
    pool.shutdown(wait=False, kill=True)
    assert [type(outcome) for outcome in results] == [CancelledError] * 300
    pool.shutdown()
    assert parted
    assert ledger.begun_counts(tmp_path / "ledger") == [0] * 300


def test_item_begins_before_the_next_one_can_be_had(warm, tmp_path: Path) -> None:
    """The iterator waits for what the item before does."""
    pool = warm(3)
    seen: list[list[int]] = []

    def items() -> Iterator[int]:
        for number in range(3):
            yield number
            eventually(lambda number=number: ledger.begun_counts(tmp_path / "ledger")[number])
            seen.append(ledger.begun_counts(tmp_path / "ledger"))

    assert list(pool.map(ledger.mark, items())) == [0, 1, 2]
    assert seen == [[1, 0, 0], [1, 1, 0], [1, 1, 1]]


def test_results_of_an_iterator_that_nobody_asks_are_let_go_of_as_they_come(warm, gate: Gate) -> None:
    """And never in the supervisor's thread: their finalizers are user code."""
    pool = warm(1)
    acts.finalized.clear()
    pool.map(acts.make_finalized_or_pass_gate, range(101), [100] * 101, [gate.folder] * 101)
    gate.wait_until_arrived()
    eventually(lambda: len(acts.finalized) == 100)
    gate.let_through()
    pool.shutdown()
    assert set(acts.finalized) == {"safepool-delivery"}


def test_map_timeout_cancels_an_item_that_is_a_task_of_its_own(warm, gate: Gate) -> None:
    pool = warm(1)
    blocker = pool.submit(acts.pass_gate_and_tell_pid, gate.folder)
    gate.wait_until_arrived()
    futures: list[Any] = []
    submit_row = pool._submit_timed
    pool._submit_timed = lambda *call: futures.append(submit_row(*call)) or futures[-1]
    results = pool.map(acts.tell_type, [bytes(10_000)], timeout=0.1)
    with pytest.raises(FuturesTimeoutError):
        next(results)
    assert [future.cancelled() for future in futures] == [True]
    gate.let_through()
    result_of(blocker)


def test_submit_that_a_program_has_replaced_in_the_class_sees_each_item(warm, monkeypatch) -> None:
    pool = warm(1)
    submit, calls = SafeProcessPoolExecutor.submit, []

    def note(self: SafeProcessPoolExecutor, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        calls.append(args)
        return submit(self, fn, *args, **kwargs)

    monkeypatch.setattr(SafeProcessPoolExecutor, "submit", note)
    assert list(pool.map(acts.square, range(3))) == [0, 1, 4]
    assert calls == [(0,), (1,), (2,)]
