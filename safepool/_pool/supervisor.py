"""The pool's one thread: wait, take note, decide, act.

One selector over every worker's channel and pidfd, the janitor, a wake-up, and the nearest instant at which
something is due; no polling interval. It runs no code of the user's: that is ``delivery``'s. Locks are held for
table changes only, never around a system call that can wait.

What a task may take is in ``limits``, how a worker comes to its end in ``endings``. A worker that dies by itself is
ended after its channel has been read out: a complete result that it managed to send counts; a torn one does not.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from functools import partial

from safepool._os.wakeup import Wakeup
from safepool._pool import outcomes
from safepool._pool.answers import Answers
from safepool._pool.bundle import Bundle, Outcomes
from safepool._pool.delivery import Delivery
from safepool._pool.dispatch import Action, Do, decide, next_instant
from safepool._pool.endings import Endings, part
from safepool._pool.feeding import Feeding
from safepool._pool.limits import Limits
from safepool._pool.room import Room
from safepool._pool.staff import Staff
from safepool._pool.state import STUCK, PoolState
from safepool._pool.task import Task, TaskState
from safepool._pool.watch import Watch
from safepool._pool.worker import Worker, WorkerState
from safepool._worker.channel import Inflow
from safepool._worker.framing import ForeignBytesError, Frame, Kind

__all__ = ["Supervisor"]

_log = logging.getLogger("safepool")

_STARVED = 0.05  # seconds; a worker that has not begun by then, though it could, is stopped rather than slow


class Supervisor:
    """Runs the workers of one pool until there is nothing left to do."""

    def __init__(
        self,
        state: PoolState,
        inbox: deque[Task | Callable[[], None]],
        lock: threading.RLock,
        wakeup: Wakeup,
        delivery: Delivery,
        staff: Staff,
        room: Room,
    ) -> None:
        self._state = state
        self._inbox = inbox
        self._lock = lock
        self._wakeup = wakeup
        self._delivery = delivery
        self.staff = staff
        self._room = room
        self._watch = Watch()
        self._limits = Limits(state, lock, self._watch, self._read, self._take_back)
        self._feeding = Feeding(state, lock, self._limits, delivery, self._watch_channel)
        self._endings = Endings(state, lock, self._watch, delivery, staff, self._settle_accounts, self._on_swept)
        self._answers = Answers(state, lock, wakeup, delivery, staff, self._feeding, self._endings)
        self._leaving_answers: set[Worker] = set()  # workers that take us to be awake, and leave answers in their rings
        self.is_finished = False
        self.is_taking_in = False  # tasks are neither in the inbox nor in the tables
        self.is_waiting = False  # for something to happen: whoever puts a task into the inbox has to wake us

    # --- what callers wish, read from the inbox ---

    def _take_in(self, tasks: list[Task]) -> None:
        """Calls were submitted."""
        with self._lock:
            broken, killed = self._state.broken, self._state.is_killed
            if broken is None and not killed:
                self._state.enqueue(*tasks)
                return
            self._state.places.difference_update(task.number for task in tasks)
            for task in tasks:
                task.state = TaskState.SETTLED  # else who cancels it now takes it out of a queue that it is not in
        for task in tasks:
            if broken is None:  # a submit that was overtaken by the end of the pool
                self._delivery.put(partial(outcomes.cancel, task, self._state.kill_reason or "shutdown"))
            elif outcomes.begin(task):
                self._fail(task, lambda _task: outcomes.copy_of(broken))

    def forget(self, task: Task) -> None:
        """A future was cancelled; if its task has been given to nobody, its waiters are to be woken."""
        with self._lock:
            was_waiting = self._state.discard_waiting(task)
        if was_waiting:
            task.future._task = None
            outcomes.notify_cancelled(task)

    def cancel_sent(self, task: Task) -> None:
        """A task that was sent ahead is to be cancelled, if it has not begun; not if it counts as begun for good."""
        worker = task.future._worker
        if worker is not None and task.state is TaskState.SENT:
            self._take_back(worker)
        with self._lock:
            was_waiting = not task.attempts and not task.put_backs and self._state.discard_waiting(task)
        if was_waiting and not outcomes.cancel_quietly(task):
            self._delivery.put(partial(outcomes.cancel, task, "future.cancel()"))

    def cancel_bundles(self, results: Outcomes) -> None:
        """Whoever consumed the results of a ``map`` has stopped: run no more of its items."""
        results.is_closed = True
        for worker in list(self._state.workers.values()):
            if any(_is_of(task, results) for task in worker.sent()):
                self._take_back(worker)
        with self._lock:
            unwanted = [task for task in self._state.waiting if _is_of(task, results)]
            unwanted = [task for task in unwanted if self._state.discard_waiting(task)]
        for task in unwanted:
            self._delivery.put(partial(outcomes.cancel, task, "closed"))

    def kill(self, task: Task, reason: str) -> None:
        """A task is to be ended, if it still runs."""
        worker = task.future._worker
        if worker is not None and worker.state is WorkerState.BUSY:
            self._take_back(worker)
            self._read(worker)
        with self._lock:
            was_waiting = self._state.discard_waiting(task)  # not begun, or to be run once more
            is_running = worker is not None and worker.task is task and worker.state is not WorkerState.SWEEPING
            if worker is not None and is_running:
                worker.is_unwanted = True
                worker.verdict = worker.verdict or partial(outcomes.killed, reason)
        if was_waiting:
            self._delivery.put(partial(outcomes.cancel, task, reason))
        elif worker is not None and is_running and worker.state is WorkerState.BUSY:
            self._endings.end(worker)

    def close(self, *, cancel: bool, kill_at: float | None, reason: str) -> None:
        """The pool is to be shut down."""
        if cancel:
            for worker in list(self._state.workers.values()):
                if worker.calls_ahead:
                    self._take_back(worker)
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
        """Do what was wished, in its order; tasks that come one after the other are taken in together."""
        tasks: list[Task] = []
        self.is_taking_in = True
        while self._inbox:
            wish = self._inbox.popleft()
            if isinstance(wish, Task):
                last = tasks[-1] if tasks else None
                if not (isinstance(last, Bundle) and last.absorb(wish)):
                    tasks.append(wish)
                continue
            if tasks:
                self._take_in(tasks)
                tasks = []
            wish()
        if tasks:
            self._take_in(tasks)
        self.is_taking_in = False

    # --- the thread ---

    def run(self) -> None:
        """Supervise until the pool is closed and nothing is left."""
        try:
            self._watch.wakeup(self._wakeup.fd, self._on_wakeup)
            while not self.is_finished:
                self._turn()
        except BaseException as error:  # a defect of ours: nobody may wait for ever because of it
            with contextlib.suppress(BaseException):  # of the program's own handler
                _log.critical("the supervisor of a pool failed", exc_info=True)
            self._give_up(error)
        finally:
            self._watch.close()

    def _turn(self) -> None:
        self._read_inbox()
        self._read_rings()
        now = time.monotonic()
        with self._lock:
            actions = decide(self._state, now)
        for action in actions:
            self._act(action)
        if self.is_finished:
            return
        has_buried = self._endings.advance()  # last: it looks through all processes, and others may have work waiting
        with self._lock:
            planned = next_instant(self._state)
            if self.staff.awaited:
                self.staff.news.notify_all()
        if self._room.has_news or self._state.broken is not None:
            self._room.open()
        began = time.monotonic()
        wait = None if planned is None else max(0.0, planned - began)
        if has_buried or any(action.do is not Do.GIVE for action in actions):
            wait = 0.0  # what was done may call for more
        if planned is None:
            events = self._wait(wait)
        else:
            self._limits.before_wait()
            events = self._wait(wait)
            self._limits.after_wait(max(planned, began))
        for on_event, mask in events:
            on_event(mask)

    def _wait(self, wait: float | None) -> list[tuple[Callable[[int], None], int]]:
        """Wait for something to happen, which may have happened already.

        Whoever puts something into the inbox, or into a ring, looks afterwards whether we wait; we say so, and look
        once more. So one of the two sees the other.
        """
        if wait == 0.0:
            return self._watch.wait(wait)
        self.is_waiting = True
        if self._inbox or not self._fall_asleep():
            wait = 0.0
        else:
            for worker in self._state.workers.values():  # only this thread changes them
                if worker.has_news:
                    worker.tell()
        try:
            return self._watch.wait(wait)
        finally:
            self.is_waiting = False

    def _act(self, action: Action) -> None:
        worker = action.worker
        if worker is None:
            _POOL_ACTIONS[action.do](self)
        elif worker.contained.pidfd >= 0:
            _WORKER_ACTIONS[action.do](self, worker)

    # --- actions on the pool ---

    def _start(self) -> None:
        worker = self.staff.start()
        if worker is not None:
            self._watch_worker(worker)
            self._watch.janitor()

    def _give(self) -> None:
        for worker in self._feeding.give():
            self._end_spoilt(worker)

    def _kill_all(self) -> None:
        for worker in list(self._state.workers.values()):
            self._settle_accounts(worker)  # first: what goes back is cancelled with what waits
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

    def _keep(self, worker: Worker) -> None:
        with self._lock:
            if worker.state is WorkerState.IDLE:
                worker.due = self._state.idle_until()

    def _retire(self, worker: Worker) -> None:
        with self._lock:
            if worker.state not in (WorkerState.IDLE, WorkerState.STARTING):
                return
            worker.move(WorkerState.LEAVING, time.monotonic() + self._state.settings.exit_timeout)
            self._state.drop_idle(worker)
        worker.channel.send(Kind.QUIT, 0)

    # --- events ---

    def _on_wakeup(self, _mask: int) -> None:
        self._wakeup.clear()

    def _on_channel(self, worker: Worker, mask: int) -> None:
        if worker.state is WorkerState.ENDING:
            return
        if mask & ~select.POLLIN:
            if worker.channel.flush():
                self._watch_channel(worker)
            worker.handed = time.monotonic()
        if mask & ~select.POLLOUT:
            self._read(worker)

    def _take_from(self, worker: Worker, receive: Callable[[], list[Frame]]) -> None:
        """Take in what has come; end a worker that has sent what is none of ours."""
        try:
            frames = receive()
        except ForeignBytesError as error:
            self._take_frames(worker, error.frames)
            worker.verdict = worker.verdict or partial(outcomes.died, f"Something wrote to its channel: {error}.")
            self._endings.end(worker)
        else:
            self._take_frames(worker, frames)

    def _read(self, worker: Worker) -> None:
        self._take_from(worker, worker.channel.receive)
        if worker.channel.inflow is Inflow.CLOSED and worker.state is not WorkerState.ENDING:
            self._watch.drop(worker, worker.channel.fileno())
            if worker.state is WorkerState.LEAVING:
                return  # as it should; it has until ``exit_timeout`` is over
            # A dying process closes its descriptors before it counts as dead: that is no doing of its own. Nothing more
            # comes from it, so its end begins here, which has patience, and not without limit.
            # (``test_worker_that_takes_its_time_to_die_has_not_closed_its_channel``)
            if not worker.contained.is_dying():
                worker.verdict = worker.verdict or partial(outcomes.died, "It had closed its channel to the pool.")
            elif worker.state is WorkerState.STOPPING:
                return  # whom it leaves in its group has the rest of the grace, once it is dead
            self._endings.end(worker)

    def _on_death(self, worker: Worker, _mask: int) -> None:
        if worker.state is WorkerState.ENDING:
            return
        self._take_rest(worker)
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

    def _take_rest(self, worker: Worker) -> None:
        """Take in whatever there is, of a worker that is dead or to be ended."""
        try:
            frames = worker.channel.receive_rest()
        except ForeignBytesError as error:
            frames = error.frames
        self._take_frames(worker, frames)

    def _take_frames(self, worker: Worker, frames: list[Frame]) -> None:
        if worker.state is WorkerState.ENDING:
            return  # the outcome is fixed already
        if worker.channel.leaves_answers:
            self._leaving_answers.add(worker)
        self._answers.take(worker, frames)

    def _read_rings(self) -> None:
        """Take in what workers have left in their rings since the last look."""
        for worker in list(self._leaving_answers):
            if worker.state is WorkerState.ENDING:
                self._leaving_answers.discard(worker)
            else:
                self._take_from(worker, worker.channel.receive_left)

    def _fall_asleep(self) -> bool:
        """Have workers wake us with their next answer; return False if one of them has left some already."""
        for worker in list(self._leaving_answers):
            if not worker.channel.fall_asleep():
                return False
            self._leaving_answers.discard(worker)
        return True

    def _on_swept(self, worker: Worker) -> None:
        self._watch_worker(worker)
        self._answers.on_swept(worker)

    # --- tasks that were sent ahead ---

    def _take_back(self, worker: Worker, *, but: Task | None = None) -> None:
        self._feeding.take_back(worker, but)
        if worker.channel.is_spoilt:
            self._end_spoilt(worker)

    def _end_spoilt(self, worker: Worker) -> None:
        """Something beneath the worker has taken its part in the channel: nobody knows any more what it runs."""
        if not worker.is_spoilt:
            worker.is_spoilt = True
            detail = "Something had read what the pool sent it, or answered in its place."
            worker.verdict = worker.verdict or partial(outcomes.died, detail)
            self._endings.end(worker)

    def _settle_accounts(self, worker: Worker) -> None:
        """Before its end: what it has not begun goes back, what it has answered counts."""
        self._take_back(worker)
        self._take_rest(worker)

    def _relieve(self, worker: Worker) -> None:
        """What was sent ahead to it could be run by others: by one that is idle, or because its own task is long.

        Where no answer has come for a while, it may also be that nobody has looked, or that the machine is busy.
        """
        now = time.monotonic()
        if worker.stuck_at is not None and worker.stuck_at <= now:
            begun = worker.begun_at()
            worker.stuck_at = now + STUCK
            latest = worker.handed + _STARVED
            worker.is_stuck = now - (latest if begun is None else min(latest, begun)) >= STUCK
            if begun is None and worker.answers and self._owes_answer(worker):
                self._end_spoilt(worker)
                return
            if not worker.is_stuck:
                return
        worker.is_stuck = True  # also of one that is relieved for an idle one: once is enough until it answers
        self._take_back(worker)

    def _owes_answer(self, worker: Worker) -> bool:
        """Return True if there are answers to later tasks, and there will never be one to its own.

        What comes before those that are here is here, too, or was never sent. Whoever goes on to another task in this
        read has answered, and what has come by the ring since may only be ahead of the channel once more.
        (``test_answers_that_outrun_those_of_the_channel_again_and_again_are_no_offence``)
        """
        task, number = worker.task, worker.number_of_task
        self._read(worker)
        is_same = worker.task is task and worker.number_of_task == number
        return is_same and bool(worker.answers) and worker.state is WorkerState.BUSY

    # --- the end of it all ---

    def _give_up(self, error: BaseException) -> None:
        """Fail everybody rather than let anybody wait for ever; then end what can still be ended."""
        broken = BrokenProcessPool(f"the pool's supervisor failed, and the pool is of no further use: {error!r}")
        with self._lock:
            self._state.breaking, self._state.broken = True, broken
            stranded = self.staff.strand()
            workers = list(self._state.workers.values())
            self._state.workers.clear()
            for worker in workers:
                tasks = worker.sent()
                worker.ahead.clear()
                for task in tasks:
                    part(worker, task, worker.record.begun_at(task.number))
                stranded += tasks
        for task in stranded:
            self._fail(task, lambda _task: outcomes.copy_of(broken))
        for worker in workers:
            worker.channel.close()
            with contextlib.suppress(Exception):  # the program may have closed our descriptors: what can be ended, is
                worker.contained.end_tree().run()
                worker.contained.release()

    def _fail(self, task: Task, error: Callable[[Task], BaseException]) -> None:
        self._delivery.put(partial(outcomes.fail, task, lambda: error(task)))

    def _watch_worker(self, worker: Worker) -> None:
        self._watch.add(worker, worker.contained.pidfd, partial(self._on_death, worker))
        self._watch_channel(worker)

    def _watch_channel(self, worker: Worker) -> None:
        self._watch.channel(worker, partial(self._on_channel, worker))


def _is_of(task: Task, results: Outcomes) -> bool:
    return isinstance(task, Bundle) and task.outcomes is results


_POOL_ACTIONS: dict[Do, Callable[[Supervisor], None]] = {
    Do.GIVE: Supervisor._give,
    Do.START: Supervisor._start,
    Do.KILL_ALL: Supervisor._kill_all,
    Do.MEASURE: lambda self: self._limits.measure(),
    Do.FINISH: Supervisor._finish,
}
_WORKER_ACTIONS: dict[Do, Callable[[Supervisor, Worker], None]] = {
    Do.WARN: lambda self, worker: self._limits.warn(worker),
    Do.CONDEMN: lambda self, worker: self._limits.condemn(worker),
    Do.STOP: lambda self, worker: self._limits.stop(worker),
    Do.END: lambda self, worker: self._endings.end(worker),
    Do.RETIRE: Supervisor._retire,
    Do.KEEP: Supervisor._keep,
    Do.RELIEVE: Supervisor._relieve,
}
