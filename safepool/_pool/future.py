"""The future of a task: the standard library's, and what a killable task adds."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Generator
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from safepool._pool.pool import Pool
    from safepool._pool.task import Task
    from safepool._pool.worker import Worker
    from safepool.errors import EndedProcess

__all__ = ["SafeFuture"]

T = TypeVar("T")


class SafeFuture(Future[T]):
    """What ``submit`` returns: a ``concurrent.futures.Future`` whose running task can be ended.

    Attributes:
        pid: Process id of the worker that runs or ran the task; None before it started.
        started_at: The instant (``time.monotonic`` seconds) at which the worker began with it; None before.
        leftovers: Processes that the task had left running when it came to its end by itself; looked for only in a pool
            with ``leftovers="warn"``, or "end", in which they are ended before the future is settled.
    """

    __module__ = "safepool"

    pid: int | None = None
    leftovers: tuple[EndedProcess, ...] = ()
    _attempts: int = 0
    _started_at: float | None = None
    _pool: Pool | None = None
    _task: Task | None = None
    _worker: Worker | None = None  # while it runs

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

    def cancel(self, *, cancel_running: bool = False) -> bool:
        """Cancel the call if it has not started; return False if it has. Waiters are woken at once.

        Args:
            cancel_running: If it runs, end it as ``kill`` does; its outcome is ``TaskKilledError`` then.
        """
        pool, task = self._pool, self._task
        if not super().cancel():
            if cancel_running and pool is not None and task is not None:
                return pool.kill_task(task, "future.cancel(cancel_running=True)")
            return False
        if pool is not None and task is not None:
            pool.forget_cancelled(task)
        return True

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

    def _invoke_callbacks(self) -> None:
        """Callbacks are user code: they run where they can be slow without making a deadline late."""
        pool, self._pool = self._pool, None  # settled: there is nothing left to ask of the pool
        invoke = super()._invoke_callbacks  # type: ignore[misc]  # the base class's hook, and its list below
        if pool is not None and self._done_callbacks and pool.runs_no_callbacks(threading.get_ident()):  # type: ignore[attr-defined]
            pool.call_back(invoke)
        else:
            invoke()
