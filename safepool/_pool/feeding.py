"""Giving tasks to workers, before they are free if the tasks are short, and taking back what has not begun.

A worker whose tasks take microseconds would spend most of its time waiting for the next one. So as many are sent ahead
as it will need for a few milliseconds (``PoolState.room_ahead``). They are neither lost nor bound to it: each has a
ticket that the host can take back as long as the worker has not taken it (``_worker.channel``). That is done when the
worker turns out to be slow while another one has nothing to do, when it is to be ended, and when somebody cancels.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial

from safepool._pool import outcomes
from safepool._pool.bundle import Bundle
from safepool._pool.delivery import Delivery
from safepool._pool.limits import Limits
from safepool._pool.state import STUCK, PoolState
from safepool._pool.task import Task, TaskState
from safepool._pool.worker import Worker, WorkerState
from safepool._worker.framing import Kind

__all__ = ["Feeding"]


_RUN = {False: Kind.RUN, True: Kind.RUN_WITHIN_LIMITS}
_RUN_BUNDLE = {False: Kind.RUN_BUNDLE, True: Kind.RUN_BUNDLE_WITHIN_LIMITS}


class Feeding:
    """Gives out the tasks of one pool. Used by the supervisor's thread alone.

    Args:
        state: The pool's tables.
        lock: Guards them.
        limits: Is told of each task that a worker turns to.
        delivery: Where tasks that will not be run are settled.
        watch: Waits until a worker's channel takes the rest.
    """

    def __init__(
        self,
        state: PoolState,
        lock: threading.RLock,
        limits: Limits,
        delivery: Delivery,
        watch: Callable[[Worker], None],
    ) -> None:
        self._state = state
        self._lock = lock
        self._limits = limits
        self._delivery = delivery
        self._watch = watch

    def give(self) -> list[Worker]:
        """Give waiting tasks to idle workers, and those that are left to busy ones, ahead.

        Returns:
            Idle workers that have taken no tickets: they have answered without. Nothing can be given to them any more.
        """
        orders: dict[Worker, list[Task]] = {}
        with self._lock:
            count = self._state.headcount()
            for _ in range(self._state.max_workers - count.running):
                if not self._state.waiting_count or not self._give_one(orders):
                    break
            if self._state.waiting_count and not self._state.to_start():
                self._give_ahead(orders)
        return [worker for worker, tasks in orders.items() if not self._send(worker, tasks)]

    def take_back(self, worker: Worker, but: Task | None = None) -> None:
        """Put what the worker has not begun back to where it came from; from here on, it begins nothing more.

        A task that has been taken back has not run, and will not run there: the kernel gave its ticket to us. One may
        be left to the worker all the same: ``but`` is not to be put back, since its fate is sealed.
        """
        if worker.task is None:
            return
        numbers = set(worker.channel.take_back())
        with self._lock:
            taken = [task for task in worker.sent() if task.number in numbers and task is not but]
            for task in reversed(taken):
                self._put_back(worker, task)
            rest = _part_rest(worker, numbers)
            if rest is not None:
                self._state.put_back(rest)
                taken.append(rest)
            if not worker.calls_ahead:
                worker.stuck_at = None
            if worker.task is None and worker.state is WorkerState.BUSY:
                self._state.rest(worker)
            self._settle_unless_run(taken)

    def on_parted(self, worker: Worker, bundle: Bundle) -> None:
        """The worker has stopped before the first item of its bundle; with the lock held, and ``begin`` in the end."""
        worker.runs -= bundle.size
        bundle.attempts = 0
        self._state.put_back(bundle)
        self._settle_unless_run([bundle])
        self.next_after(worker)

    def next_after(self, worker: Worker) -> None:
        """The worker's task is over, and the next one is its own; with the lock held, and ``begin`` in the end."""
        worker.is_stuck = False
        worker.task = None
        task = worker.turn()
        if task is not None:
            self._turn_to(worker, task)

    def begin(self, worker: Worker) -> None:
        """Take note of what the worker turns to: a task, or nothing; with the lock held."""
        if worker.state not in (WorkerState.BUSY, WorkerState.SWEEPING):
            return
        if worker.task is None:
            self._state.rest(worker)
            return
        now = time.monotonic()
        self._limits.begin(worker, now)
        worker.stuck_at = now + STUCK if worker.calls_ahead else None

    def _give_one(self, orders: dict[Worker, list[Task]]) -> bool:
        """Give the next task to an idle worker; return False if there is no such worker, or no such task."""
        worker = self._state.take_idle()
        if worker is None:
            return False
        task = self._next_task(self._state.room(worker))
        if task is None:
            self._state.idle.append(worker)
            return False
        self._assign(worker, task)
        self._turn_to(worker, task)
        worker.move(WorkerState.BUSY)
        self.begin(worker)
        orders[worker] = [task]
        return True

    def _give_ahead(self, orders: dict[Worker, list[Task]]) -> None:
        for worker in self._state.workers.values():
            tasks = orders.setdefault(worker, [])
            room = self._state.room_ahead(worker)
            while room > 0:
                task = self._next_task(room)
                if task is None:
                    return
                self._assign(worker, task)
                task.state = TaskState.SENT
                worker.line_up(task)
                tasks.append(task)
                room -= task.size
            if worker.calls_ahead and worker.stuck_at is None:
                worker.stuck_at = time.monotonic() + STUCK

    def _send(self, worker: Worker, tasks: list[Task]) -> bool:
        if not tasks:
            return True
        if tasks[0] is worker.task:
            self._limits.prepare(worker)
        for task in tasks:
            if task.loan is not None:
                worker.channel.lend(task.loan)
        sent = worker.channel.send_ahead([(self._kind_of(task), task.number, task.pack()) for task in tasks])
        if worker.channel.has_outgoing:
            self._watch(worker)
        if sent < len(tasks):
            worker.is_stuck = True  # there is no room for more tickets until it has taken one
            with self._lock:
                for task in reversed(tasks[sent:]):
                    self._put_back(worker, task)
                if worker.task is None:
                    self._state.rest(worker)
                    return False
        return True

    def _kind_of(self, task: Task) -> Kind:
        if isinstance(task, Bundle):
            return _RUN_BUNDLE[task.terms.has_limits]
        return Kind.RUN_MEASURED if self._state.settings.is_measured(task.terms) else _RUN[task.terms.has_limits]

    def _next_task(self, most: int) -> Task | None:
        """Take the next task that can be run; those that cannot are settled on the way.

        Args:
            most: Of a bundle, take no more than so many items.
        """
        while (task := self._state.take_waiting(most)) is not None:
            if outcomes.begin(task):
                if task.unfit is None:
                    return task
                self._fail(task, lambda task: task.unfit or AssertionError(task))
            task.state = TaskState.SETTLED
            self._state.places.discard(task.number)
        return None

    def _assign(self, worker: Worker, task: Task) -> None:
        if isinstance(task, Bundle):
            task.renew()
        task.future._worker = worker
        worker.runs += task.size

    def _turn_to(self, worker: Worker, task: Task) -> None:
        """Make this the task that the worker runs, or will when it takes the next ticket."""
        task.state = TaskState.RUNNING
        task.attempts += 1
        task.future.pid = worker.contained.pid
        worker.task = task
        self._state.places.discard(task.number)

    def _settle_unless_run(self, tasks: list[Task]) -> None:
        """What was put back, and is not to be begun any more, nobody else looks at; with the lock held."""
        broken, reason = self._state.broken, self._state.kill_reason or "shutdown"
        is_over = broken is not None or self._state.is_killed
        for task in tasks:
            is_closed = isinstance(task, Bundle) and task.outcomes.is_closed
            if not (is_over or is_closed) or not self._state.discard_waiting(task):
                continue
            if broken is None:
                self._delivery.put(partial(outcomes.cancel, task, reason))
            else:
                self._fail(task, lambda _task: outcomes.copy_of(broken))

    def _fail(self, task: Task, error: Callable[[Task], BaseException]) -> None:
        self._delivery.put(partial(outcomes.fail, task, lambda: error(task)))

    def _put_back(self, worker: Worker, task: Task) -> None:
        if worker.task is task:
            worker.task = None
            task.attempts -= 1
            task.future.pid = None
        else:
            worker.strike(task)
        if task.loan is not None:
            worker.channel.exchange.call_off(task.loan)
        worker.runs -= task.size
        if not task.attempts and self._state.settings.max_pending is not None:
            self._state.places.add(task.number)
        task.future._worker = None
        if not task.attempts and not task.put_backs:  # else it counts as begun, for good
            task.future.put_back()
        self._state.put_back(task)


def _part_rest(worker: Worker, taken: set[int]) -> Bundle | None:
    """Stop the worker before the next item of its bundle; return those behind that one, if there are any.

    The bundle is the last that it was sent and whose ticket is gone: it may have come to it while what it has said
    about those before is still unread. One whose ticket was taken back it will never begin, so there is nobody to
    stop, and a stop that it has not seen yet must stay.
    """
    bundle = next(reversed(worker.sent()), None)
    if not isinstance(bundle, Bundle) or bundle.size == 1:
        return None
    last = 0
    if bundle.ticket not in taken:
        last = worker.record.stop(bundle.ticket)
        bundle.is_stopped = True
    rest = bundle.cut_behind(last)
    if rest is not None:
        worker.runs -= rest.size
        if bundle is not worker.task:
            worker.ahead_size -= rest.size
    return rest
