"""The public class: the standard library's signature, and what a safe pool adds."""

from __future__ import annotations

import logging
import multiprocessing
import multiprocessing.context
import threading
import weakref
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from functools import partial
from types import TracebackType
from typing import Any, Literal, ParamSpec, TypeVar, get_args, overload

from safepool._os import control_group, features, guardian
from safepool._os.contained import StrictBy
from safepool._os.controllers import have_controller
from safepool._os.janitor import janitor
from safepool._plain import replace
from safepool._pool.bundling import Bundling
from safepool._pool.cpus import cpu_count
from safepool._pool.door import (
    check_callable,
    check_choice,
    check_count,
    check_cpus,
    check_environment,
    check_flag,
    check_number,
    check_proc,
    check_reducers,
    check_seconds,
    check_size,
    check_terms,
)
from safepool._pool.future import SafeFuture
from safepool._pool.handle import WorkerHandle
from safepool._pool.leftovers import LeftoversPolicy
from safepool._pool.mapping import DEFAULT, MappingExecutor
from safepool._pool.pool import Pool
from safepool._pool.state import Settings
from safepool._pool.terms import Terms
from safepool._pool.thread_limits import thread_limits
from safepool._worker import payload
from safepool._worker.calls import CallPickler
from safepool._worker.launch import Preparation, spawn_window
from safepool._worker.segments import Lender
from safepool.errors import ContainmentError

__all__ = ["PoolView", "SafeProcessPoolExecutor"]

P = ParamSpec("P")
T = TypeVar("T")

_log = logging.getLogger("safepool")

_MOST_LENT = 64  # segments; each takes two descriptors

_NO_GROUP = "workers have guardians here, and no control groups"
_told: set[str] = set()  # why the kernel does not see to limits: said once

OnError = Literal["wait", "cancel", "kill"]
WhenFull = Literal["block", "raise"]
Containment = Literal["standard", "strict"]
Detached = Literal["end", "spare"]


class SafeProcessPoolExecutor(MappingExecutor, ProcessPoolExecutor):
    """A process pool in which nothing is left behind, and one task's fault stays one task's fault.

    Takes the place of ``concurrent.futures.ProcessPoolExecutor``, and is one to ``isinstance``, though nothing of it is
    used. Workers are spawned (never forked), on demand, up
    to ``max_workers``, each with its own session and process group. A worker that dies, however, fails the task it
    was running and no other; every process that the task had started is ended with it. If the host dies, however,
    the kernel ends the workers.

    Args:
        max_workers: The most workers at a time; by default the number of usable CPUs.
        mp_context: Accepted for compatibility. Workers are always spawned and contained.
        initializer: Called in each worker before its first task. If it fails three times in a row, the pool is
            broken: all its futures raise ``InitializerError`` from what the initializer raised.
        initargs: Arguments for it; locks, queues and connections of multiprocessing are welcome here.
        max_tasks_per_child: Tasks after which a worker is replaced by a fresh one; None for never.
        task_timeout: Seconds that a task may run, from the moment its worker begins with it; None for no limit. At
            the deadline the task is ended with every process it has started, and its future raises
            ``TaskTimeoutError`` with the stacks of where it hung.
        grace: Seconds between SIGTERM to the worker's process group and its end at a deadline. With 0 it is ended
            without a warning.
        retries: How often a task is run again after its worker died or its time was up. What the task itself raises
            is its outcome, and is never tried again.
        min_workers: Workers that stay, whatever ``idle_timeout`` says.
        spare_workers: Workers that stand by in addition to ``max_workers``, ready to take the place of one that
            dies or is ended.
        idle_timeout: Seconds after which a worker that has nothing to do leaves; None for never.
        soft_timeout: Seconds after which ``SoftTimeoutError`` is raised inside a task, once, so that it can finish in
            order; less than ``task_timeout``. None for never.
        memory_limit: Bytes that a task may hold, with its worker's interpreter and every process it has started, as a
            number or as text with a unit ("2GiB"). It is looked at ten times a second while the task runs; above it,
            the task is ended and its future raises ``TaskMemoryError``. With ``containment="strict"`` the kernel sees
            to it, where it can, so that it is never exceeded. None for no limit.
        cpu_limit: CPUs whose time each worker may use with everything that it has started, such as 1.5: the kernel
            has it wait when it has used up its share of a tenth of a second. Needs ``containment="strict"``. None for
            no limit.
        measure_memory: Measure what each task holds at its highest (``future.peak_memory``). Costs a task some 30
            microseconds, and that none is sent ahead to a worker that is busy.
        max_worker_memory: Bytes that a worker itself may hold between two tasks; one that holds more is replaced by a
            fresh one, as after ``max_tasks_per_child``. None for no limit.
        finalizer: Called in a worker before it leaves in order: at the end of the pool, when it is worn, when it has
            been idle for too long. Not when it dies or is ended.
        finalargs: Arguments for it.
        exit_timeout: Seconds for finalizer and exit handlers together, after which a worker that leaves is ended.
        max_pending: The most tasks that may be submitted without having begun; None for any number.
        when_full: What ``submit`` does where there are so many: "block" until there is room, or "raise"
            ``QueueFullError``.
        leftovers: What becomes of processes that a task has left running when it came to its end by itself: "keep"
            them until the worker leaves, "warn" of them (``LeftoverWarning``, and ``future.leftovers``), or "end" them
            before the future is settled. Those that the initializer has started are left alone.
        containment: "strict" ends also processes that make a session of their own and clear their environment. Each
            worker has a control group (version 2) of its own, in which the kernel keeps whatever a task starts, if this
            program may divide its own; else a small process above it, to which every orphan comes. "standard" does
            without either.
        detached: What becomes of a process that has made a session of its own (``setsid``, ``start_new_session=True``):
            "end" it with its worker as any other, wherever it went, or "spare" it, whatever happens to worker and
            host, with all that it starts: the way to leave something running on purpose. What stays in the worker's
            session is ended all the same. Not with ``containment="strict"``.
        on_error: What the ``with`` block does when an exception leaves it: "wait" for all work, as the standard
            library does, "cancel" what has not started, or "kill" what runs, too.
        env: Environment variables of the workers, in addition to the host's.
        job_reducers: How calls are pickled: reduction functions by type, for objects of exactly that type, wherever
            in the function, its arguments, or the initializer's they occur. One takes the object and returns what
            its ``__reduce__`` could; it goes before that, and before ``copyreg`` and multiprocessing's reducers.
        result_reducers: The same for results and exceptions. They travel to the workers.
        inner_max_num_threads: The most threads that each of the usual libraries for numbers (OpenMP, OpenBLAS, MKL,
            BLIS, Accelerate, Numba, numexpr) starts in a worker: sets ``OMP_NUM_THREADS`` and its kin there, but
            for those that ``env`` sets itself. None leaves the environment as it is.

    Raises:
        TypeError: An argument has the wrong type; the message names it.
        ValueError: An argument is out of range; the message names it.
        RuntimeError: The main module is being imported by a worker: the script lacks ``if __name__ == "__main__"``.
            Or something is asked for that needs /proc (a limit of memory, an eye on leftovers), and there is none.
        ContainmentError: Strict containment cannot be had here; the message says why, and how to get it.
        OSError: Whether it can be had cannot be found out just now, for want of descriptors, memory or processes.

    Attributes:
        strict_by: What keeps strict containment in this pool: a control "group" or a "guardian" for each worker. None
            where containment is standard.
    """

    __module__ = "safepool"

    def __init__(
        self,
        max_workers: int | None = None,
        mp_context: multiprocessing.context.BaseContext | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        *,
        max_tasks_per_child: int | None = None,
        task_timeout: float | None = None,
        grace: float = 0.0,
        retries: int = 0,
        min_workers: int = 0,
        spare_workers: int = 0,
        idle_timeout: float | None = None,
        soft_timeout: float | None = None,
        memory_limit: int | str | None = None,
        cpu_limit: float | None = None,
        measure_memory: bool = False,
        max_worker_memory: int | str | None = None,
        finalizer: Callable[..., object] | None = None,
        finalargs: tuple[Any, ...] = (),
        exit_timeout: float = 5.0,
        max_pending: int | None = None,
        when_full: WhenFull = "block",
        leftovers: LeftoversPolicy = "keep",
        containment: Containment = "standard",
        detached: Detached = "end",
        on_error: OnError = "wait",
        env: Mapping[str, str] | None = None,
        job_reducers: Mapping[type[Any], Callable[[Any], Any]] | None = None,
        result_reducers: Mapping[type[Any], Callable[[Any], Any]] | None = None,
        inner_max_num_threads: int | None = None,
    ) -> None:
        features.announce()
        size = check_count("max_workers", max_workers) or cpu_count()
        self._terms = check_terms(
            task_timeout=task_timeout, soft_timeout=soft_timeout, memory_limit=memory_limit, retries=retries
        )
        self._last_terms = self._terms
        self._on_error = check_choice("on_error", on_error, get_args(OnError))
        self._min_workers = check_number("min_workers", min_workers)
        _check_room(min_workers, size)
        if mp_context is not None and not isinstance(mp_context, multiprocessing.context.BaseContext):
            raise TypeError(f"mp_context must be a multiprocessing context or None, not {mp_context!r}")
        self._mp_context = mp_context or multiprocessing.get_context("spawn")
        preparation = Preparation()
        self._imports_main = preparation.imports_main
        packers = check_reducers("job_reducers", job_reducers)
        dumps = partial(payload.dumps if preparation.imports_main else payload.dumps_by_value, reducers=packers)
        reducers = check_reducers("result_reducers", result_reducers)
        calls = (
            _check_call("initializer", initializer, "initargs", initargs),
            _check_call("finalizer", finalizer, "finalargs", finalargs),
        )
        outfit, fds = _pickle_outfit(reducers, *calls, dumps)
        limits = thread_limits(check_count("inner_max_num_threads", inner_max_num_threads))
        is_strict = check_choice("containment", containment, get_args(Containment)) == "strict"
        lender = Lender(_MOST_LENT)
        settings = Settings(
            max_tasks_per_child=check_count("max_tasks_per_child", max_tasks_per_child),
            min_workers=min_workers,
            spare_workers=check_number("spare_workers", spare_workers),
            idle_timeout=check_seconds("idle_timeout", idle_timeout),
            grace=check_seconds("grace", grace, allow_zero=True) or 0.0,
            environment={**limits, **check_environment("env", env)},
            exit_timeout=_check_exit_timeout(exit_timeout),
            max_worker_memory=check_size("max_worker_memory", max_worker_memory),
            max_pending=check_count("max_pending", max_pending),
            when_full=check_choice("when_full", when_full, get_args(WhenFull)),
            leftovers=_check_leftovers(leftovers),
            strict_by=None,
            spares_detached=_spares_detached(detached, is_strict=is_strict),
            cpu_limit=_check_cpu_limit(cpu_limit, is_strict=is_strict),
            measures_memory=_check_measure_memory(measure_memory),
            outfit=outfit,
            inherited_fds=fds,
            lender=lender,
            pickler=CallPickler(dumps, preparation.imports_main, packers, lender),
        )
        # Last of all, since it may start a process: no argument is wrong.
        self.strict_by: StrictBy | None
        self.strict_by, self._no_group = _find_strict_way() if is_strict else (None, "")
        settings = replace(settings, strict_by=self.strict_by)
        _have_cpu_controller(settings, self._no_group)
        self._have_memory_controller(self._terms)
        self._pool = Pool(settings, size, preparation, calls)
        self._finalizer = weakref.finalize(self, self._pool.abandon)
        self._finalizer.atexit = False  # the exit of the interpreter is the pools' own business

    @overload
    def submit(
        self, fn: Callable[..., T], /, *args: Any, task_timeout: float | None, **kwargs: Any
    ) -> SafeFuture[T]: ...
    @overload
    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> SafeFuture[T]: ...
    def submit(  # type: ignore[misc]  # a ParamSpec may not be joined by a keyword: fn's own is not to be had this way
        self, fn: Callable[..., T], /, *args: Any, task_timeout: float | None = DEFAULT, **kwargs: Any
    ) -> SafeFuture[T]:
        """Have a worker call ``fn(*args, **kwargs)``; return its future.

        Args:
            fn: What to call. Pickled by reference where workers can import it, else by value.
            *args: Its arguments.
            **kwargs: Its keyword arguments.
            task_timeout: Seconds that the task may run; ``...`` for the pool's own limit, None for no limit. (To
                pass a keyword of this name to ``fn``, submit through ``options()``.)

        Raises:
            TypeError: ``fn`` cannot be called, or ``task_timeout`` is no number.
            ValueError: ``task_timeout`` is not above zero.
            RuntimeError: The pool is shut down, or belongs to the process that forked this one.
            InitializerError: No worker could be made ready.
            QueueFullError: ``max_pending`` tasks wait already, in a pool with ``when_full="raise"``.

        A call that cannot be pickled is not raised here: its future gets the error.
        """
        check_callable("fn", fn)
        terms = self._terms if task_timeout is DEFAULT else self._terms_within(task_timeout)
        return self._pool.submit(fn, args, kwargs, terms)

    def options(
        self,
        *,
        timeout: float | None = DEFAULT,
        soft_timeout: float | None = DEFAULT,
        memory_limit: int | str | None = DEFAULT,
        retries: int = DEFAULT,
        priority: int = DEFAULT,
    ) -> PoolView:
        """Return a view of this pool on other terms.

        The view is an Executor itself, for libraries that take one, and its ``submit`` passes every keyword to the
        function.

        Args:
            timeout: Seconds that each task may run; None for no limit.
            soft_timeout: Seconds after which a task is warned; None for never.
            memory_limit: Bytes that a task may hold with all that it starts; None for no limit.
            retries: How often a task is run again after its worker died or its time was up.
            priority: The lowest number goes first; 0 unless said otherwise.
        """
        return PoolView(self, self._terms).options(
            timeout=timeout, soft_timeout=soft_timeout, memory_limit=memory_limit, retries=retries, priority=priority
        )

    def resize(self, max_workers: int) -> None:
        """Have at most ``max_workers`` workers from now on; no running task is touched.

        More workers are started as waiting tasks call for them. If there are too many, those that have nothing to do
        leave now, and others when they have finished their task. Returns at once.

        Args:
            max_workers: The most workers at a time; at least ``min_workers``.

        Raises:
            TypeError: ``max_workers`` is no integer.
            ValueError: ``max_workers`` is less than one, or less than ``min_workers``.
            RuntimeError: The pool is shut down, or belongs to the process that forked this one.
            InitializerError: No worker could be made ready.
        """
        size = check_number("max_workers", max_workers, least=1)
        _check_room(self._min_workers, size)
        self._pool.resize(size)

    def shutdown(
        self, wait: bool = True, *, cancel_futures: bool = False, timeout: float | None = None, kill: bool = False
    ) -> None:
        """Take no more calls, finish what there is, and let the workers leave.

        Args:
            wait: Return only when all of that is done. Otherwise it is done in the background.
            cancel_futures: Cancel what has not started.
            timeout: Seconds for the work to be finished; what still runs then is ended (``TaskKilledError``), what
                still waits is cancelled.
            kill: The same, now.

        Ctrl-C while this waits ends the pool as ``kill`` does, and raises KeyboardInterrupt.
        """
        limit = check_seconds("timeout", timeout, allow_zero=True)
        self._pool.close(cancel=cancel_futures, kill=kill, timeout=limit, reason="shutdown")
        self._finalizer.detach()
        if wait:
            self._join()

    def terminate_workers(self) -> None:
        """The same as ``kill_workers``; the name is Python 3.14's.

        No SIGTERM comes first: a program that wants its tasks to have time has ``shutdown(timeout=...)`` and ``grace``.
        """
        self._pool.close(kill=True, reason="terminate_workers()")
        self._join()

    def kill_workers(self) -> None:
        """End the pool now: running tasks get ``TaskKilledError``, waiting ones are cancelled; as in Python 3.14."""
        self._pool.close(kill=True, reason="kill_workers()")
        self._join()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> Literal[False]:
        """Shut down: wait for all work, as the standard library does, or do as ``on_error`` says.

        Ctrl-C or an exit in the block always ends the pool at once.
        """
        on_error = "wait" if kind is None else self._on_error if issubclass(kind, Exception) else "kill"
        self.shutdown(cancel_futures=on_error == "cancel", kill=on_error == "kill")
        return False

    @property
    def _max_workers(self) -> int:
        """The most workers at a time; private in the standard library, and read by many programs all the same."""
        return self._pool.max_workers

    @property
    def _processes(self) -> dict[int, WorkerHandle]:  # type: ignore[override]  # there a variable; nobody sets ours
        """The workers by process id; private in the standard library, and used by many programs all the same."""
        return self._pool.handles()

    @property
    def _broken(self) -> bool:  # type: ignore[override]
        """True if the pool is of no further use."""
        return self._pool.is_broken

    @property
    def _executor_manager_thread(self) -> threading.Thread | None:  # type: ignore[override]
        """The thread that runs the pool, under the standard library's name for it."""
        return self._pool.thread

    def _join(self) -> None:
        try:
            self._pool.join()
        except KeyboardInterrupt:
            self._pool.close(kill=True, reason="Ctrl-C")
            self._pool.join()
            raise

    def _have_memory_controller(self, terms: Terms) -> None:
        """Have the kernel see to limits of memory in a strict pool; where it cannot, say so, and look at them."""
        if self.strict_by is not None and terms.memory_limit is not None:
            reason = _have_controller("memory") if self.strict_by == "group" else self._no_group
            if reason and reason not in _told:
                _told.add(reason)
                _log.warning("memory limits are looked at ten times a second, since the kernel cannot: %s", reason)

    def _terms_within(self, timeout: float | None) -> Terms:
        """Return the pool's terms with another limit; most calls that have one have the same one as the call before."""
        last = self._last_terms
        if type(timeout) not in (int, float) or timeout != last.timeout:
            last = self._last_terms = check_terms(self._terms, task_timeout=timeout)
        return last

    def _bundling(self, timeout: Any, fn: Callable[..., Any]) -> Bundling | None:
        if type(self).submit is not _own_submit or "submit" in vars(self):
            return None  # programs and libraries that have replaced it are to see each call
        terms = self._terms if timeout is DEFAULT else self._terms_within(timeout)
        return self._pool.bundling(fn, terms, partial(self._submit_timed, timeout, fn))

    def _submit_timed(self, timeout: Any, fn: Callable[..., Any], args: tuple[Any, ...]) -> Future[Any]:
        if timeout is DEFAULT:  # through ``submit``, which programs and libraries may have replaced
            return self.submit(fn, *args)
        return self.submit(fn, *args, task_timeout=timeout)


_own_submit = SafeProcessPoolExecutor.submit


class PoolView(MappingExecutor):
    """A pool on other terms; made by ``SafeProcessPoolExecutor.options``."""

    __module__ = "safepool"

    def __init__(self, executor: SafeProcessPoolExecutor, terms: Terms) -> None:
        self._executor = executor
        self._terms = terms

    @property
    def _max_workers(self) -> int:
        return self._executor._max_workers

    def options(
        self,
        *,
        timeout: float | None = DEFAULT,
        soft_timeout: float | None = DEFAULT,
        memory_limit: int | str | None = DEFAULT,
        retries: int = DEFAULT,
        priority: int = DEFAULT,
    ) -> PoolView:
        """Return a view that differs from this one in what is given here."""
        given = {
            "timeout": timeout,
            "soft_timeout": soft_timeout,
            "memory_limit": memory_limit,
            "retries": retries,
            "priority": priority,
        }
        changes = {name: value for name, value in given.items() if value is not DEFAULT}
        terms = check_terms(self._terms, **changes)
        if "memory_limit" in changes:
            self._executor._have_memory_controller(terms)
        return PoolView(self._executor, terms)

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> SafeFuture[T]:
        """Have a worker call ``fn(*args, **kwargs)`` on this view's terms; return its future."""
        check_callable("fn", fn)
        return self._executor._pool.submit(fn, args, kwargs, self._terms)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Shut the pool itself down."""
        self._executor.shutdown(wait, cancel_futures=cancel_futures)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> Literal[False]:
        """Shut the pool itself down, as leaving its own ``with`` block does."""
        return self._executor.__exit__(kind, error, trace)

    def _bundling(self, timeout: Any, fn: Callable[..., Any]) -> Bundling | None:
        terms = self._terms if timeout is DEFAULT else replace(self._terms, timeout=timeout)
        return self._executor._pool.bundling(fn, terms, partial(self._submit_timed, timeout, fn))

    def _submit_timed(self, timeout: Any, fn: Callable[..., Any], args: tuple[Any, ...]) -> Future[Any]:
        view = self if timeout is DEFAULT else PoolView(self._executor, replace(self._terms, timeout=timeout))
        return view.submit(fn, *args)


def _check_room(min_workers: int, max_workers: int) -> None:
    if min_workers > max_workers:
        raise ValueError(f"min_workers must not exceed max_workers ({max_workers}), not {min_workers!r}")


def _check_leftovers(leftovers: LeftoversPolicy) -> LeftoversPolicy:
    policy: LeftoversPolicy = check_choice("leftovers", leftovers, get_args(LeftoversPolicy))
    if policy != "keep":
        check_proc("leftovers", policy)
    return policy


def _check_measure_memory(measure_memory: bool) -> bool:
    if check_flag("measure_memory", measure_memory):
        check_proc("measure_memory", measure_memory)
    return measure_memory


def _find_strict_way() -> tuple[StrictBy, str]:
    """Choose what keeps containment, and say why it is no control group, which costs nothing but the right to make it.

    What fails for want of something is the caller's error, as a worker's start would be: it says nothing of this
    machine, and is tried again with the next pool.
    """
    try:
        control_group.make_sure()
    except OSError as no_group:
        if features.is_shortage(no_group):
            raise
        try:
            guardian.make_sure()
        except OSError as error:
            if features.is_shortage(error):
                raise
            raise ContainmentError(reason=f"{no_group}; {error}") from error
        return "guardian", f"{_NO_GROUP}: {no_group}"
    return "group", ""


def _spares_detached(detached: Detached, *, is_strict: bool) -> bool:
    if check_choice("detached", detached, get_args(Detached)) == "end":
        return False
    if is_strict:
        raise ValueError("detached must not be 'spare' with containment=\"strict\", which spares nobody")
    return True


def _check_cpu_limit(cpu_limit: float | None, *, is_strict: bool) -> float | None:
    cpus = check_cpus("cpu_limit", cpu_limit)
    if cpus is None:
        return None
    if not is_strict:
        raise ValueError(f'cpu_limit needs containment="strict", without which it cannot be {cpu_limit!r}')
    return cpus


def _have_cpu_controller(settings: Settings, no_group: str) -> None:
    if settings.cpu_limit is None:
        return
    reason = _have_controller("cpu") if settings.strict_by == "group" else no_group
    if reason:
        raise ContainmentError(reason=reason, wanted="cpu_limit")


def _have_controller(name: str) -> str:
    """Have the control groups of workers made with this controller; return why that cannot be, or nothing."""
    try:
        janitor().note_house(control_group.house_of_this_process())
        janitor().ensure()  # first: it undoes the rest in the end, whenever that comes
        have_controller(name)
    except OSError as error:
        if features.is_shortage(error):
            raise
        return str(error)
    return ""


def _check_exit_timeout(exit_timeout: float) -> float:
    seconds = check_seconds("exit_timeout", exit_timeout, allow_zero=True)
    if seconds is None:
        raise TypeError("exit_timeout must be a number of seconds, not None: the end of a pool must come")
    return seconds


def _check_call(
    name: str, fn: Callable[..., object] | None, name_of_args: str, args: tuple[Any, ...]
) -> payload.Call | None:
    if fn is None:
        return None
    if not callable(fn):
        raise TypeError(f"{name} must be callable or None, not {fn!r}")
    if not isinstance(args, Iterable):
        raise TypeError(f"{name_of_args} must be a tuple of arguments, not {args!r}")
    return fn, tuple(args)


def _pickle_outfit(
    reducers: payload.Reducers,
    initializer: payload.Call | None,
    finalizer: payload.Call | None,
    dumps: Callable[[object], bytes],
) -> tuple[bytes, tuple[int, ...]]:
    """Pickle once what every worker is to be equipped with, and the descriptors that it needs for that."""
    if not (reducers or initializer or finalizer):
        return b"", ()
    with spawn_window() as window:
        # All at once: a queue that both calls are given is one queue in the worker, too, with one set of descriptors.
        outfit = dumps((reducers, initializer, finalizer))
    return outfit, tuple(window.fds)
