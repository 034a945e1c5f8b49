"""Everything a pool knows, as tables.

Guarded by the pool's one lock. What the supervisor's thread alone reads and writes (failed starts and boots,
``breaking``, ``measure_at``, a worker's limits) is written without it. ``places`` is written by callers, too: one
number at a time, which is atomic (``room``).

Invariants: ``waiting_count`` is what the entries of ``waiting`` weigh that are in state WAITING; a task is RUNNING if
and only if it is the ``task`` of exactly one worker, and SENT if it is ``ahead`` of one; whoever is in ``idle`` and in
state IDLE may be given a task.
"""

from __future__ import annotations

import time
from concurrent.futures.process import BrokenProcessPool
from operator import itemgetter

from safepool._os.contained import StrictBy
from safepool._plain import NamedTuple, dataclass, field
from safepool._pool.bundle import Bundle
from safepool._pool.lanes import Lanes
from safepool._pool.task import Task, TaskState
from safepool._pool.terms import Terms
from safepool._pool.worker import RUNNING, Worker, WorkerState
from safepool._worker.calls import CallPickler
from safepool._worker.segments import Lender

__all__ = ["STUCK", "Headcount", "PoolState", "Settings"]

_AHEAD = 0.005  # seconds of work that a worker has in hand at most, by what its tasks took lately
_MOST_AHEAD = 1000  # tasks
STUCK = 0.005  # seconds without an answer after which what lies behind a worker's task is taken back
_LITTLE = 0.0002  # seconds of work; taking it back would cost as much


@dataclass(frozen=True)
class Settings:
    """What the pool was made with; all of it has been checked."""

    max_tasks_per_child: int | None
    min_workers: int
    spare_workers: int
    idle_timeout: float | None
    grace: float
    exit_timeout: float
    max_worker_memory: int | None
    max_pending: int | None
    when_full: str
    leftovers: str
    strict_by: StrictBy | None  # None: containment is standard
    spares_detached: bool
    cpu_limit: float | None
    measures_memory: bool
    environment: dict[str, str]
    outfit: bytes  # pickled: reducers of results, initializer, finalizer; empty for none of them
    inherited_fds: tuple[int, ...]
    lender: Lender
    pickler: CallPickler

    @property
    def sends_ahead(self) -> bool:
        """True if a worker may go on to its next task without being looked at in between."""
        return self.leftovers == "keep" and self.max_worker_memory is None and not self.measures_memory

    def is_measured(self, terms: Terms) -> bool:
        """True if it matters how much memory the worker of such a task holds: then it is to hold none for later."""
        return terms.memory_limit is not None or self.max_worker_memory is not None or self.measures_memory

    def lends_for(self, terms: Terms) -> bool:
        """True if large arguments of such a task may be lent: whatever it does to them, nobody needs them again."""
        return not terms.retries and not self.is_measured(terms)

    def bundles(self, terms: Terms) -> bool:
        """True if many such tasks may go to a worker as one."""
        return self.sends_ahead and self.max_pending is None and not terms.retries and not self.is_measured(terms)


class Headcount(NamedTuple):
    """How many workers have a task, stay (those and whoever is, or will be, idle and not worn), and are leaving."""

    running: int
    staying: int
    leaving: int


@dataclass
class PoolState:
    """The ledger of tasks and workers."""

    settings: Settings
    max_workers: int  # may change, unlike the settings
    waiting: Lanes = field(default_factory=Lanes)
    waiting_count: int = 0  # calls in ``waiting`` that have not been cancelled
    workers: dict[int, Worker] = field(default_factory=dict)
    idle: list[Worker] = field(default_factory=list)
    closing: bool = False
    kill_reason: str | None = None
    kill_at: float | None = None
    measure_at: float | None = None  # when to look at memory, while tasks run that call for it
    caps: set[int | None] = field(default_factory=set)  # limits of memory that tasks of a strict pool have had so far
    places: set[int] = field(default_factory=set)  # numbers of tasks that count as pending, if there is a limit
    abandoned: bool = False  # the executor was collected; set without the lock, by the garbage collector
    failed_boots: int = 0  # in a row
    failed_starts: int = 0  # in a row
    start_at: float = 0.0  # not before this instant, after a failed start
    breaking: bool = False  # no worker can be had; the error is being made
    broken: BrokenProcessPool | None = None

    def enqueue(self, *tasks: Task) -> None:
        """Put tasks at the end of the queue."""
        if self.settings.strict_by == "group":
            self.caps.update(task.terms.memory_limit for task in tasks)
        self.waiting.extend(tasks)
        self.waiting_count += sum(task.size for task in tasks)

    def put_back(self, task: Task) -> None:
        """Put a task that is to be run once more at the head of its queue."""
        task.state = TaskState.WAITING
        self.waiting.appendleft(task)
        self.waiting_count += task.size

    def take_waiting(self, most: int | None = None) -> Task | None:
        """Take the next task that is still wanted from the queue, for running or for cancelling.

        Args:
            most: Of a bundle, take no more than so many items.
        """
        while self.waiting:
            task = self.waiting.popleft()
            if task.state is TaskState.WAITING:
                if most is not None and isinstance(task, Bundle) and task.size > most:
                    rest, task = task, task.cut(most)
                    self.waiting.appendleft(rest)
                self.waiting_count -= task.size
                return task
        return None

    def discard_waiting(self, task: Task) -> bool:
        """Take this task out of the queue; return False if it was not in it any more."""
        if task.state is not TaskState.WAITING:
            return False
        task.state = TaskState.SETTLED  # the entry in ``waiting`` stays behind, as a stone to step over
        self.waiting_count -= task.size
        self.places.discard(task.number)
        return True

    def cancel_waiting(self, *, spare: bool) -> list[Task]:
        """Take waiting tasks out of the queue, to be cancelled.

        Args:
            spare: Leave those alone that a worker is about to take, as the standard library does.
        """
        room = max(0, self.max_workers - self.running()) if spare else 0
        spared, cancelled = [], []
        while room and (task := self.take_waiting(room)) is not None:
            room -= task.size
            spared.append(task)
        while (task := self.take_waiting()) is not None:
            task.state = TaskState.SETTLED
            self.places.discard(task.number)
            cancelled.append(task)
        self.enqueue(*spared)
        return cancelled

    def take_idle(self) -> Worker | None:
        """Take the worker that became idle last: its memory is warmest."""
        if self.settings.spare_workers and self.running() >= self.max_workers:
            return None  # those that are left are spare
        while self.idle:
            worker = self.idle.pop()
            if worker.state is WorkerState.IDLE and not self.is_worn(worker):
                return worker
        return None

    def rest(self, worker: Worker) -> None:
        """Have a worker be idle that has nothing to do any more."""
        worker.move(WorkerState.IDLE, self.idle_until())
        worker.stuck_at = None
        self.idle.append(worker)

    def idle_until(self) -> float | None:
        """Return when a worker that is idle from now on has been so for long enough."""
        limit = self.settings.idle_timeout
        return None if limit is None else time.monotonic() + limit

    def room_ahead(self, worker: Worker) -> int:
        """Return how many calls more may be sent ahead to a busy worker, so that it never waits for one.

        As many as it does in a few milliseconds, and towards the end of the queue its share of what is left: so all
        workers come to an end together.
        """
        if worker.state is not WorkerState.BUSY or worker.is_stuck:
            return 0
        most = self._most_ahead(worker)
        ahead = worker.calls_ahead
        return min(most - ahead, self._share()) if 2 * ahead <= most else 0

    def room(self, worker: Worker) -> int:
        """Return how many calls may be given to a worker that has nothing to do: one, and what may be ahead."""
        return 1 + max(0, min(self._most_ahead(worker), self._share()) - 1)

    def _most_ahead(self, worker: Worker) -> int:
        if worker.pace is None or not self.settings.sends_ahead or len(self.caps) > 1:
            return 0  # the last: the kernel is told of a limit before its task is sent
        most = min(_MOST_AHEAD, int(_AHEAD / max(worker.pace, 1e-6)))
        if self.settings.max_tasks_per_child is not None:
            most = min(most, self.settings.max_tasks_per_child - worker.runs + worker.calls_ahead)
        return most

    def _share(self) -> int:
        return max(1, self.waiting_count // (2 * self.max_workers))

    def most_loaded(self) -> Worker | None:
        """Return whom an idle worker should relieve of its tasks ahead, if there are enough to be worth it."""
        loaded = [worker for worker in self.workers.values() if worker.calls_ahead and not worker.is_stuck]
        loads = ((worker.calls_ahead * (worker.pace or 0.0), worker) for worker in loaded)
        load, worker = max(loads, key=itemgetter(0), default=(0.0, None))
        return worker if load > _LITTLE else None

    def drop_idle(self, worker: Worker) -> None:
        """Take a worker that is not to be given anything any more from the idle ones, if it is there."""
        if worker in self.idle:
            self.idle.remove(worker)

    def headcount(self) -> Headcount:
        """Return how many workers there are, by what matters to those who count them."""
        running = ready = leaving = 0
        for worker in self.workers.values():
            where = worker.state
            if where in RUNNING:
                running += 1
            elif where is WorkerState.IDLE:
                ready += not self.is_worn(worker)
            elif where is WorkerState.STARTING:
                ready += 1
            elif where is WorkerState.LEAVING:
                leaving += 1
        return Headcount(running, running + ready, leaving)

    def to_start(self, count: Headcount | None = None) -> int:
        """Return how many more workers the waiting tasks call for."""
        count = count or self.headcount()
        return 0 if self.breaking or self.is_killed else max(0, self._wanted(count) - self._occupying(count))

    def least(self) -> int:
        """Return how many workers stay even if nothing is to be done."""
        settings = self.settings
        return max(settings.min_workers, 1 if settings.spare_workers else 0) + settings.spare_workers

    def most(self) -> int:
        """Return how many workers there may be."""
        return self.max_workers + self.settings.spare_workers

    def _wanted(self, count: Headcount) -> int:
        busy = min(self.max_workers, count.running + self.waiting_count)
        if self.closing or self.abandoned:
            return busy
        return max(busy + self.settings.spare_workers, self.least())

    def running(self) -> int:
        """Return how many workers have a task."""
        return self.headcount().running

    def occupying(self) -> int:
        """Return how many workers there are, less those that are on their way out."""
        return self._occupying(self.headcount())

    def _occupying(self, count: Headcount) -> int:
        # Those that are slow to leave do not hold up their successors, but there must be an end to that, too.
        return count.staying + max(0, count.leaving - self.max_workers)

    def is_worn(self, worker: Worker) -> bool:
        """Return True for an idle worker that has run as many tasks as it may, or has become too large."""
        if worker.state is not WorkerState.IDLE:
            return False
        limit = self.settings.max_tasks_per_child
        return worker.is_outgrown or (limit is not None and worker.runs >= limit)

    @property
    def is_killed(self) -> bool:
        """True once everything was ended on request: nothing is to be begun any more."""
        return self.kill_reason is not None and self.kill_at is None

    def surplus(self, count: Headcount) -> int:
        """Return how many workers nobody needs."""
        return max(0, count.staying - self._wanted(count))

    def excess(self, count: Headcount) -> int:
        """Return how many workers there are beyond what there may be, since the pool was made smaller."""
        return max(0, count.staying - self.most())
