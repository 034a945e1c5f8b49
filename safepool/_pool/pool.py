"""The pool behind an executor: takes calls from any thread, and keeps one supervisor thread while there is work.

Holds no reference to its executor, which may therefore be collected while its work is finished.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from safepool._os.wakeup import Wakeup
from safepool._pool import outcomes
from safepool._pool.delivery import Delivery
from safepool._pool.future import SafeFuture
from safepool._pool.handle import WorkerHandle
from safepool._pool.state import PoolState, Settings
from safepool._pool.supervisor import Supervisor
from safepool._pool.task import Task, TaskState
from safepool._pool.terms import Terms
from safepool._pool.worker import Worker, WorkerState
from safepool._worker.launch import Preparation

__all__ = ["Pool"]

_START_LIMIT = 5.0  # seconds to wait for the numbers of workers to be; starting one takes milliseconds

_open_pools: set[Pool] = set()


class Pool:
    """Queue, workers and supervisor of one executor."""

    def __init__(self, settings: Settings, preparation: Preparation) -> None:
        self._state = PoolState(settings)
        self._lock = threading.Lock()
        self._wakeup = Wakeup()
        self._delivery = Delivery("safepool-delivery")
        self._callbacks = Delivery("safepool-callbacks")
        self._supervisor = Supervisor(self._state, self._lock, self._wakeup, self._delivery, preparation)
        self._thread: threading.Thread | None = None
        self._owner = os.getpid()
        self._count = 0

    def submit(
        self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], terms: Terms
    ) -> SafeFuture[Any]:
        """Take a call; return its future. A call that cannot be pickled fails its future, not this method."""
        self._check_owner()
        future: SafeFuture[Any] = SafeFuture()
        task = Task(0, future, (fn, args, kwargs), b"", terms.timeout, terms.priority, terms.retries)
        try:
            task.payload = self._state.settings.dumps(task.call)
        except Exception as error:
            task.unfit = error
        worker = None
        wake = True
        try:
            with self._lock:
                self._check_open()
                task.number = self._count = self._count + 1
                try:
                    worker, wake = self._place(task)
                except BaseException:  # Ctrl-C in the middle, or no thread to be had: nobody gets this future
                    if task.state is TaskState.WAITING:
                        task.state = TaskState.SETTLED
                    self._state.recount()
                    raise
            if worker is not None and not worker.channel.flush():
                wake = True
        finally:
            if wake:
                self._wakeup.set()
        return future

    def _place(self, task: Task) -> tuple[Worker | None, bool]:
        """Give the task to an idle worker, else queue it; return the worker, and whether to wake the supervisor."""
        task.future._pool, task.future._task = self, task
        worker = None if self._state.waiting_count or task.unfit else self._state.take_idle()
        if worker is None:
            self._state.enqueue(task)
            self._ensure_thread()
            return None, bool(self._state.idle) or self._state.to_start() > 0
        task.future.set_running_or_notify_cancel()
        self._supervisor.assign(worker, task)
        return worker, self._supervisor.must_wake_for(worker.due)

    def close(self, *, cancel: bool = False, kill: bool = False, timeout: float | None = None, reason: str) -> None:
        """Take no more calls; finish, cancel or end what there is. In a forked child there is nothing of it."""
        if self._owner != os.getpid():
            return
        cancelled: list[Task] = []
        with self._lock:
            self._state.closing = True
            if kill or timeout is not None:
                self._state.kill_reason = self._state.kill_reason or reason
                instant = time.monotonic() + (0.0 if kill else timeout or 0.0)
                self._state.kill_at = min(self._state.kill_at or instant, instant)
            if cancel:
                cancelled = self._state.cancel_waiting(spare=not kill)
        for task in cancelled:
            outcomes.cancel(task, reason)
        if self._thread is None:  # it was never needed, so nobody else will
            self._wakeup.close()
        self._wakeup.set()

    def abandon(self) -> None:
        """Take note that nobody can submit any more. Safe to call from a garbage collection anywhere: no lock."""
        self._state.abandoned = True
        self._wakeup.set()

    def join(self) -> None:
        """Wait until the pool is closed, its work done and its workers gone."""
        thread = self._thread
        if thread is not None and thread is not threading.current_thread() and self._owner == os.getpid():
            thread.join()
            self._delivery.join()
            self._callbacks.join()

    def kill_task(self, task: Task, reason: str) -> bool:
        """End a running task; return False if it is not running any more."""
        if self._owner != os.getpid():
            return False
        with self._lock:
            if task.state is not TaskState.RUNNING and not self._state.discard_waiting(task):
                return False
            was_put_back = task.state is TaskState.SETTLED
            if not was_put_back:
                self._supervisor.request_kill(task, reason)
        if was_put_back:  # it had been sent to a worker that died before it began: nothing is to be ended
            outcomes.cancel(task, reason)
        self._wakeup.set()
        return True

    def forget_cancelled(self, task: Task) -> None:
        """Take a cancelled task out of the queue and wake whoever waits for its future."""
        if self._owner != os.getpid():
            return
        with self._lock:
            was_waiting = self._state.discard_waiting(task)
        if was_waiting:
            task.future._task = None
            task.release()  # here, not under the lock when the queue gets to it: finalizers are user code
            task.future.set_running_or_notify_cancel()
            self._wakeup.set()  # the pool may have been waiting for it to close

    def runs_no_callbacks(self, thread: int) -> bool:
        """Return True for the threads whose work a callback must not hold up: supervision, and unpickling."""
        return self._thread is not None and thread in (self._thread.ident, self._delivery.thread_id)

    def call_back(self, call: Callable[[], None]) -> None:
        """Have callbacks run, after those before them."""
        self._callbacks.put(call)

    def handles(self) -> dict[int, WorkerHandle]:
        """Return the workers there are, by process id, once those that waiting tasks call for have been started."""
        if self._thread is None or self._owner != os.getpid():
            return {}
        with self._lock:
            if not self._state.breaking:
                self._supervisor.staff.started.wait_for(lambda: not self._state.to_start(), _START_LIMIT)
            workers = [worker for worker in self._state.workers.values() if worker.state is not WorkerState.ENDING]
        return {worker.contained.pid: WorkerHandle(worker.contained, worker.number) for worker in workers}

    @property
    def is_broken(self) -> bool:
        """True once no worker can be had any more."""
        return self._state.broken is not None

    @property
    def thread(self) -> threading.Thread | None:
        """The supervisor's thread, once there is one."""
        return self._thread

    def _check_owner(self) -> None:
        if self._owner != os.getpid():
            raise RuntimeError(
                f"this pool belongs to process {self._owner}; a forked child ({os.getpid()}) has to make its own"
            )

    def _check_open(self) -> None:
        if self._state.broken is not None:
            raise outcomes.copy_of(self._state.broken)
        if self._state.closing:
            raise RuntimeError("cannot schedule new futures after shutdown")
        if sys.is_finalizing() or _exiting:
            raise RuntimeError("cannot schedule new futures after interpreter shutdown")

    def _ensure_thread(self) -> None:
        if self._thread is None:
            thread = threading.Thread(target=self._run, name="safepool-supervisor", daemon=True)
            thread.start()  # raises where the system has no room for it; it does nothing before we let go of the lock
            self._thread = thread
            _open_pools.add(self)

    def _run(self) -> None:
        try:
            self._supervisor.run()
        finally:
            _open_pools.discard(self)
            self._delivery.stop(then=self._callbacks.stop)
            self._wakeup.close()  # an executor may be kept for long after its end, but not its descriptors


_exiting = False


def _finish_all() -> None:
    """At interpreter exit: finish the work there is, as the standard library does; end it if Ctrl-C ended us."""
    global _exiting
    _exiting = True
    # An interactive session goes on after Ctrl-C, and its end says nothing about that any more.
    is_interactive = bool(sys.flags.interactive) or hasattr(sys, "ps1")
    last = None if is_interactive else getattr(sys, "last_type", None)
    interrupted = issubclass(last or Exception, KeyboardInterrupt)
    mine = [pool for pool in list(_open_pools) if pool._owner == os.getpid()]  # one call: threads go on ending
    for pool in mine:
        pool.close(kill=interrupted, cancel=interrupted, reason="Ctrl-C")
    try:
        for pool in mine:
            pool.join()
    except KeyboardInterrupt:
        for pool in mine:
            pool.close(kill=True, reason="Ctrl-C")
        for pool in mine:
            pool.join()


# Before the interpreter waits for its threads, as in concurrent.futures; ``atexit`` would come too late to submit to
# or to settle anything.
threading._register_atexit(_finish_all)  # type: ignore[attr-defined]  # private, and what the standard library uses
