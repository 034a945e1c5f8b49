"""Every exception that safepool raises on its own account.

Each stays catchable as the standard library's: code written for ``ProcessPoolExecutor`` that catches
``BrokenProcessPool`` or ``TimeoutError`` goes on working. A task's own exception is never wrapped: it arrives as
it was raised, with the worker's traceback as its ``__cause__`` (the standard library's own class for it).

All of them survive pickling (a nested pool's error travels through the outer pool), which is why the fields are
passed to ``__init__`` by name and restored by ``__reduce__``.
"""

from __future__ import annotations

import concurrent.futures
import queue
import signal
from concurrent.futures.process import BrokenProcessPool
from typing import Any, NamedTuple

__all__ = [
    "ContainmentError",
    "EndedProcess",
    "InitializerError",
    "LeakError",
    "LeftoverWarning",
    "QueueFullError",
    "SoftTimeoutError",
    "TaskKilledError",
    "TaskMemoryError",
    "TaskTimeoutError",
    "TransferError",
    "WorkerDiedError",
]

_MOST_SHOWN = 5  # ended processes that a message lists
_MOST_COMMAND = 60  # characters of each one's command line
_MIB = 1 << 20
_STRICT = 'containment="strict"'
_NEEDS_GROUP = "a control group (version 2) that this program may divide"
_NEEDS_EITHER = (
    f"{_NEEDS_GROUP}, or else processes that orphans come to (prctl, PR_SET_CHILD_SUBREAPER), and neither can be had"
)
_OTHERWISE = (
    "The latter is mostly refused by filters of system calls: allow prctl. Or use "
    'containment="standard", which misses only processes that make a session of their own and also clear their '
    "environment."
)

# One class from Python 3.11 on; two unrelated ones before, and callers catch either.
_Timeout: tuple[type[BaseException], ...] = tuple(dict.fromkeys((concurrent.futures.TimeoutError, TimeoutError)))


class EndedProcess(NamedTuple):
    """A process that was ended together with a worker."""

    pid: int
    command: str

    def __str__(self) -> str:
        shown = self.command if len(self.command) <= _MOST_COMMAND else f"{self.command[:_MOST_COMMAND]}..."
        return f"{shown} (pid {self.pid})"


class _Described:
    """Exceptions that are made of named facts: one message, attributes, and a pickle that keeps both."""

    _facts: dict[str, Any]

    def _describe(self, message: str, facts: dict[str, Any]) -> None:
        self._facts = facts
        self.args = (message,)
        for name, fact in facts.items():
            setattr(self, name, fact)

    def __reduce__(self) -> tuple[Any, ...]:
        notes = getattr(self, "__notes__", None)
        return _rebuild, (type(self), self._facts), {"__notes__": notes} if notes else None


def _rebuild(kind: type[Any], facts: dict[str, Any]) -> Any:
    return kind(**facts)


class WorkerDiedError(_Described, BrokenProcessPool):
    """The worker that was running this task died: a crash, an exit, a signal from outside, the OOM killer.

    It is the outcome of that one task. The pool goes on with a fresh worker, and no other task is affected:
    here this class differs from its base, after which the standard library's pool is unusable.

    You do not get this when the task raised (you get what it raised), when its deadline passed
    (``TaskTimeoutError``) or when it was ended on request (``TaskKilledError``).

    Attributes:
        task: The call, with its arguments shortened, or None if the worker had none.
        pid: Process id of the worker, which is gone.
        exitcode: Exit status, or minus the number of the signal that ended it; None if it could not be read.
        elapsed: Seconds from the task's start to the death, or None.
        ended: Processes that were ended with the worker.
        oom: True if the kernel's OOM killer was active in this control group meanwhile; None if not known.
        detail: What else is known, as text.
        attempts: How often the task was begun, with ``retries``.
    """

    task: str | None
    pid: int | None
    exitcode: int | None
    elapsed: float | None
    ended: tuple[EndedProcess, ...]
    oom: bool | None
    detail: str
    attempts: int

    def __init__(
        self,
        *,
        task: str | None = None,
        pid: int | None = None,
        exitcode: int | None = None,
        elapsed: float | None = None,
        ended: tuple[EndedProcess, ...] = (),
        oom: bool | None = None,
        detail: str = "",
        attempts: int = 1,
    ) -> None:
        facts = {
            "task": task,
            "pid": pid,
            "exitcode": exitcode,
            "elapsed": elapsed,
            "ended": ended,
            "oom": oom,
            "detail": detail,
            "attempts": attempts,
        }
        if pid is None:
            lines = [f"{task} was not run."]
        else:
            where = f" while it ran {task}" if task else ""
            after = f" after {elapsed:.3g} s" if elapsed is not None else ""
            lines = [f"worker {pid} {describe_exit(exitcode)}{where}{after}."]
        if detail:
            lines.append(detail)
        if oom:
            lines.append("The kernel's OOM killer was active meanwhile: it most likely ran out of memory.")
        if attempts > 1:
            lines.append(f"It was attempt {attempts}, the last.")
        lines.append(_describe_ended(ended))
        if task is not None:
            lines.append("Only this task failed; the pool goes on with a fresh worker.")
        self._describe(" ".join(line for line in lines if line), facts)


class TaskTimeoutError(_Described, *_Timeout):  # type: ignore[misc]  # mypy: bases are chosen at run time
    """The task was still running at its deadline, and was ended together with every process it had started.

    The clock starts when the worker begins with the task, not when it is submitted.

    You do not get this from ``future.result(timeout)``, which stops waiting but ends nothing
    (that is the plain ``TimeoutError``).

    Attributes:
        task: The call, with its arguments shortened.
        pid: Process id of the worker, which is gone.
        timeout: The limit in seconds.
        elapsed: Seconds from the task's start until the worker was ended.
        stack: Python stacks of all threads of the worker at the deadline; empty if none could be had.
        ended: Processes that were ended with the worker.
        attempts: How often the task was begun, with ``retries``.
        peak_memory: As of the future; None unless the pool measures it.
    """

    task: str
    pid: int
    timeout: float
    elapsed: float
    stack: str
    ended: tuple[EndedProcess, ...]
    attempts: int
    peak_memory: int | None

    def __init__(
        self,
        *,
        task: str,
        pid: int,
        timeout: float,
        elapsed: float,
        stack: str = "",
        ended: tuple[EndedProcess, ...] = (),
        attempts: int = 1,
        peak_memory: int | None = None,
    ) -> None:
        facts = {
            "task": task,
            "pid": pid,
            "timeout": timeout,
            "elapsed": elapsed,
            "stack": stack,
            "ended": ended,
            "attempts": attempts,
            "peak_memory": peak_memory,
        }
        lines = [f"{task} was still running after its {timeout:g} s; worker {pid} was ended after {elapsed:.3g} s."]
        if peak_memory is not None:
            lines.append(f"It had held up to {peak_memory / _MIB:.0f} MiB.")
        if ended:
            lines.append(_describe_ended(ended))
        if attempts > 1:
            lines.append(f"It was attempt {attempts}, the last.")
        lines.append("The pool goes on with a fresh worker.")
        message = " ".join(lines)
        if stack:
            message += f"\nWhere it hung:\n{stack.rstrip()}"
        self._describe(message, facts)


class SoftTimeoutError(_Described, *_Timeout):  # type: ignore[misc]  # mypy: bases are chosen at run time
    """Raised inside a task that has run for its soft timeout, for the task to catch and to finish in order.

    It is raised once, in the worker's main thread, between two steps of Python code; a system call that waits is
    interrupted for it. A task that does not catch it fails with it, as with any other exception of its own.

    You do not get this while the task is in native code that does not return to Python, nor where Python drops
    exceptions (``__del__``, callbacks from C): what ends such a task is ``task_timeout``.

    Attributes:
        timeout: The soft limit in seconds.
        elapsed: Seconds since the task's start.
    """

    timeout: float
    elapsed: float

    def __init__(self, *, timeout: float, elapsed: float) -> None:
        message = f"the task has used up its soft timeout of {timeout:g} s: it has run for {elapsed:.3g} s"
        self._describe(message, {"timeout": timeout, "elapsed": elapsed})


class TaskMemoryError(_Described, MemoryError):
    """The task and the processes it had started held more memory than its limit, and were ended.

    Memory is looked at ten times a second, less often on a machine with hundreds of processes. Pages that they share
    count once, pages that others share in part; what the interpreter and the imported modules take counts, too.
    In a pool with ``containment="strict"`` whose control groups have the memory controller the kernel sees to it: they
    held exactly the limit, asked for more, and were killed for that (``by_kernel``), before any stack could be had.

    You do not get this when the task ran out of memory by itself (that is its own ``MemoryError``), or when the kernel
    ended its worker for want of memory elsewhere, as on the whole machine (``WorkerDiedError`` with ``oom``).

    Attributes:
        task: The call, with its arguments shortened.
        pid: Process id of the worker, which is gone.
        limit: The limit in bytes.
        used: Bytes that the worker and everything beneath it held; where the kernel ended it, the limit.
        elapsed: Seconds from the task's start until the worker was ended.
        stack: Python stacks of all threads of the worker at that moment; empty if none could be had.
        ended: Processes that were ended with the worker; not those that the kernel had ended already.
        peak_memory: As of the future; None unless the pool measures it.
        by_kernel: The kernel held it to its limit, and ended it.
    """

    task: str
    pid: int
    limit: int
    used: int
    elapsed: float
    stack: str
    ended: tuple[EndedProcess, ...]
    peak_memory: int | None
    by_kernel: bool

    def __init__(
        self,
        *,
        task: str,
        pid: int,
        limit: int,
        used: int,
        elapsed: float,
        stack: str = "",
        ended: tuple[EndedProcess, ...] = (),
        peak_memory: int | None = None,
        by_kernel: bool = False,
    ) -> None:
        facts = {
            "task": task,
            "pid": pid,
            "limit": limit,
            "used": used,
            "elapsed": elapsed,
            "stack": stack,
            "ended": ended,
            "peak_memory": peak_memory,
            "by_kernel": by_kernel,
        }
        held, who = f"{used / _MIB:.0f} MiB", " by the kernel" if by_kernel else ""
        lines = [
            f"{task} held {held}, all that it may, and asked for more."
            if by_kernel
            else f"{task} held {held}, above its limit of {limit / _MIB:.0f} MiB.",
            f"Worker {pid} was ended{who} after {elapsed:.3g} s.",
            _describe_ended(ended),
            "The pool goes on with a fresh worker.",
        ]
        message = " ".join(line for line in lines if line)
        if stack:
            message += f"\nWhere it was:\n{stack.rstrip()}"
        self._describe(message, facts)


class QueueFullError(_Described, queue.Full):
    """``max_pending`` tasks wait for a worker already, and the pool was made with ``when_full="raise"``.

    Nothing was submitted, and the pool goes on: try again when a task has been started.

    Attributes:
        max_pending: The most tasks that may wait.
    """

    max_pending: int

    def __init__(self, *, max_pending: int) -> None:
        message = f"{max_pending} tasks wait for a worker already (max_pending); this one was not submitted"
        self._describe(message, {"max_pending": max_pending})


class LeftoverWarning(RuntimeWarning):
    """A task that has come to its end by itself left processes running in its worker's tree (``leftovers="warn"``)."""


class TaskKilledError(_Described, RuntimeError):
    """The running task was ended on request: ``future.kill()``, ``shutdown(kill=True)``, ``kill_workers()``.

    You do not get this for a task that had not started: that one is cancelled (``CancelledError``).

    Attributes:
        task: The call, with its arguments shortened.
        pid: Process id of the worker, which is gone.
        reason: Who asked for it.
        ended: Processes that were ended with the worker.
    """

    task: str
    pid: int
    reason: str
    ended: tuple[EndedProcess, ...]

    def __init__(self, *, task: str, pid: int, reason: str, ended: tuple[EndedProcess, ...] = ()) -> None:
        facts = {"task": task, "pid": pid, "reason": reason, "ended": ended}
        lines = [f"{task} was ended on request ({reason}) with its worker {pid}.", _describe_ended(ended)]
        self._describe(" ".join(line for line in lines if line), facts)


class InitializerError(_Described, BrokenProcessPool):
    """No worker could be made ready: the initializer, or the import of the main module, failed again and again.

    The pool has stopped trying: waiting tasks get this error, and so does every later ``submit``.
    The exception that the initializer raised is the ``__cause__``.

    You do not get this when a worker could not be started for want of file descriptors, memory or processes;
    then the waiting tasks get a ``WorkerDiedError`` and the pool tries again at the next ``submit``.

    Attributes:
        attempts: How many workers in a row failed; 0 if not even one could be started, nor ever will.
        reason: The last failure, as text.
    """

    attempts: int
    reason: str

    def __init__(self, *, attempts: int, reason: str) -> None:
        if attempts:
            what = f"{attempts} workers in a row could not be made ready; the last one: {reason}."
            remedy = "mend the initializer (or the main module) and make a new pool."
        else:
            what, remedy = f"No worker can be started: {reason}.", "no other will fare better."
        message = f"{what} The pool is broken: {remedy}"
        self._describe(message, {"attempts": attempts, "reason": reason})


class ContainmentError(_Described, RuntimeError):
    """``containment="strict"`` or ``cpu_limit`` was asked for, and this machine does not allow it; no pool was made.

    You do not get this with ``containment="standard"``, nor once a strict pool has been made.

    Attributes:
        reason: What could not be done, and what the system said.
        wanted: What was asked for.
    """

    reason: str
    wanted: str

    def __init__(self, *, reason: str, wanted: str = _STRICT) -> None:
        is_strict = wanted == _STRICT
        what = _NEEDS_EITHER if is_strict else _NEEDS_GROUP
        otherwise = _OTHERWISE if is_strict else f"Or do without {wanted}."
        message = (
            f"{wanted} needs {what}: {reason}. For a control group start the program with `systemd-run --user --scope "
            "-p Delegate=yes PROGRAM`; in a container, have /sys/fs/cgroup mounted writable (Docker: --privileged, or "
            f"--cgroupns=private with a writable mount). {otherwise}"
        )
        self._describe(message, {"reason": reason, "wanted": wanted})


class LeakError(_Described, AssertionError):
    """Processes that were started within a block of ``no_leaks()`` were still alive after it.

    You do not get this when the block itself raised: its own exception passes on.

    Attributes:
        processes: Who was left when patience was over.
        patience: Seconds for which those who were just leaving were waited for.
        ended: Who was ended then, with ``end=True``; what was beneath the others is among them.
    """

    processes: tuple[EndedProcess, ...]
    patience: float
    ended: tuple[EndedProcess, ...]

    def __init__(
        self, *, processes: tuple[EndedProcess, ...], patience: float, ended: tuple[EndedProcess, ...] = ()
    ) -> None:
        one = len(processes) == 1
        what = "1 process that was" if one else f"{len(processes)} processes that were"
        lines = [f"{what} started within the block {'is' if one else 'are'} still alive {patience:g} s after it:"]
        lines += [f"  {process}" for process in processes]  # each of them: what is not named cannot be looked for
        lines.append(f"Ended: {', '.join(map(str, ended))}." if ended else "Nothing was ended: end=True would do that.")
        facts = {"processes": processes, "patience": patience, "ended": ended}
        self._describe("\n".join(lines), facts)


class TransferError(_Described, BrokenProcessPool):
    """An outcome could not be carried from the worker to the host.

    A task's exception whose class cannot be rebuilt from its arguments, or a result whose unpickling raises in the
    host. The task did run. The worker is unharmed, and the pool goes on; the standard library's breaks, hence the base.

    You do not get this when a call, an argument or a result cannot be *pickled*: then the future gets the
    pickling error itself, as with the standard library.

    Attributes:
        task: The call, with its arguments shortened.
        reason: What went wrong with the transfer.
        original: What was to be carried, as text.
    """

    task: str
    reason: str
    original: str

    def __init__(self, *, task: str, reason: str, original: str) -> None:
        message = f"{task} ended with {original}, which could not be rebuilt in the host: {reason}"
        self._describe(message, {"task": task, "reason": reason, "original": original})


def describe_exit(exitcode: int | None) -> str:
    """Say in words how a process ended: "was ended by SIGKILL", "exited with status 3"."""
    if exitcode is None:
        return "ended (exit status unknown)"
    if exitcode >= 0:
        return f"exited with status {exitcode}"
    try:
        name = signal.Signals(-exitcode).name
    except ValueError:  # a realtime signal has no name in the enum
        name = f"signal {-exitcode}"
    return f"was ended by {name}"


def _describe_ended(ended: tuple[EndedProcess, ...]) -> str:
    if not ended:
        return ""
    shown = list(map(str, ended[:_MOST_SHOWN]))
    if len(ended) > _MOST_SHOWN:
        shown.append(f"and {len(ended) - _MOST_SHOWN} more")
    return f"Ended with it: {', '.join(shown)}."
