"""The future of a task: the standard library's, and what a killable task adds.

The standard library's makes a condition, a list of waiters and one of callbacks for each task: half of what a submit
costs, and most of its memory. Here they are made when somebody asks for them. Whoever holds a future's condition may
rely on its state, so from when there is one, every change is made under it; until then, under a lock that all futures
share, which is also taken to make one. The pool never waits for that lock: whoever has it may be interrupted by a
signal handler that waits for the pool. Where it is taken, the pool makes a condition instead.
(``test_handler_that_waits_while_its_thread_has_the_lock_of_all_futures``)
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Generator
from concurrent.futures import Future
from concurrent.futures._base import FINISHED, PENDING, RUNNING  # private; a future's state is one of them
from typing import TYPE_CHECKING, Any, TypeVar

from safepool._pool.task import Task, TaskState

if TYPE_CHECKING:
    from safepool._pool.pool import Pool
    from safepool._pool.worker import Worker
    from safepool.errors import EndedProcess

__all__ = ["SafeFuture"]

T = TypeVar("T")

_unwatched = threading.RLock()  # guards futures without a condition; re-entrant, for signal handlers and collections


def _renew_in_child() -> None:
    global _unwatched
    _unwatched = threading.RLock()  # another thread may have had it at the fork


os.register_at_fork(after_in_child=_renew_in_child)


class _Lazy:
    """An attribute of a future that is made at its first use; from then on it is found in the instance."""

    def __init__(self, make: Callable[[], Any], lock: bool = False) -> None:
        self._make = make
        self._needs_lock = lock

    def __set_name__(self, _owner: type, name: str) -> None:
        self._name = name

    def __get__(self, future: Future[Any] | None, _owner: type) -> Any:
        if future is None:
            return self
        made = self._make()  # not under the lock: a collection, and with it anybody's code, may run here
        with _unwatched if self._needs_lock else contextlib.nullcontext():
            return vars(future).setdefault(self._name, made)  # one call: the first to make it is the one


class SafeFuture(Future[T]):
    """What ``submit`` returns: a ``concurrent.futures.Future`` whose running task can be ended.

    Attributes:
        pid: Process id of the worker that runs or ran the task; None before it started.
        started_at: The instant (``time.monotonic`` seconds) at which the worker began with it; None before.
        leftovers: Processes that the task had left running when it came to its end by itself; looked for only in a pool
            with ``leftovers="warn"``, or "end", in which they are ended before the future is settled.
        peak_memory: Bytes that the worker and everything beneath it held at the highest while the task ran, as far as
            was seen; measured only in a pool with ``measure_memory=True``. None before the task is over, and where
            nothing could be measured.
    """

    __module__ = "safepool"

    pid: int | None = None
    leftovers: tuple[EndedProcess, ...] = ()
    peak_memory: int | None = None
    _attempts: int = 0
    _started_at: float | None = None
    _pool: Pool | None = None
    _task: Task | None = None
    _worker: Worker | None = None  # from when it was given to one until it is over

    _state = PENDING
    _result: T | None = None
    _exception: BaseException | None = None
    _condition = _Lazy(threading.Condition, lock=True)
    _waiters = _Lazy(list)
    _done_callbacks = _Lazy(list)

    __init__ = object.__init__  # everything has its value already, or comes when it is asked for

    @property
    def attempts(self) -> int:
        """How often the task has been given to a worker: more than once if ``retries`` were needed."""
        task = self._task
        return self._attempts if task is None else task.attempts

    @property
    def started_at(self) -> float | None:  # documented above
        worker, task = self._worker, self._task  # the supervisor may take them away between two looks
        if worker is None or task is None:
            return self._started_at
        return worker.record.begun_at(task.number)

    def running(self) -> bool:
        """Return True if the call is being executed."""
        task = self._task
        if task is None or task.state is not TaskState.SENT:
            return self._state == RUNNING
        worker = self._worker
        return worker is not None and worker.record.begun_at(task.number) is not None

    def done(self) -> bool:
        """Return True if the call was cancelled or is over."""
        return self._state not in (PENDING, RUNNING)

    def result(self, timeout: float | None = None) -> T:
        """Return what the call returned, or raise what it raised; wait for that, no longer than ``timeout`` seconds.

        Raises:
            TimeoutError: It is not over yet (``concurrent.futures.TimeoutError`` before Python 3.11).
            CancelledError: It was cancelled.
        """
        if self._state == FINISHED and self._exception is None:
            return self._result  # type: ignore[return-value]  # what it is then
        return super().result(timeout)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Return what the call raised, None if it returned; wait for that as ``result`` does."""
        if self._state == FINISHED:
            return self._exception
        return super().exception(timeout)

    def cancel(self, *, cancel_running: bool = False) -> bool:
        """Cancel the call if it has not started; return False if it has. Waiters are woken at once.

        Args:
            cancel_running: If it runs, end it as ``kill`` does; its outcome is ``TaskKilledError`` then.
        """
        pool, task = self._pool, self._task
        if super().cancel():
            if pool is not None and task is not None:
                pool.forget_cancelled(task)
            return True
        if pool is None or task is None:
            return False
        # It counts as running from when it was sent; it may be taken back, or have been taken back just now.
        if task.state in (TaskState.SENT, TaskState.WAITING) and pool.cancel_sent(task):
            return True
        return cancel_running and pool.kill_task(task, "future.cancel(cancel_running=True)")

    def kill(self) -> bool:
        """Cancel the call if it waits; end it, with everything it started, if it runs.

        Does not block: the future is settled with ``TaskKilledError`` when the processes are gone.

        Returns:
            False if the task was already over, else True.
        """
        pool, task = self._pool, self._task
        if pool is None or task is None:
            return False
        return self.cancel() or pool.kill_task(task, "future.kill()")

    def __await__(self) -> Generator[Any, None, T]:
        """Wait for the outcome in an asyncio event loop.

        Cancelling whoever waits cancels the call, as with asyncio's own futures: one that runs is ended as ``kill``
        does. ``asyncio.shield`` prevents that.
        """
        import asyncio

        loop = asyncio.get_running_loop()
        settled = asyncio.Event()

        def wake(_: object) -> None:
            with contextlib.suppress(RuntimeError):  # the loop was closed: nobody waits any more
                loop.call_soon_threadsafe(settled.set)

        self.add_done_callback(wake)
        try:
            yield from settled.wait().__await__()
        except asyncio.CancelledError:
            self.cancel(cancel_running=True)
            raise
        if self.cancelled():
            raise asyncio.CancelledError
        return self.result()  # from here, StopIteration becomes RuntimeError: it ends a coroutine otherwise

    def set_running_or_notify_cancel(self) -> bool:
        """Mark the call as running, as an executor does; return False if it was cancelled."""
        if self._take_unwatched():
            try:
                if self._state == PENDING:
                    self._state = RUNNING
                    return True
            finally:
                _unwatched.release()
        return super().set_running_or_notify_cancel()

    def set_result(self, result: T) -> None:
        """Settle the future, as an executor does."""
        if self._take_unwatched():
            try:
                if self._state in (PENDING, RUNNING):
                    self._result = result
                    self._state = FINISHED
                    self._pool = None
                    return
            finally:
                _unwatched.release()
        super().set_result(result)

    def put_back(self) -> None:
        """In the supervisor: the call had been sent to a worker, but will not be run there."""
        if self._take_unwatched():
            self._state = PENDING
            _unwatched.release()
            return
        with self._condition:
            if self._state == RUNNING:
                self._state = PENDING

    def _take_unwatched(self) -> bool:
        """Take the lock of all futures, if this one has no condition; else see to it that it has one."""
        if "_condition" in vars(self):
            return False
        if not _unwatched.acquire(blocking=False):
            vars(self).setdefault("_condition", threading.Condition())
            return False
        if "_condition" not in vars(self):
            return True
        _unwatched.release()
        return False

    def _invoke_callbacks(self) -> None:
        """Callbacks are user code: they run where they can be slow without making a deadline late."""
        pool, self._pool = self._pool, None  # settled: there is nothing left to ask of the pool
        invoke = super()._invoke_callbacks  # type: ignore[misc]  # the base class's hook, and its list below
        if pool is not None and vars(self).get("_done_callbacks") and pool.runs_no_callbacks(threading.get_ident()):
            pool.call_back(invoke)
        else:
            invoke()
