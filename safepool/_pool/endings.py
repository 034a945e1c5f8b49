"""How workers come to their end, and what becomes of the tasks that they had; and how a task's leftovers do.

A worker's tree is frozen, listed, killed and confirmed dead, in steps that do not block (``_os.process_tree``); the
supervisor asks ``advance`` at each turn. When nothing is left, the leader is reaped, and only then is the task's future
settled, or the task put back into the queue: it was sent but never begun, or it has retries left.

What a task that came to its end by itself has left running beneath its worker is ended in the same steps, without the
worker, if the pool was made so; its outcome waits until that is done, or until the worker has to be ended itself.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable
from functools import partial

from safepool._os.oom import oom_kill_count
from safepool._pool import outcomes
from safepool._pool.bundle import Bundle
from safepool._pool.delivery import Delivery
from safepool._pool.staff import Staff
from safepool._pool.state import PoolState
from safepool._pool.task import Task, TaskState
from safepool._pool.watch import Watch
from safepool._pool.worker import Obituary, Worker, WorkerState
from safepool.errors import EndedProcess

__all__ = ["Endings", "part"]

_log = logging.getLogger("safepool")

_MOST_PUT_BACKS = 3  # a task that never seems to begin may be hiding that it does
# SIGKILL comes from somebody else, and says little about the task. A fresh worker is some 10 to 80 us between its first
# ticket and the beginning, all its code being new to it, and longer if it is preempted there: with thirty kills a
# second at random, and three processes for each core, one task of fifteen thousand was seen to lose three starts in a
# row.
_MOST_PUT_BACKS_IF_KILLED = 9


class Endings:
    """Ends the workers of one pool. Used by the supervisor's thread alone."""

    def __init__(
        self,
        state: PoolState,
        lock: threading.RLock,
        watch: Watch,
        delivery: Delivery,
        staff: Staff,
        settle_accounts: Callable[[Worker], None],
        on_swept: Callable[[Worker], None],
    ) -> None:
        self._settle_accounts = settle_accounts
        self._on_swept = on_swept
        self._state = state
        self._lock = lock
        self._watch = watch
        self._delivery = delivery
        self._staff = staff

    def end(self, worker: Worker) -> None:
        """Begin to end a worker with its tree, whatever it is doing; does nothing if that has begun already."""
        if worker.is_ending:
            return
        if worker.state is WorkerState.SWEEPING:
            self._finish_sweep(worker)
        self._settle_accounts(worker)
        if worker.is_ending:  # since what was found then has ended it
            return
        with self._lock:
            worker.failed_boot = worker.state is WorkerState.STARTING
            worker.ended_at = time.monotonic()
            worker.note_peak()
            worker.move(WorkerState.ENDING)
            worker.stuck_at = None
            self._state.drop_idle(worker)
        self._watch.drop_all(worker)
        while worker.survivors:
            os.close(worker.survivors.pop())
        worker.ending = worker.contained.end_tree()
        self._watch_ending(worker)

    def sweep(self, worker: Worker, spared: Iterable[int]) -> None:
        """Begin to end what a task has left behind, but not those."""
        worker.move(WorkerState.SWEEPING)
        self._watch.drop_all(worker)  # it has been given nothing; should it die, that is soon enough to see afterwards
        worker.ending = worker.contained.end_descendants(spared)
        self._watch_ending(worker)

    def advance(self) -> bool:
        """Go on with every ending that there is; return True if one of them came to its end."""
        is_over = False
        for worker in list(self._state.workers.values()):
            if worker.ending is None:
                continue
            if not worker.ending.advance():
                self._watch_ending(worker)
                continue
            is_over = True
            if worker.state is WorkerState.SWEEPING:
                self._finish_sweep(worker)
            else:
                self._bury(worker)
        return is_over

    def _finish_sweep(self, worker: Worker) -> None:
        assert worker.ending is not None
        assert worker.task is not None
        self._watch.drop_all(worker)
        _report_survivors(worker, worker.ending.close())
        worker.task.future.leftovers = tuple(EndedProcess(*remains) for remains in worker.ending.ended)
        worker.ending = None
        self._on_swept(worker)

    def _watch_ending(self, worker: Worker) -> None:
        assert worker.ending is not None
        worker.due = worker.ending.wake_at
        self._watch.ending(worker, worker.ending.pidfds())

    def _bury(self, worker: Worker) -> None:
        """Nothing is left of the tree: reap, settle, forget."""
        tasks, rest = _divide(worker)
        worker.ahead.clear()
        worker.task = tasks[-1] if tasks else None
        obituary = self._write_obituary(worker)
        _blame_limit(worker)
        self._watch.drop_all(worker)
        worker.contained.release()
        worker.channel.close()
        with self._lock:
            del self._state.workers[worker.number]
        if rest is not None:
            self._put_back_unless_over(rest)
        for task in tasks[-1:]:  # first: it is told from the worker's record whether it has begun
            self._put_back_or_part(worker, task, obituary)
        for task in tasks[:-1]:  # begun, and most likely over, but their answers are lost: it has spoiled its channel
            self._part(worker, task, obituary)
        if worker.failed_boot and not worker.is_unwanted:
            self._staff.on_failed_boot(worker, obituary)

    def _put_back_or_part(self, worker: Worker, task: Task, obituary: Obituary) -> None:
        with self._lock:
            once_more = self._state.broken is None and self._runs_once_more(worker, task, obituary)
            if once_more:
                worker.task, task.future._worker = None, None
                self._state.put_back(task)
        if not once_more:
            self._part(worker, task, obituary)

    def _put_back_unless_over(self, bundle: Bundle) -> None:
        """What a worker has left of its bundle is for others to run, if there are to be any."""
        with self._lock:
            broken, is_killed = self._state.broken, self._state.is_killed
            if broken is None and not is_killed:
                self._state.put_back(bundle)
        if broken is not None:
            self._delivery.put(partial(outcomes.fail, bundle, lambda: outcomes.copy_of(broken)))
        elif is_killed:
            self._delivery.put(partial(outcomes.cancel, bundle, self._state.kill_reason or "shutdown"))

    def _part(self, worker: Worker, task: Task, obituary: Obituary) -> None:
        verdict, broken = worker.verdict or partial(outcomes.died, ""), self._state.broken
        if obituary.elapsed is None and broken is not None:
            verdict = partial(outcomes.never_run, broken)
        with self._lock:
            part(worker, task, worker.record.begun_at(task.number))
        self._delivery.put(partial(outcomes.fail, task, partial(verdict, task, obituary)))

    def _write_obituary(self, worker: Worker) -> Obituary:
        assert worker.ending is not None
        _report_survivors(worker, worker.ending.close())
        begun = worker.begun_at()
        return Obituary(
            pid=worker.contained.pid,
            exitcode=worker.contained.exit_status(),
            ended=tuple(EndedProcess(*remains) for remains in worker.ending.ended),
            elapsed=None if begun is None else max(0.0, worker.ended_at - begun),  # as the worker says
            stack=worker.stack.decode(errors="replace"),
            oom=_oom_since(worker.oom_kills),
            peak=worker.peak or None,
        )

    def _runs_once_more(self, worker: Worker, task: Task, obituary: Obituary) -> bool:
        """Decide whether the task goes back to the queue; with the pool's lock held."""
        if worker.is_unwanted or self._state.is_killed:
            return False
        if worker.begun_at() is None and worker.verdict is None:  # sent, but never begun: the death is not its fault
            task.put_backs += 1
            was_killed = obituary.exitcode == -signal.SIGKILL
            if task.put_backs <= (_MOST_PUT_BACKS_IF_KILLED if was_killed else _MOST_PUT_BACKS):
                task.attempts -= 1
                return True
        return task.attempts <= task.terms.retries


def _report_survivors(worker: Worker, survivors: list[int]) -> None:
    if survivors:
        _log.warning("of worker %d's tree these would not die: %s", worker.contained.pid, survivors)


def _blame_limit(worker: Worker) -> None:
    """If the kernel has ended it for its task's limit of memory, that is what its task is told.

    Also of one that has not begun, but has been taken by the worker: what it was sent counts, too.
    """
    group = worker.contained.control_group
    if worker.cap is not None and worker.verdict is None and group is not None and group.is_exhausted:
        worker.is_unwanted = True  # it would only grow again
        worker.verdict = partial(outcomes.exhausted, worker.cap)


def part(worker: Worker, task: Task, begun: float | None) -> None:
    """The task's run is over, one way or another; with the pool's lock held."""
    task.state = TaskState.SETTLED
    future = task.future
    future._started_at = begun
    future._worker = None
    future._attempts = task.attempts
    if worker.peak:
        future.peak_memory = worker.peak
    task.loan = None
    future._task = None  # no cycle: a result must go when the last reference to its future does
    worker.task = None


def _divide(worker: Worker) -> tuple[list[Task], Bundle | None]:
    """Return the tasks that a dead worker had begun, or was the next to begin, and what is left of its bundle.

    What it was sent beyond those has been taken back, as a rule; else it counts as begun.
    """
    sent = worker.sent()
    last = sent[-1] if sent else None
    if not isinstance(last, Bundle):
        return [single for task in sent for single in task.each()], None
    tasks = [single for task in sent[:-1] for single in task.each()]
    tasks += last.take_begun(worker.record.last())
    last.attempts = 0
    return tasks, last if last.size else None


def _oom_since(before: int | None) -> bool | None:
    now = oom_kill_count()
    return None if before is None or now is None else now > before
