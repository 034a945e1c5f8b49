"""Answers come by two ways, and are taken in the order of the tasks."""

from __future__ import annotations

import pickle
import threading
from collections import deque
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import Mock

import pytest

from safepool._pool.answers import Answers
from safepool._pool.feeding import Feeding
from safepool._pool.limits import Limits
from safepool._pool.supervisor import Supervisor
from safepool._pool.task import Task, TaskState
from safepool._pool.worker import Worker, WorkerState
from safepool._worker.framing import Frame, Kind
from unit.records import new_state, new_task, new_worker

pytestmark = pytest.mark.timeout(60)


class Desk:
    """A pool's tables with one worker that has three tasks, and what takes in its answers."""

    def __init__(self) -> None:
        self.tasks = [new_task(TaskState.RUNNING), new_task(TaskState.SENT), new_task(TaskState.SENT)]
        for task in self.tasks:
            task.is_plain = True
        self.worker: Worker = new_worker(
            WorkerState.BUSY, task=self.tasks[0], ahead=deque(self.tasks[1:]), handed=1.0, is_warned=True
        )
        state = new_state(self.worker)
        lock = threading.RLock()
        limits = Limits(state, lock, Mock(), Mock(), Mock())
        feeding = Feeding(state, lock, limits, Mock(), Mock())
        self._answers = Answers(state, lock, Mock(), Mock(), Mock(), feeding, Mock())

    def take(self, *tasks: Task) -> None:
        self._answers.take(self.worker, [answer_to(task) for task in tasks])

    def outcomes(self) -> list[Any]:
        return [task.future.result() if task.future.done() else None for task in self.tasks]


def answer_to(task: Task) -> Frame:
    return Frame(Kind.PLAIN_RESULT, task.number, pickle.dumps(task.number), begun=5.0, elapsed=0.001)


def test_answers_settle_their_tasks_and_the_worker_goes_on_to_the_next() -> None:
    desk = Desk()
    desk.take(*desk.tasks[:2])
    assert desk.outcomes() == [desk.tasks[0].number, desk.tasks[1].number, None]
    assert desk.worker.task is desk.tasks[2]
    assert desk.worker.handed > 1.0
    desk.take(desk.tasks[2])
    assert desk.worker.state is WorkerState.IDLE


def test_answer_that_is_early_waits_for_those_before_it() -> None:
    desk = Desk()
    desk.take(desk.tasks[1], desk.tasks[2])
    assert desk.outcomes() == [None, None, None]
    desk.take(desk.tasks[0])
    assert desk.outcomes() == [task.number for task in desk.tasks]
    assert not desk.worker.answers


def test_answer_that_is_early_does_not_start_the_clock_of_the_current_task_anew() -> None:
    desk = Desk()
    desk.take(desk.tasks[1])
    assert desk.worker.task is desk.tasks[0]
    assert (desk.worker.handed, desk.worker.is_warned) == (1.0, True)


def test_answer_to_a_task_that_the_worker_does_not_have_changes_nothing() -> None:
    desk = Desk()
    desk.take(new_task())
    assert desk.outcomes() == [None, None, None]
    desk.take(*desk.tasks)
    assert desk.outcomes() == [task.number for task in desk.tasks]
    assert not desk.worker.answers


def test_answers_that_outrun_those_of_the_channel_again_and_again_are_no_offence() -> None:
    """1. The second answer is here, by the ring. 2. The channel is read: the first. 3. The worker sends the third by
    the channel, and leaves a fourth in the ring. 4. The ring is read.
    """
    desk = Desk()
    desk.take(desk.tasks[1])

    def read(worker: Worker) -> None:
        desk.take(desk.tasks[0])
        worker.answers[desk.tasks[2].number + 1] = Frame(Kind.PLAIN_RESULT, desk.tasks[2].number + 1, b"")

    assert not Supervisor._owes_answer(cast("Supervisor", SimpleNamespace(_read=read)), desk.worker)


def test_worker_that_answers_later_tasks_and_never_its_own_owes_an_answer() -> None:
    desk = Desk()
    desk.take(desk.tasks[1])
    assert Supervisor._owes_answer(cast("Supervisor", SimpleNamespace(_read=lambda _worker: None)), desk.worker)
