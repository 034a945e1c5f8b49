"""A worker's life is a table: what does not stand in it raises, and changes nothing."""

from __future__ import annotations

import itertools

import pytest

from safepool._pool.worker import WorkerState
from unit.records import new_task, new_worker

pytestmark = pytest.mark.timeout(60)

STARTING, IDLE, BUSY, SWEEPING, DUMPING, STOPPING, LEAVING, ENDING = WorkerState

MOVES = {
    (STARTING, IDLE),  # ready
    (STARTING, LEAVING),  # no longer needed
    (IDLE, BUSY),  # given a task
    (IDLE, LEAVING),  # worn out, or no longer needed
    (BUSY, IDLE),  # its task is done
    (BUSY, SWEEPING),  # what its task has left behind is being ended
    (SWEEPING, IDLE),
    (BUSY, DUMPING),  # its task is late
    (DUMPING, STOPPING),  # there is a grace
    *((state, ENDING) for state in WorkerState if state not in (SWEEPING, ENDING)),  # death comes at any time, once
}


def test_worker_makes_every_move_of_the_table() -> None:
    for start, to in MOVES:
        worker = new_worker(start, due=1.0)
        worker.move(to, 2.0)
        assert (worker.state, worker.due) == (to, 2.0)


def test_worker_refuses_every_other_move_and_stays_as_it_was() -> None:
    for start, to in set(itertools.product(WorkerState, WorkerState)) - MOVES:
        worker = new_worker(start, due=1.0)
        before = dict(vars(worker))
        with pytest.raises(AssertionError, match=f"worker {worker.contained.pid} cannot go from {start} to {to}"):
            worker.move(to, 2.0)
        assert vars(worker) == before


def test_move_without_an_instant_leaves_nothing_due() -> None:
    worker = new_worker(BUSY, due=1.0)
    worker.move(IDLE)
    assert worker.due is None


def test_begin_of_a_task_is_what_the_record_says_of_this_task() -> None:
    worker = new_worker(BUSY)
    assert worker.begun_at() is None
    task = new_task()
    worker = new_worker(BUSY, task=task, begun={task.number: 5.0})
    assert worker.begun_at() == 5.0
    worker.task = new_task()  # sent, and not begun: the record still tells of the one before
    assert worker.begun_at() is None
