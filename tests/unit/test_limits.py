"""Nobody is ended in another's place: what a worker has not begun is taken back before the last look at its task."""

from __future__ import annotations

import threading
import time
from unittest.mock import Mock

import pytest

from safepool._pool.limits import Limits
from safepool._pool.task import TaskState
from safepool._pool.terms import Terms
from safepool._pool.worker import WorkerState
from unit.records import new_state, new_task, new_worker

pytestmark = pytest.mark.timeout(60)


def test_task_that_ends_between_two_looks_at_its_deadline_is_not_ended_nor_is_its_successor() -> None:
    """1. A task is overdue. 2. It comes to its end. 3. Its successor, if still there, would begin."""
    task = new_task(TaskState.RUNNING, terms=Terms(timeout=1.0))
    worker = new_worker(WorkerState.BUSY, task=task, begun={task.number: time.monotonic() - 2.0})
    done: list[str] = []

    def read(_worker: object) -> None:
        done.append("read")
        if "taken back" in done:
            worker.task = None
            worker.move(WorkerState.IDLE)

    limits = Limits(new_state(worker), threading.RLock(), Mock(), read, lambda _worker, but: done.append("taken back"))
    limits.condemn(worker)

    assert done == ["read", "taken back", "read"]
    assert worker.state is WorkerState.IDLE
