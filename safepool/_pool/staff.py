"""Getting workers, and what is to be done when none can be had.

Two different things can go wrong. A *start* fails for want of descriptors, memory or processes: that passes, so it is
tried again after a while, and only if no worker is left do the waiting tasks learn of it. A *boot* fails when a
worker dies, or its initializer raises, before it is ready: three in a row, and the pool is broken, with the reason.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from functools import partial

from safepool._os.contained import ContainedProcess
from safepool._os.oom import oom_kill_count
from safepool._os.wakeup import Wakeup
from safepool._pool import outcomes
from safepool._pool.delivery import Delivery
from safepool._pool.state import PoolState
from safepool._pool.task import Task, TaskState
from safepool._pool.worker import Obituary, Worker, WorkerState
from safepool._worker.channel import Channel
from safepool._worker.framing import Kind
from safepool._worker.launch import Preparation, launch
from safepool._worker.record import StartRecord
from safepool._worker.worker_main import WorkerProcess
from safepool.errors import InitializerError, describe_exit

__all__ = ["Staff"]

_MOST_FAILED_BOOTS = 3
_MOST_FAILED_STARTS = 5
_RETRY_DELAY = 0.05  # seconds after the first failed start, doubled with each further one
_LONGEST_DELAY = 1.0  # seconds


class Staff:
    """Hires workers for one pool."""

    def __init__(
        self,
        state: PoolState,
        lock: threading.RLock,
        wakeup: Wakeup,
        delivery: Delivery,
        preparation: Preparation,
    ) -> None:
        self._state = state
        self._lock = lock
        self._wakeup = wakeup
        self._delivery = delivery
        self._preparation = preparation
        self._count = 0
        self.news = threading.Condition(lock)  # notified when a worker was started, and at each turn, if awaited
        self.awaited = 0  # by how many threads; changed with the lock held

    def start(self) -> Worker | None:
        """Start one more worker; return None if that failed, which is then already seen to."""
        self._count += 1
        try:
            worker = self._launch()
        except (OSError, MemoryError) as error:
            self._on_failed_start(error.with_traceback(None))  # whoever keeps it would keep its frames' descriptors
            return None
        except Exception as error:
            self._break(0, f"starting a worker raised {type(error).__name__}: {error}", error)
            return None
        self._state.failed_starts = 0
        worker.channel.send(Kind.INITIALIZE, 0, self._state.settings.outfit)
        with self._lock:
            self._state.workers[worker.number] = worker
            self.news.notify_all()
        return worker

    def on_ready(self) -> None:
        """Take note that a worker is ready: the initializer works."""
        self._state.failed_boots = 0

    def on_failed_boot(self, worker: Worker, obituary: Obituary) -> None:
        """Take note that a worker came to its end before it was ready; after three in a row, give up."""
        self._state.failed_boots += 1
        if self._state.failed_boots < _MOST_FAILED_BOOTS:
            return
        if worker.unfit:
            self._break(self._state.failed_boots, "its initializer raised", worker.unfit)
        else:
            cause = outcomes.died_while_starting(obituary)
            self._break(self._state.failed_boots, f"it {describe_exit(obituary.exitcode)}", cause)

    def strand(self) -> list[Task]:
        """Empty the queue; the tasks, which count as started, are the caller's to settle."""
        stranded = []
        while (task := self._state.take_waiting()) is not None:
            task.state = TaskState.SETTLED
            self._state.places.discard(task.number)
            if outcomes.begin(task):
                stranded.append(task)
        return stranded

    def _launch(self) -> Worker:
        settings = self._state.settings
        with contextlib.ExitStack() as undo:
            record = undo.enter_context(contextlib.closing(StartRecord()))
            channel = Channel(record.ring)
            undo.callback(channel.close)
            with channel.theirs as theirs:
                number = self._free_id()
                fds = (theirs.fileno(), channel.their_tickets.fileno(), record.fd)
                process = WorkerProcess(number, fds, f"SafeProcessPoolWorker-{self._count}")
                contained = launch(
                    process,
                    self._preparation,
                    settings.environment,
                    (*fds, *settings.inherited_fds),
                    strict_by=settings.strict_by,
                    spares_detached=settings.spares_detached,
                )
            undo.callback(_end, contained)
            if settings.cpu_limit is not None:
                _limit_cpu(contained, settings.cpu_limit)
            record.assign(contained.pid)
            record.close()
            undo.pop_all()
        return Worker(self._count, contained, channel, record, oom_kill_count(), id=number)

    def _free_id(self) -> int:
        """Return the smallest that no worker has; one that is being ended is frozen, or dead, and has none any more."""
        workers = self._state.workers.values()
        taken = {worker.id for worker in workers if worker.state is not WorkerState.ENDING}
        return next(number for number in itertools.count() if number not in taken)

    def _on_failed_start(self, error: Exception) -> None:
        failures = self._state.failed_starts = self._state.failed_starts + 1
        self._state.start_at = time.monotonic() + min(_LONGEST_DELAY, _RETRY_DELAY * 2**failures)
        with self._lock:
            if failures < _MOST_FAILED_STARTS or self._state.occupying():
                return
            self._state.failed_starts = 0
            self._state.start_at = 0.0
            stranded = self.strand()
        for task in stranded:
            self._delivery.put(partial(outcomes.fail, task, partial(outcomes.not_started, error, task)))

    def _break(self, attempts: int, reason: str, cause: bytes | BaseException) -> None:
        """No worker can be had: fail what waits, and whatever comes."""
        if not self._state.breaking:
            self._state.breaking = True
            self._delivery.put(partial(self._complete_break, attempts, reason, cause))

    def _complete_break(self, attempts: int, reason: str, cause: bytes | BaseException) -> None:
        """In the delivery thread, since the cause has to be unpickled."""
        if isinstance(cause, bytes):
            reason = f"{reason} {outcomes.line_of(cause)}"
            cause = outcomes.unpack_exception(cause, lambda: "the initializer")
        broken = InitializerError(attempts=attempts, reason=reason)
        broken.__cause__ = cause
        with self._lock:
            self._state.broken = broken
            stranded = self.strand()
        for task in stranded:
            outcomes.fail(task, partial(outcomes.copy_of, broken))
        self._wakeup.set()


def _limit_cpu(contained: ContainedProcess, cpus: float) -> None:
    group = contained.control_group
    if group is None:
        raise OSError("the worker has no control group, and so no limit of CPU time")
    group.limit_cpu(cpus)


def _end(contained: ContainedProcess) -> None:
    contained.end_tree().run()
    contained.release()
