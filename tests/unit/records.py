"""Tasks and workers as the host's tables hold them, without a process behind them."""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any, cast

from safepool._os.contained import ContainedProcess
from safepool._pool.future import SafeFuture
from safepool._pool.state import PoolState, Settings
from safepool._pool.task import Task, TaskState
from safepool._pool.terms import Terms
from safepool._pool.worker import Worker, WorkerState
from safepool._worker import payload
from safepool._worker.calls import CallPickler
from safepool._worker.channel import Channel
from safepool._worker.record import StartRecord
from safepool._worker.segments import Lender

__all__ = ["new_state", "new_task", "new_worker"]

_numbers = itertools.count(1)
_PLAIN = Terms()


def new_task(state: TaskState = TaskState.WAITING, *, terms: Terms = _PLAIN, **facts: Any) -> Task:
    future: SafeFuture[Any] = SafeFuture()
    task = Task(next(_numbers), future, (len, ("abc",), {}), b"", terms, **facts)
    task.state = state
    return task


def new_worker(state: WorkerState = WorkerState.STARTING, **facts: Any) -> Worker:
    """Make the record of a worker: no process, no channel; of its start record, only what the test gives it."""
    number = next(_numbers)
    contained = cast("ContainedProcess", SimpleNamespace(pid=100_000 + number, pidfd=-1))
    begun = facts.pop("begun", {})
    record = cast("StartRecord", SimpleNamespace(begun_at=begun.get))
    worker = Worker(number, contained, cast("Channel", None), record, None, state=state, **facts)
    worker.ahead_size = sum(task.size for task in worker.ahead)
    return worker


def new_state(
    *workers: Worker,
    waiting: int = 0,
    max_workers: int = 4,
    max_tasks: int | None = None,
    grace: float = 0,
    least: int = 0,
    spare: int = 0,
    **facts: Any,
) -> PoolState:
    """Make a pool's tables with these workers and so many waiting tasks."""
    settings = Settings(
        max_tasks_per_child=max_tasks,
        min_workers=least,
        spare_workers=spare,
        idle_timeout=None,
        grace=grace,
        exit_timeout=5.0,
        max_worker_memory=None,
        max_pending=None,
        when_full="block",
        leftovers="keep",
        strict_by=None,
        spares_detached=False,
        cpu_limit=None,
        measures_memory=False,
        environment={},
        outfit=b"",
        inherited_fds=(),
        lender=Lender(1),
        pickler=CallPickler(payload.dumps, True, {}, Lender(1)),
    )
    state = PoolState(settings, max_workers, **facts)
    for worker in workers:
        state.workers[worker.number] = worker
        if worker.state is WorkerState.IDLE:
            state.idle.append(worker)
    for _ in range(waiting):
        state.enqueue(new_task())
    return state
