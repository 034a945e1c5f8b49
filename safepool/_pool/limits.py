"""What a running task may take: time, of which it is warned first if it has a soft timeout, and memory.

At a deadline, in this order (each step an entry in ``worker.WorkerState``):
1. DUMPING: faulthandler is asked for the stacks, before anything is frozen (a stopped process runs no handler).
2. STOPPING: with a grace, SIGTERM to the worker's group, and time to obey.
3. ENDING: see ``endings``.

Memory is the one thing here that has to be looked at again and again, as long as a task runs that has a limit: no
kernel tells that a tree of processes has grown. Where the worker has a control group with the controller for it, the
kernel itself sees to the limit, and there is nothing to look at; the worker then dies of it (``endings``).
"""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Protocol

from safepool._os.memory import FIRST_LOOK, forget_highest_size, highest_size, measure_trees, pause_after
from safepool._pool import outcomes
from safepool._pool.state import PoolState
from safepool._pool.task import Task
from safepool._pool.watch import Watch
from safepool._pool.worker import Verdict, Worker, WorkerState
from safepool._worker.boot import SOFT_TIMEOUT_SIGNAL, STACK_SIGNAL

__all__ = ["Limits"]

_DUMP_LIMIT = 0.1  # seconds for the stacks; they take about 1 ms
_DUMP_PAUSE = 0.005  # seconds without news after which the stacks are taken to be complete
_LONGEST_DUMP = 1 << 20  # bytes; those of a hundred threads are a tenth of that. A task can write there, too
_START_GRACE = 1.0  # seconds for a worker to begin with a task it has been sent; more than any scheduler's delay
_OVERSLEEP = 1.0  # seconds; more than this late, and the host was stopped or suspended rather than busy


class TakeBack(Protocol):
    """Has a worker begin nothing more; one task is left to it all the same."""

    def __call__(self, worker: Worker, *, but: Task | None) -> None:
        """Take back what it has not begun."""


class Limits:
    """Holds the tasks of one pool to their limits. Used by the supervisor's thread alone.

    Args:
        state: The pool's tables.
        lock: Guards them.
        watch: Where a worker's stacks are waited for.
        read: Reads a worker's channel: a result that is already here wins.
        take_back: Has a worker begin nothing more, so that nobody is ended in another's place.
    """

    def __init__(
        self,
        state: PoolState,
        lock: threading.RLock,
        watch: Watch,
        read: Callable[[Worker], None],
        take_back: TakeBack,
    ) -> None:
        self._take_back = take_back
        self._state = state
        self._lock = lock
        self._watch = watch
        self._read = read
        self._cpu_time = 0.0  # of this process, when the wait began

    def begin(self, worker: Worker, now: float) -> None:
        """It turns to its task: set the first instant at which something is due; with the lock held."""
        assert worker.task is not None
        worker.handed, worker.lost, worker.is_warned = now, 0.0, False
        worker.has_news = True
        limit = _current_limit(worker)
        worker.due = None if limit is None else min(now, worker.begun_at() or now) + limit
        is_measured = self._state.settings.measures_memory
        worker.peak = 0 if is_measured else None
        if (is_measured or worker.task.terms.memory_limit is not None) and self._state.measure_at is None:
            self._state.measure_at = worker.handed + FIRST_LOOK

    def prepare(self, worker: Worker) -> None:
        """It is idle, and is about to be sent a task: tell the kernel first, since it begins at once.

        Tasks that are sent ahead have the limit of the one before (``PoolState.room_ahead``), and are not measured.
        Where the kernel cannot be told, what it was told last (``cap``) holds on, and we look at the task's own limit.
        """
        assert worker.task is not None
        limit, group = worker.task.terms.memory_limit, worker.contained.control_group
        if limit != worker.cap and group is not None and group.limit_memory(limit):
            worker.cap = limit
        if worker.peak is not None:
            worker.peak_before = 0
            try:
                forget_highest_size(worker.contained.pid)
            except OSError:  # what a task before has made undumpable belongs to root (proc(5), /proc/PID)
                worker.peak_before = highest_size(worker.contained.pid) or sys.maxsize

    def _is_looked_at(self, worker: Worker) -> bool:
        """Return True for one whose task has a limit that the kernel does not see to, or is to be measured."""
        if worker.state is not WorkerState.BUSY or worker.task is None:
            return False
        limit = worker.task.terms.memory_limit
        return worker.peak is not None or (limit is not None and limit != worker.cap)

    def warn(self, worker: Worker) -> None:
        """Past the soft timeout: have the worker raise ``SoftTimeoutError`` in the task."""
        self._read(worker)
        if not _is_overdue(worker):
            return
        task = worker.task
        assert task is not None
        worker.is_warned = True
        worker.due = _deadline(worker)
        if worker.begun_at() is not None:
            worker.record.warn(task.number, task.terms.soft_timeout or 0.0)
            worker.contained.send_signal(SOFT_TIMEOUT_SIGNAL)
        elif worker.due is None or worker.due > time.monotonic() + _START_GRACE:
            worker.is_warned = False  # there is nobody to tell yet: look again, unless the hard limit comes first
            worker.due = time.monotonic() + _START_GRACE

    def condemn(self, worker: Worker) -> None:
        """Past the deadline. From here on the outcome is fixed, whatever the task still manages to do.

        1. Its task comes to an end. 2. It begins with the next one. 3. We end it, for the sake of the first. So what it
        has not begun is taken back before the last look: what runs at 3 is what was looked at, or nothing. The task
        itself stays with it, begun or not: a worker that has not taken its ticket for so long is a stopped one.
        """
        self._read(worker)
        if not _is_overdue(worker):
            return
        self._take_back(worker, but=worker.task)
        self._read(worker)
        if _is_overdue(worker):
            self._condemn(worker, outcomes.timed_out, self._state.settings.grace)

    def stop(self, worker: Worker) -> None:
        """Ask the worker's group to leave in order."""
        worker.contained.signal_group(signal.SIGTERM)
        worker.move(WorkerState.STOPPING, time.monotonic() + worker.grace)

    def measure(self) -> None:
        """Look at the memory of everybody whose task has a limit, or is to be measured."""
        workers = [worker for worker in self._state.workers.values() if self._is_looked_at(worker)]
        began = time.thread_time()  # what a look costs, not for how long this thread was kept from it
        if not workers:
            self._state.measure_at = None
            return
        for worker in workers:
            worker.note_peak()
        try:
            sizes = measure_trees([(worker.contained.members, _rough_up_to(worker)) for worker in workers])
        except OSError:  # no descriptor to be had: the next look is soon enough
            sizes = []
        for worker, size in zip(workers, sizes, strict=False):
            worker.note_peak(size)
            limit = _memory_limit(worker)
            if limit is not None and size > limit:
                task = worker.task
                self._take_back(worker, but=task)
                self._read(worker)
                if worker.state is WorkerState.BUSY and worker.task is task:
                    worker.is_unwanted = True  # it would only grow again
                    self._condemn(worker, partial(outcomes.outgrown, limit, size), grace=0.0)
        cost = time.thread_time() - began
        self._state.measure_at = time.monotonic() + pause_after(cost)

    def before_wait(self) -> None:
        """Take note of what tells an oversleeping host from a busy one."""
        self._cpu_time = time.process_time()

    def after_wait(self, planned: float) -> None:
        """If we were stopped past our plan, do not hold it against those whose time was up meanwhile.

        It cannot be known whether the workers ran on (Ctrl-Z in a terminal) or were stopped, too (a paused container).
        So a task that is overdue when we wake has its limit once more: if it ran on and has finished, its result is
        read before any deadline is looked at. Deadlines that are still to come stay where they are.
        """
        now = time.monotonic()
        worked = time.process_time() - self._cpu_time
        if now - planned < _OVERSLEEP or worked > (now - planned) / 2:
            return  # in time, or late because this process was busy, while the tasks ran on
        with self._lock:
            for worker in self._state.workers.values():
                if worker.state is not WorkerState.BUSY:
                    continue
                deadline = _deadline(worker)
                if deadline is not None and deadline <= now:
                    worker.lost += now - deadline + (_current_limit(worker) or 0.0)
                    worker.due = _deadline(worker)

    def _condemn(self, worker: Worker, verdict: Verdict, grace: float) -> None:
        now = time.monotonic()
        worker.note_peak()  # now: once it is dead, it has no memory to tell of
        worker.verdict, worker.grace = verdict, grace
        worker.dump_deadline = now + _DUMP_LIMIT
        worker.move(WorkerState.DUMPING, worker.dump_deadline)
        if worker.contained.request_stack(STACK_SIGNAL):
            self._watch.add(worker, worker.contained.stack_fd, partial(self._on_stack, worker))
        else:
            worker.due = now

    def _on_stack(self, worker: Worker, _mask: int) -> None:
        news = worker.contained.read_stack()
        worker.stack += news
        if not news or len(worker.stack) > _LONGEST_DUMP:
            self._watch.drop(worker, worker.contained.stack_fd)
        if worker.state is WorkerState.DUMPING:
            worker.due = min(worker.dump_deadline, time.monotonic() + _DUMP_PAUSE)


def _is_overdue(worker: Worker) -> bool:
    """Return True if its task is past what ``due`` was set for, now that all is known."""
    if worker.state is not WorkerState.BUSY:
        return False
    worker.due = _deadline(worker)
    return worker.due is not None and worker.due <= time.monotonic()


def _memory_limit(worker: Worker) -> int | None:
    """Return the bytes that its task may hold, if we have to see to that."""
    limit = None if worker.task is None else worker.task.terms.memory_limit
    return None if limit == worker.cap else limit


def _rough_up_to(worker: Worker) -> int:
    """Return the bytes up to which a rough figure of its tree, which is never too low, is good enough.

    That is the limit; and what has been seen already, since only more than that would be news.
    """
    sizes = [size for size in (_memory_limit(worker), worker.peak) if size is not None]
    return min(sizes)


def _current_limit(worker: Worker) -> float | None:
    """Return the seconds after which something is due: the soft timeout, and once it was warned the hard one."""
    assert worker.task is not None
    terms = worker.task.terms
    return terms.timeout if worker.is_warned or terms.soft_timeout is None else terms.soft_timeout


def _deadline(worker: Worker) -> float | None:
    """Return when that limit is used up, now that it can be known when its task began.

    A task that has not begun although all of it was sent, its worker being stopped for instance, gets its limit from
    the last byte on, and a grace. So does one that claims to have begun later than that: the record is memory that a
    task can write to.
    """
    limit = _current_limit(worker)
    if limit is None:
        return None
    latest = worker.handed + _START_GRACE
    begun = worker.begun_at()
    # What is no number loses the comparison, in this order.
    start = latest if begun is None else min(latest, begun)
    return start + worker.lost + limit
