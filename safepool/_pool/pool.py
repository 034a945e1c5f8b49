"""The pool behind an executor: takes calls from any thread, and keeps one supervisor thread while there is work.

Holds no reference to its executor, which may therefore be collected while its work is finished.
"""

from __future__ import annotations

import _thread
import itertools
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any, NoReturn

from safepool._os.wakeup import Wakeup
from safepool._pool import outcomes
from safepool._pool.bundle import PENDING, Bundle, Outcomes
from safepool._pool.bundling import Bundling
from safepool._pool.delivery import Delivery
from safepool._pool.future import SafeFuture
from safepool._pool.handle import WorkerHandle
from safepool._pool.room import Room
from safepool._pool.staff import Staff
from safepool._pool.state import PoolState, Settings
from safepool._pool.supervisor import Supervisor
from safepool._pool.task import Task
from safepool._pool.terms import Terms
from safepool._pool.worker import WorkerState
from safepool._worker.launch import Preparation

__all__ = ["Pool"]

_PATIENCE = 0.1  # seconds between two looks at whether there is still somebody to wait for
_START_LIMIT = 5.0  # seconds to wait for the numbers of workers to be; starting one takes milliseconds

_open_pools: set[Pool] = set()


class Pool:
    """Queue, workers and supervisor of one executor.

    Whatever a caller wants is put into the inbox, one atomic ``append``, and done by the supervisor, which alone
    changes the tables, but for the set of places (``room``). So Ctrl-C may strike a caller anywhere, and a signal
    handler may use the pool that it interrupts: there is no half-done change, and no lock to meet oneself at. The price
    is one hand-over between threads for each task.
    """

    def __init__(self, settings: Settings, max_workers: int, preparation: Preparation, kept: object = None) -> None:
        self._kept = kept  # what is pickled in the settings refers to it, so it lives as long as workers may be started
        self.max_workers = max_workers  # as was wished last; the supervisor follows
        self._state = PoolState(settings, max_workers)
        self._inbox: deque[Task | Callable[[], None]] = deque()
        self._lock = threading.RLock()
        self._wakeup = Wakeup()
        self._delivery = Delivery("safepool-delivery")
        self._callbacks = Delivery("safepool-callbacks")
        self._room = Room(self._state.places, settings.max_pending)
        staff = Staff(self._state, self._lock, self._wakeup, self._delivery, preparation)
        self._supervisor = Supervisor(
            self._state, self._inbox, self._lock, self._wakeup, self._delivery, staff, self._room
        )
        self._is_needed = False  # a supervisor is to be started, or has been
        self._is_started = False  # likewise, and surely so
        self._thread: threading.Thread | None = None  # the one that supervises, if it is not a bare one
        self._thread_id: int | None = None  # of the one that supervises, while it does; both are set by itself
        self._is_up = threading.Event()
        self._is_over = threading.Event()
        self._only_one = threading.Lock()  # taken by the first supervisor thread, for good
        self._owner = os.getpid()
        self._numbers = itertools.count(1)
        self._is_closing = False

    def submit(
        self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], terms: Terms
    ) -> SafeFuture[Any]:
        """Take a call; return its future. A call that cannot be pickled fails its future, not this method.

        Where the pending tasks are limited, this waits for room, or raises ``QueueFullError``.
        """
        self._check_submit()
        future: SafeFuture[Any] = SafeFuture()
        call = fn, args, kwargs
        try:
            packed, is_plain, loan = self._state.settings.pickler.dumps(call, self._state.settings.lends_for(terms))
            task = Task(next(self._numbers), future, call, packed, terms, is_plain=is_plain, loan=loan)
        except Exception as error:
            task = Task(next(self._numbers), future, call, b"", terms, unfit=error)
        future._pool, future._task = self, task
        if self._state.settings.max_pending is None:
            self._hand_over(task)
        else:
            self._hand_over_with_place(task)
        return future

    def bundling(
        self, fn: Callable[..., Any], terms: Terms, submit_row: Callable[[tuple[Any, ...]], Future[Any]]
    ) -> Bundling | None:
        """Return what takes many calls of a function in bundles, on these terms; None if that cannot be done."""
        settings = self._state.settings
        name = settings.pickler.name_of(fn) if settings.bundles(terms) else None
        if name is None:
            return None
        return Bundling(
            fn,
            name,
            terms,
            settings.pickler,
            submit=self._submit_bundle,
            submit_row=submit_row,
            cancel=self._cancel_bundles,
        )

    def _submit_bundle(self, bundle: Bundle) -> None:
        self._check_submit()
        slots, first = bundle.outcomes.slots, bundle.index
        self._put_in(bundle)
        if self._supervisor.is_finished and slots[first] is PENDING:
            self._refuse_late()

    def _cancel_bundles(self, results: Outcomes) -> None:
        if self._owner == os.getpid() and self._is_needed:
            self._ask(partial(self._supervisor.cancel_bundles, results))

    def _hand_over(self, task: Task) -> None:
        self._put_in(task)
        if self._supervisor.is_finished and not task.future.done():
            self._refuse_late()

    def _put_in(self, task: Task) -> None:
        if not self._is_started:
            self._ensure_thread()
        self._inbox.append(task)
        if self._supervisor.is_waiting:
            self._wakeup.set()

    def _hand_over_with_place(self, task: Task) -> None:
        try:
            self._room.take(task.number, wait=self._state.settings.when_full == "block", check_open=self._check_open)
            self._hand_over(task)
        except BaseException:
            self._room.leave(task.number)
            raise
        finally:
            self._room.let_go(task.number)

    def resize(self, max_workers: int) -> None:
        """Have at most so many workers from now on."""
        self._check_owner()
        self._check_open()
        self.max_workers = max_workers
        self._tell(self._follow_size)

    def close(self, *, cancel: bool = False, kill: bool = False, timeout: float | None = None, reason: str) -> None:
        """Take no more calls; finish, cancel or end what there is. In a forked child there is nothing of it."""
        if self._owner != os.getpid():
            return
        self._is_closing = True
        self._room.open()
        kill_at = None
        if kill or timeout is not None:
            kill_at = time.monotonic() + (0.0 if kill else timeout or 0.0)
        # Told in any case: a ``submit`` that has passed its check may still start the supervisor.
        # (``test_shutdown_that_overtakes_the_first_submit_ends_the_pool_after_its_task``)
        self._tell(partial(self._supervisor.close, cancel=cancel or kill, kill_at=kill_at, reason=reason))
        if self._is_needed and not self._is_started:
            self._ensure_end()

    def abandon(self) -> None:
        """Take note that nobody can submit any more. Safe to call from a garbage collection anywhere."""
        self._state.abandoned = True
        self._wakeup.set()
        if self._owner == os.getpid() and self._is_needed and not self._is_started:
            try:
                self._ensure_thread()
            except RuntimeError:  # still no room for a thread
                if self._only_one.acquire(blocking=False):
                    self._end_unused()

    def join(self) -> None:
        """Wait until the pool is closed, its work done and its workers gone."""
        if self._owner != os.getpid() or not self._is_needed:
            return
        if threading.get_ident() in (self._thread_id, self._delivery.thread_id):
            return  # what is waited for waits for this thread
        self._ensure_end()
        self._is_over.wait()
        if self._thread is not None and self._thread.ident != threading.get_ident():
            self._thread.join()
        self._delivery.join()
        self._callbacks.join()

    def kill_task(self, task: Task, reason: str) -> bool:
        """Have a running task ended; return False if it is over already."""
        if self._owner != os.getpid() or task.future.done():
            return False
        self._tell(partial(self._supervisor.kill, task, reason))
        return True

    def cancel_sent(self, task: Task) -> bool:
        """Cancel a task that was sent ahead, if it has not begun; waits for the supervisor, which alone can tell."""
        if self._owner != os.getpid() or self._thread_id == threading.get_ident():
            return False  # the second: a finalizer that a collection runs there; it cannot wait for itself
        self._ask(partial(self._supervisor.cancel_sent, task))
        if not task.future.cancelled():
            return False
        task.release()
        return True

    def forget_cancelled(self, task: Task) -> None:
        """Have a cancelled task taken out of the queue, and whoever waits for its future woken."""
        if self._owner == os.getpid():
            task.release()  # here, not when the queue gets to it: finalizers are user code
            self._tell(partial(self._supervisor.forget, task))

    def runs_no_callbacks(self, thread: int) -> bool:
        """Return True for the threads whose work a callback must not hold up: supervision, and unpickling."""
        return thread in (self._thread_id, self._delivery.thread_id)

    def call_back(self, call: Callable[[], None]) -> None:
        """Have callbacks run, after those before them."""
        self._callbacks.put(call)

    def handles(self) -> dict[int, WorkerHandle]:
        """Return the workers there are, by process id, once those that waiting tasks call for have been started."""
        if not self._is_needed or self._owner != os.getpid():
            return {}
        with self._lock:
            self._supervisor.staff.awaited += 1
            try:
                self._supervisor.staff.news.wait_for(self._has_started_all, _START_LIMIT)
            finally:
                self._supervisor.staff.awaited -= 1
            workers = [worker for worker in self._state.workers.values() if worker.state is not WorkerState.ENDING]
        return {worker.contained.pid: WorkerHandle(worker.contained, worker.number) for worker in workers}

    @property
    def is_broken(self) -> bool:
        """True once no worker can be had any more."""
        return self._state.broken is not None

    @property
    def is_open(self) -> bool:
        """True while calls are taken: in the process that made it, until it is shut down or broken."""
        return self._owner == os.getpid() and not self._is_closing and not self._state.breaking

    @property
    def thread(self) -> threading.Thread | None:
        """The supervisor's thread, once there is one; None for a bare one, which there is without room for two."""
        if self._is_needed:
            self._is_up.wait(_START_LIMIT)
        return self._thread

    def _has_started_all(self) -> bool:
        return not (self._inbox or self._supervisor.is_taking_in or self._state.to_start())

    def _follow_size(self) -> None:
        """In the supervisor: of several wishes made at once, the one that shows is the one that counts."""
        self._supervisor.resize(self.max_workers)

    def _let_go(self) -> None:
        """In the delivery thread: finalizers are user code."""
        self._kept = None

    def _ask(self, wish: Callable[[], None]) -> None:
        """Tell the supervisor, and wait until it has done so; not for ever."""
        done = threading.Event()

        def do() -> None:
            wish()
            done.set()

        self._tell(do)
        if self._thread_id == threading.get_ident():
            return  # likewise
        deadline = time.monotonic() + _START_LIMIT
        while not done.wait(_PATIENCE) and not self._is_over.is_set() and time.monotonic() < deadline:
            pass

    def _tell(self, wish: Callable[[], None]) -> None:
        try:
            self._inbox.append(wish)
        finally:
            self._wakeup.set()

    def _refuse_late(self) -> NoReturn:
        """A shutdown was quicker than this call of ``submit``: nobody reads the inbox any more."""
        self._inbox.clear()
        raise RuntimeError("cannot schedule new futures after shutdown")

    def _check_submit(self) -> None:
        if self._is_closing or _exiting or self._state.broken is not None or self._owner != os.getpid():
            self._check_owner()
            self._check_open()

    def _check_owner(self) -> None:
        if self._owner != os.getpid():
            raise RuntimeError(
                f"this pool belongs to process {self._owner}; a forked child ({os.getpid()}) has to make its own"
            )

    def _check_open(self) -> None:
        if self._state.broken is not None:
            raise outcomes.copy_of(self._state.broken)
        if self._is_closing:
            raise RuntimeError("cannot schedule new futures after shutdown")
        if sys.is_finalizing() or _exiting:
            raise RuntimeError("cannot schedule new futures after interpreter shutdown")

    def _ensure_thread(self) -> None:
        """Have a supervisor.

        1. A caller starts a thread. 2. Ctrl-C strikes before or after. 3. Nobody knows whether it will come up. So the
        next caller starts one more, and the first to come up is the supervisor. The caller itself makes one call into
        C, which is done or not: ``Thread.start`` waits for the thread, and Ctrl-C in that wait may leave its lock in
        disorder. (``test_interrupt_while_the_supervisor_is_started_leaves_by_itself``)
        """
        if not self._is_started:
            _ = self._wakeup.fd  # here, where want of descriptors is the caller's error
            self._is_needed = True
            _open_pools.add(self)
            _thread.start_new_thread(self._bring_up, ())
            self._is_started = True

    def _ensure_end(self) -> None:
        """Have somebody bring a pool that is closed to its end, whose supervisor nobody may have started.

        Ctrl-C kept a caller from it, or there was no room for a thread, and no call was taken: it has nothing to do but
        to let go of its descriptors. Where there is still no room, or the interpreter ends, that is done here.
        (``test_pool_whose_supervisor_could_not_be_started_keeps_no_descriptor``)
        """
        if self._is_over.is_set():
            return
        try:
            self._ensure_thread()
        except RuntimeError:
            self._run()

    def _end_unused(self) -> None:
        """Let go of all that the pool has, which has taken no call; no lock is taken that a collection may strike."""
        _open_pools.discard(self)
        self._state.settings.lender.close()
        self._wakeup.close()
        self._is_over.set()

    def _bring_up(self) -> None:
        """In a bare thread, which Ctrl-C never strikes: start the one that supervises."""
        thread = threading.Thread(target=lambda: self._run(thread), name="safepool-supervisor", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # there is no room for one more, or the interpreter is ending
            self._run()

    def _run(self, thread: threading.Thread | None = None) -> None:
        """Supervise, in this thread; a bare one is never asked for its object, which would outlive it (CPython)."""
        if not self._only_one.acquire(blocking=False):
            return  # another thread that was started for this pool is at work
        self._thread, self._thread_id = thread, threading.get_ident()
        self._is_up.set()
        try:
            self._supervisor.run()
        finally:
            _open_pools.discard(self)
            self._state.settings.lender.close()
            self._delivery.put(self._let_go)
            self._delivery.stop(then=self._callbacks.stop)
            self._room.open()
            self._wakeup.close()  # an executor may be kept for long after its end, but not its descriptors
            self._is_over.set()
            # Now, not before: a finalizer that a collection runs here may ``join``, and must not wait for itself.
            self._thread_id = None  # another thread may get that number


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
