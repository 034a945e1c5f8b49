"""The pool's one thread: wait, take note, decide, act.

One selector over every worker's channel and pidfd, the janitor, a wake-up, and the nearest instant at which
something is due; no polling interval. It runs no code of the user's: that is ``delivery``'s. Locks are held for
table changes only, never around a system call that can wait.

At a deadline, in this order (each step an entry in ``worker.WorkerState``):
1. DUMPING: faulthandler is asked for the stacks, before anything is frozen (a stopped process runs no handler).
2. STOPPING: with a grace, SIGTERM to the worker's group, and time to obey.
3. ENDING: the tree is frozen, listed, killed, confirmed dead; the leader is reaped last, and only then is the future
   settled: whoever sees the error may rely on nothing being left.

A worker that dies by itself goes straight to ENDING, after its channel has been read out: a complete result that it
managed to send counts; a torn one does not.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import selectors
import signal
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from functools import partial

from safepool._os.wakeup import Wakeup
from safepool._pool import outcomes
from safepool._pool.delivery import Delivery
from safepool._pool.dispatch import Action, Do, decide, next_instant
from safepool._pool.endings import Endings, part
from safepool._pool.staff import Staff
from safepool._pool.state import PoolState
from safepool._pool.task import Task, TaskState
from safepool._pool.watch import Watch
from safepool._pool.worker import Worker, WorkerState
from safepool._worker.boot import STACK_SIGNAL
from safepool._worker.channel import Inflow
from safepool._worker.framing import ForeignBytesError, Frame, Kind

__all__ = ["Supervisor"]

_log = logging.getLogger("safepool")

_DUMP_LIMIT = 0.1  # seconds for the stacks; they take about 1 ms
_DUMP_PAUSE = 0.005  # seconds without news after which the stacks are taken to be complete
_LEAVE_LIMIT = 5.0  # seconds for exit handlers after the word to leave
_START_GRACE = 1.0  # seconds for a worker to begin with a task it has been sent; more than any scheduler's delay
_OVERSLEEP = 1.0  # seconds; more than this late, and the host was stopped or suspended rather than busy
_DYING = 0.02  # seconds between the end of a dying process's channel and its death; microseconds as a rule


class Supervisor:
    """Runs the workers of one pool until there is nothing left to do."""

    def __init__(
        self,
        state: PoolState,
        inbox: deque[Callable[[], None]],
        lock: threading.RLock,
        wakeup: Wakeup,
        delivery: Delivery,
        staff: Staff,
    ) -> None:
        self._state = state
        self._inbox = inbox
        self._lock = lock
        self._wakeup = wakeup
        self._delivery = delivery
        self.staff = staff
        self._watch = Watch(wakeup.fd, self._on_wakeup)
        self._endings = Endings(state, lock, self._watch, delivery, staff)
        self._cpu_time = 0.0  # of this process, when the wait began
        self.is_finished = False

    # --- what callers wish, read from the inbox ---

    def take_in(self, task: Task) -> None:
        """A call was submitted."""
        with self._lock:
            if self._state.broken is None:
                self._state.enqueue(task)
                return
            broken = self._state.broken
        if outcomes.begin(task):
            self._fail(task, lambda _task: outcomes.copy_of(broken))

    def forget(self, task: Task) -> None:
        """A future was cancelled; if its task has been given to nobody, its waiters are to be woken."""
        with self._lock:
            was_waiting = self._state.discard_waiting(task)
        if was_waiting:
            task.future._task = None
            task.future.set_running_or_notify_cancel()

    def kill(self, task: Task, reason: str) -> None:
        """A task is to be ended, if it still runs."""
        with self._lock:
            was_waiting = self._state.discard_waiting(task)  # to be run once more
            workers = [worker for worker in self._state.workers.values() if worker.task is task]
            for worker in workers:
                worker.is_unwanted = True
                worker.verdict = worker.verdict or partial(outcomes.killed, reason)
        if was_waiting:
            self._delivery.put(partial(outcomes.cancel, task, reason))
        for worker in workers:
            if worker.state is WorkerState.BUSY:
                self._endings.end(worker)

    def close(self, *, cancel: bool, kill_at: float | None, reason: str) -> None:
        """The pool is to be shut down."""
        with self._lock:
            self._state.closing = True
            if kill_at is not None:
                self._state.kill_reason = self._state.kill_reason or reason
                self._state.kill_at = min(self._state.kill_at or kill_at, kill_at)
            is_kill = kill_at is not None and cancel
            cancelled = self._state.cancel_waiting(spare=not is_kill) if cancel else []
        for task in cancelled:
            self._delivery.put(partial(outcomes.cancel, task, reason))

    def resize(self, max_workers: int) -> None:
        """There may be more workers now, or fewer."""
        with self._lock:
            self._state.max_workers = max_workers

    def _read_inbox(self) -> None:
        while True:
            try:
                wish = self._inbox.popleft()
            except IndexError:
                return
            wish()

    # --- the thread ---

    def run(self) -> None:
        """Supervise until the pool is closed and nothing is left."""
        try:
            while not self.is_finished:
                self._turn()
        except BaseException as error:  # a defect of ours: nobody may wait for ever because of it
            _log.critical("the supervisor of a pool failed", exc_info=True)
            self._give_up(error)
        finally:
            self._watch.close()

    def _turn(self) -> None:
        self._read_inbox()
        self._endings.advance()
        now = time.monotonic()
        with self._lock:
            actions = decide(self._state, now)
        for action in actions:
            self._act(action)
        if self.is_finished:
            return
        with self._lock:
            planned = next_instant(self._state)
            self.staff.news.notify_all()
        began = time.monotonic()
        wait = None if planned is None else max(0.0, planned - began)
        if actions:
            wait = 0.0  # what was done may call for more
        self._cpu_time = time.process_time()
        events = self._watch.wait(wait)
        if planned is not None:
            self._note_oversleep(max(planned, began))
        for on_event, mask in events:
            on_event(mask)

    def _act(self, action: Action) -> None:
        worker = action.worker
        if worker is None:
            _POOL_ACTIONS[action.do](self)
        elif worker.contained.pidfd >= 0:
            _WORKER_ACTIONS[action.do](self, worker)

    def _note_oversleep(self, planned: float) -> None:
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
                if (
                    worker.state is WorkerState.BUSY
                    and worker.due is not None
                    and (deadline := _deadline(worker)) <= now
                ):
                    assert worker.task is not None
                    worker.lost += now - deadline + (worker.task.timeout or 0.0)
                    worker.due = _deadline(worker)

    # --- actions on the pool ---

    def _give(self) -> None:
        with self._lock:
            worker = self._state.take_idle()
            if worker is None:
                return
            task = self._next_task()
            if task is None:
                self._state.idle.append(worker)
                return
            self._assign(worker, task)
        if not worker.channel.send(Kind.RUN, task.number, task.payload):
            self._watch_channel(worker)

    def _assign(self, worker: Worker, task: Task) -> None:
        """Make this the worker's task."""
        now = time.monotonic()
        task.state, task.attempts = TaskState.RUNNING, task.attempts + 1
        task.future._worker, task.future.pid = worker, worker.contained.pid
        worker.task, worker.handed, worker.lost = task, now, 0.0
        worker.runs += 1
        worker.move(WorkerState.BUSY, None if task.timeout is None else now + task.timeout)

    def _next_task(self) -> Task | None:
        """Take the next task that can be run; those that cannot are settled on the way."""
        while (task := self._state.take_waiting()) is not None:
            if outcomes.begin(task):
                if task.unfit is None:
                    return task
                self._fail(task, lambda task: task.unfit or AssertionError(task))
            task.state = TaskState.SETTLED
        return None

    def _start(self) -> None:
        worker = self.staff.start()
        if worker is not None:
            self._watch.add(worker, worker.contained.pidfd, partial(self._on_death, worker))
            self._watch_channel(worker)
            self._watch.janitor()

    def _kill_all(self) -> None:
        with self._lock:
            self._state.kill_at = None
            reason = self._state.kill_reason or "shutdown"
            stranded = self._state.cancel_waiting(spare=False)
            workers = list(self._state.workers.values())
            for worker in workers:
                worker.is_unwanted = True
                worker.verdict = worker.verdict or partial(outcomes.killed, reason)
        for task in stranded:
            self._delivery.put(partial(outcomes.cancel, task, reason))
        for worker in workers:
            self._endings.end(worker)

    def _finish(self) -> None:
        """Whoever submits looks at ``is_finished`` after its ``append``: one of the two sees the other."""
        self.is_finished = True
        if self._inbox:
            self.is_finished = False

    # --- actions on one worker ---

    def _condemn(self, worker: Worker) -> None:
        """Past the deadline. From here on the outcome is fixed, whatever the task still manages to do."""
        self._read(worker)  # a result that is already here wins
        if worker.state is not WorkerState.BUSY:
            return
        now = time.monotonic()
        worker.due = _deadline(worker)
        if worker.due > now:
            return
        worker.verdict = outcomes.timed_out
        worker.dump_limit = now + _DUMP_LIMIT
        worker.move(WorkerState.DUMPING, worker.dump_limit)
        if worker.contained.request_stack(STACK_SIGNAL):
            self._watch.add(worker, worker.contained.stack_fd, partial(self._on_stack, worker))
        else:
            worker.due = now

    def _stop(self, worker: Worker) -> None:
        worker.contained.signal_group(signal.SIGTERM)
        worker.move(WorkerState.STOPPING, time.monotonic() + self._state.settings.grace)

    def _keep(self, worker: Worker) -> None:
        with self._lock:
            if worker.state is WorkerState.IDLE:
                worker.due = self._idle_until()

    def _idle_until(self) -> float | None:
        limit = self._state.settings.idle_timeout
        return None if limit is None else time.monotonic() + limit

    def _retire(self, worker: Worker) -> None:
        with self._lock:
            if worker.state not in (WorkerState.IDLE, WorkerState.STARTING):
                return
            worker.move(WorkerState.LEAVING, time.monotonic() + _LEAVE_LIMIT)
            self._state.drop_idle(worker)
        worker.channel.send(Kind.QUIT, 0)

    # --- events ---

    def _on_wakeup(self, _mask: int) -> None:
        self._wakeup.clear()

    def _on_channel(self, worker: Worker, mask: int) -> None:
        if worker.state is WorkerState.ENDING:
            return
        if mask & selectors.EVENT_WRITE:
            if worker.channel.flush():
                self._watch_channel(worker)
            worker.handed = time.monotonic()
        if mask & selectors.EVENT_READ:
            self._read(worker)

    def _read(self, worker: Worker) -> None:
        try:
            frames, inflow = worker.channel.receive()
        except ForeignBytesError as error:
            for frame in error.frames:
                self._on_frame(worker, frame)
            worker.verdict = worker.verdict or partial(outcomes.died, f"Something wrote to its channel: {error}.")
            self._endings.end(worker)
            return
        for frame in frames:
            self._on_frame(worker, frame)
        if inflow is Inflow.CLOSED and worker.state is not WorkerState.ENDING:
            self._watch.drop(worker, worker.channel.fileno())
            # A dying process closes its descriptors an instant before it counts as dead.
            if worker.state is not WorkerState.LEAVING and not worker.contained.has_ended(_DYING):
                worker.verdict = worker.verdict or partial(outcomes.died, "It had closed its channel to the pool.")
                self._endings.end(worker)

    def _on_death(self, worker: Worker, _mask: int) -> None:
        if worker.state is WorkerState.ENDING:
            return
        try:
            frames = worker.channel.receive_rest()
        except ForeignBytesError as error:
            frames = error.frames
        for frame in frames:
            self._on_frame(worker, frame)
        if worker.state is WorkerState.STOPPING:
            self._await_survivors(worker)
        else:
            self._endings.end(worker)

    def _await_survivors(self, worker: Worker) -> None:
        """SIGTERM went to the whole group: what outlives the worker has what is left of the grace, too."""
        self._watch.drop_all(worker)
        worker.survivors = worker.contained.open_group()
        for pidfd in worker.survivors:
            self._watch.add(worker, pidfd, partial(self._on_survivor, worker, pidfd))
        if not worker.survivors:
            self._endings.end(worker)

    def _on_survivor(self, worker: Worker, pidfd: int, _mask: int) -> None:
        if pidfd not in worker.survivors:
            return
        self._watch.drop(worker, pidfd)
        worker.survivors.remove(pidfd)
        os.close(pidfd)
        if not worker.survivors:
            self._endings.end(worker)

    def _on_stack(self, worker: Worker, _mask: int) -> None:
        news = worker.contained.read_stack()
        worker.stack += news
        if not news:
            self._watch.drop(worker, worker.contained.stack_fd)
        if worker.state is WorkerState.DUMPING:
            worker.due = min(worker.dump_limit, time.monotonic() + _DUMP_PAUSE)

    def _on_frame(self, worker: Worker, frame: Frame) -> None:
        if frame.kind is Kind.READY:
            self._on_ready(worker)
        elif frame.kind is Kind.UNFIT:
            worker.unfit = frame.payload
        elif worker.task is None or frame.task != worker.task.number or worker.state is WorkerState.ENDING:
            return  # the outcome is fixed already
        elif worker.state is WorkerState.BUSY:
            self._on_outcome(worker, worker.task, frame)
        else:
            worker.due = time.monotonic()  # condemned, and its task has come to an end: no need to wait out the grace

    def _on_ready(self, worker: Worker) -> None:
        self.staff.on_ready()
        with self._lock:
            if worker.state is WorkerState.STARTING:
                worker.move(WorkerState.IDLE, self._idle_until())
                self._state.idle.append(worker)

    def _on_outcome(self, worker: Worker, task: Task, frame: Frame) -> None:
        """The task has come to its end by itself."""
        with self._lock:
            part(worker, task)
            if frame.kind is not Kind.PLAIN_RESULT:
                worker.undelivered += 1
            worker.move(WorkerState.IDLE, self._idle_until())
            self._state.idle.append(worker)
        if frame.kind is not Kind.PLAIN_RESULT:
            self._delivery.put(partial(self._deliver, worker, task, frame))
            return
        outcomes.settle(task, pickle.loads(frame.payload))
        if not task.is_plain():  # the arguments go where their finalizers, which are user code, may run
            self._delivery.put(task.release)

    def _deliver(self, worker: Worker, task: Task, frame: Frame) -> None:
        """In the delivery thread: rebuild what the worker sent."""
        try:
            settle = outcomes.rebuild(task, frame)
        finally:
            with self._lock:
                worker.undelivered -= 1
            self._wakeup.set()
        settle()

    def _give_up(self, error: BaseException) -> None:
        """Fail everybody rather than let anybody wait for ever; then end what can still be ended."""
        broken = BrokenProcessPool(f"the pool's supervisor failed, and the pool is of no further use: {error!r}")
        with self._lock:
            self._state.breaking, self._state.broken = True, broken
            stranded = self.staff.strand()
            workers = list(self._state.workers.values())
            self._state.workers.clear()
            for worker in workers:
                if worker.task is not None:
                    stranded.append(worker.task)
                    part(worker, worker.task)
        for task in stranded:
            self._fail(task, lambda _task: outcomes.copy_of(broken))
        for worker in workers:
            worker.channel.close()
            with contextlib.suppress(Exception):  # the program may have closed our descriptors: what can be ended, is
                worker.contained.end_tree().run()
                worker.contained.release()

    def _fail(self, task: Task, error: Callable[[Task], BaseException]) -> None:
        self._delivery.put(partial(outcomes.fail, task, lambda: error(task)))

    def _watch_channel(self, worker: Worker) -> None:
        self._watch.channel(worker, partial(self._on_channel, worker))


def _deadline(worker: Worker) -> float:
    """Return when its task's time is up, now that it can be known when it began.

    A task that has not begun although all of it was sent, its worker being stopped for instance, gets its limit from
    the last byte on, and a grace.
    """
    assert worker.task is not None
    assert worker.task.timeout is not None
    begun = worker.begun_at()
    start = worker.handed + _START_GRACE if begun is None else begun
    return start + worker.lost + worker.task.timeout


_POOL_ACTIONS: dict[Do, Callable[[Supervisor], None]] = {
    Do.GIVE: Supervisor._give,
    Do.START: Supervisor._start,
    Do.KILL_ALL: Supervisor._kill_all,
    Do.FINISH: Supervisor._finish,
}
_WORKER_ACTIONS: dict[Do, Callable[[Supervisor, Worker], None]] = {
    Do.CONDEMN: Supervisor._condemn,
    Do.STOP: Supervisor._stop,
    Do.END: lambda self, worker: self._endings.end(worker),
    Do.RETIRE: Supervisor._retire,
    Do.KEEP: Supervisor._keep,
}
