"""The ledger: a task waits in one place, is counted once and taken once, in its turn."""

from __future__ import annotations

from operator import attrgetter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
)

from safepool._pool.state import PoolState
from safepool._pool.task import Task, TaskState
from safepool._pool.terms import Terms
from safepool._pool.worker import Worker, WorkerState
from unit.records import new_state, new_task, new_worker

pytestmark = pytest.mark.timeout(60)


_priority = attrgetter("terms.priority")


class Ledger(RuleBasedStateMachine):
    """The pool's tables beside a plain list of the tasks that should be waiting, in the order of their turns."""

    tasks = Bundle("tasks")
    running = Bundle("running")
    workers = Bundle("workers")

    @initialize(limit=st.sampled_from([None, 2]))
    def begin(self, limit: int | None) -> None:
        self.state: PoolState = new_state(max_tasks=limit)
        self.limit = limit
        self.expected: list[Task] = []
        self.ready: list[Worker] = []

    @rule(target=tasks, priority=st.integers(-1, 1))
    def enqueue(self, priority: int) -> Task:
        task = new_task(terms=Terms(priority=priority))
        self.state.enqueue(task)
        self.expected.append(task)
        self.expected.sort(key=_priority)  # stable: first in, first out among equals
        return task

    @rule(target=running)
    def take(self) -> Task:
        task = self.state.take_waiting()
        if not self.expected:
            assert task is None
            return multiple()  # type: ignore[return-value]  # nothing for the bundle
        assert task is self.expected.pop(0)
        task.state = TaskState.RUNNING  # as whoever takes it does, before the lock is given back
        return task

    @rule(target=tasks, task=consumes(running))
    def put_back(self, task: Task) -> Task:
        self.state.put_back(task)
        self.expected.insert(0, task)
        self.expected.sort(key=_priority)
        return task

    @rule(task=consumes(running))
    def settle(self, task: Task) -> None:
        task.state = TaskState.SETTLED

    @rule(task=tasks)
    def discard(self, task: Task) -> None:
        assert self.state.discard_waiting(task) == (task in self.expected)
        if task in self.expected:
            self.expected.remove(task)
        assert not self.state.discard_waiting(task)

    @rule(spare=st.booleans())
    def cancel_waiting(self, spare: bool) -> None:
        """The order of those that are spared stays as it was."""
        at_work = sum(worker.state is WorkerState.BUSY for worker in self.state.workers.values())
        spared = max(0, self.state.max_workers - at_work) if spare else 0
        cancelled = self.state.cancel_waiting(spare=spare)
        assert cancelled == self.expected[spared:]
        assert all(task.state is TaskState.SETTLED for task in cancelled)
        del self.expected[spared:]

    @rule(max_workers=st.integers(1, 6))
    def resize(self, max_workers: int) -> None:
        self.state.max_workers = max_workers

    @precondition(lambda self: self.state.occupying() < self.state.max_workers)
    @rule(target=workers, runs=st.integers(0, 3))
    def become_idle(self, runs: int) -> Worker:
        worker = new_worker(WorkerState.IDLE, runs=runs)
        self.state.workers[worker.number] = worker
        self.state.idle.append(worker)
        self.ready.append(worker)
        return worker

    @rule(worker=workers, to=st.sampled_from([WorkerState.LEAVING, WorkerState.ENDING]))
    def go(self, worker: Worker, to: WorkerState) -> None:
        """A worker dies or leaves, and its entry among the idle ones stays behind."""
        if worker.state is WorkerState.IDLE:
            worker.move(to)

    @rule(worker=workers)
    def drop(self, worker: Worker) -> None:
        self.state.drop_idle(worker)
        if worker in self.ready:
            self.ready.remove(worker)

    @rule()
    def take_idle(self) -> None:
        fit = [worker for worker in self.ready if self._is_fit(worker)]
        taken = self.state.take_idle()
        assert taken is (fit[-1] if fit else None)
        if taken is not None:
            taken.move(WorkerState.BUSY)
            del self.ready[self.ready.index(taken) :]
        else:
            self.ready.clear()

    @invariant()
    def every_waiting_task_is_counted_once(self) -> None:
        waiting = [task for task in self.state.waiting if task.state is TaskState.WAITING]
        assert waiting == self.expected
        assert self.state.waiting_count == len(waiting)

    def _is_fit(self, worker: Worker) -> bool:
        return worker.state is WorkerState.IDLE and (self.limit is None or worker.runs < self.limit)


Ledger.TestCase.settings = settings(max_examples=40, stateful_step_count=40)
TestLedger = pytest.mark.timeout(60)(Ledger.TestCase)


def test_task_is_taken_in_the_order_of_submission_and_once() -> None:
    state = new_state(waiting=3)
    submitted = list(state.waiting)
    assert [state.take_waiting() for _ in range(4)] == [*submitted, None]


def test_task_that_was_put_back_comes_first() -> None:
    state = new_state(waiting=2)
    first = state.take_waiting()
    assert first is not None
    first.state = TaskState.RUNNING
    state.put_back(first)
    assert first.state is TaskState.WAITING
    assert state.take_waiting() is first


@pytest.mark.parametrize("where", [TaskState.RUNNING, TaskState.SETTLED])
def test_task_that_does_not_wait_cannot_be_discarded(where: TaskState) -> None:
    state, task = new_state(waiting=1), new_task(where)
    assert not state.discard_waiting(task)
    assert (task.state, state.waiting_count) == (where, 1)


def test_occupied_places_are_those_of_workers_that_are_not_going() -> None:
    assert new_state(*map(new_worker, WorkerState)).occupying() == len(WorkerState) - 2
