"""Outcomes: from what a worker sent, or from its death, to what the future says.

What makes an outcome runs user code (unpickling, ``__repr__``), and therefore in the delivery thread: ``rebuild``,
``fail``, ``cancel``, and whatever they are given to call. ``begin``, ``cancel_quietly`` and ``settle`` run none, and
may run anywhere: a future hands its callbacks on by itself.
"""

from __future__ import annotations

import contextlib
import copy
import pickle
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from concurrent.futures._base import RUNNING
from concurrent.futures.process import _RemoteTraceback  # private; programs look for it
from types import CodeType, TracebackType
from typing import Any

from safepool._pool.task import Task
from safepool._pool.worker import Obituary
from safepool._worker.framing import Frame, Kind
from safepool._worker.payload import one_line
from safepool._worker.segments import Exchange
from safepool.errors import (
    TaskKilledError,
    TaskMemoryError,
    TaskTimeoutError,
    TransferError,
    WorkerDiedError,
)

__all__ = [
    "begin",
    "cancel",
    "cancel_quietly",
    "copy_of",
    "died",
    "died_while_starting",
    "exhausted",
    "fail",
    "killed",
    "line_of",
    "never_run",
    "not_started",
    "notify_cancelled",
    "outgrown",
    "rebuild",
    "settle",
    "timed_out",
    "unpack_exception",
]


def rebuild(task: Task, frame: Frame, exchange: Exchange) -> Callable[[], None]:
    """Unpickle an outcome; return what settles the future with it."""
    if frame.kind is Kind.RAISED:
        error = unpack_exception(frame.payload, task.describe)
        return lambda: settle(task, error=error)
    try:
        value = _unpickle_lent(frame, exchange) if frame.kind is Kind.LENT_RESULT else pickle.loads(frame.payload)
    except BaseException as failure:
        failure.__traceback__ = _without(_OURS, failure.__traceback__)
        lost = TransferError(task=task.describe(), reason=one_line(failure), original="a result")
        lost.__cause__ = failure
        return lambda: settle(task, error=lost)
    return lambda: settle(task, value)


def _unpickle_lent(frame: Frame, exchange: Exchange) -> object:
    buffers, content = exchange.borrow(memoryview(frame.payload))
    return pickle.loads(content, buffers=buffers)


_OURS = {function.__code__ for function in (rebuild, _unpickle_lent, Exchange.borrow)}


def _without(ours: set[CodeType], trace: TracebackType | None) -> TracebackType | None:
    """Return a traceback without our own frames, which would keep segments for as long as the error is kept."""
    while trace is not None and trace.tb_frame.f_code in ours:
        trace = trace.tb_next
    return trace


def unpack_exception(packed: bytes | memoryview, describe: Callable[[], str]) -> BaseException:
    """Rebuild an exception as the worker raised it, its traceback as the cause; TransferError if that fails."""
    error: Any = None
    itself, reason, line, text = _unpack(packed)
    if not reason:
        try:
            error = pickle.loads(itself)
        except BaseException as failure:  # whatever its class does when it is called with its args
            reason = f"unpickling it raised {one_line(failure)}"
    if not isinstance(error, BaseException):
        error = TransferError(task=describe(), reason=reason or "it is no exception any more", original=line)
    assert isinstance(error, BaseException)
    BaseException.__setattr__(error, "__cause__", _RemoteTraceback(f'\n"""\n{text}"""'))  # type: ignore[arg-type]  # typeshed: it is text
    return error


def settle(task: Task, value: Any = None, error: BaseException | None = None) -> None:
    """Give a future its outcome, unless somebody else has, whose business it is not."""
    try:
        if error is None:
            task.future.set_result(value)
        else:
            task.future.set_exception(error)
    except InvalidStateError:
        pass


def line_of(packed: bytes) -> str:
    """Return one line about an exception that a worker packed: its class and message."""
    return _unpack(packed)[2]


def _unpack(packed: bytes | memoryview) -> tuple[bytes, str, str, str]:
    """Return what ``worker_main`` has packed: the pickled exception, why it could not be, one line, its traceback.

    A task can write such a frame itself.
    """
    try:
        itself, reason, line, text = pickle.loads(packed)
        return bytes(itself), str(reason), str(line), str(text)
    except BaseException as failure:
        return b"", f"what came is no exception: {one_line(failure)}", "an exception", "(no traceback)"


def fail(task: Task, make_error: Callable[[], BaseException]) -> None:
    """Settle a task that brought no outcome itself; of a bundle, all items."""
    for single in task.each():
        _fail(single, make_error)


def _fail(task: Task, make_error: Callable[[], BaseException]) -> None:
    task.future._task = None
    try:
        error = make_error()
    except BaseException as failure:  # never leave anybody waiting for a message that could not be made
        error = TransferError(task=f"task {task.number}", reason=one_line(failure), original="an error")
    settle(task, error=error)


def begin(task: Task) -> bool:
    """Let a task's future know that it runs; return False if it was cancelled instead.

    It may run already: then it had been sent to a worker that died before it began with it.
    """
    future = task.future
    if future._state == RUNNING:
        return True
    if future.done() and not future.cancelled():  # somebody has settled it in our place
        return False
    try:
        return future.set_running_or_notify_cancel()
    except RuntimeError:  # it was cancelled, and somebody has told its waiters in our place
        return False


def notify_cancelled(task: Task) -> None:
    """Wake whoever waits for a cancelled future, unless somebody else has."""
    with contextlib.suppress(RuntimeError):
        task.future.set_running_or_notify_cancel()


def cancel_quietly(task: Task) -> bool:
    """Cancel a task that has not begun, and wake whoever waits for it; False if its future counts as running."""
    if not Future.cancel(task.future):
        return False
    task.future._task = None
    notify_cancelled(task)
    return True


def cancel(task: Task, reason: str) -> None:
    """Cancel a task that has left the queue without having started, and wake whoever waits for it."""
    for single in task.each():
        _cancel(single, reason)


def _cancel(task: Task, reason: str) -> None:
    task.future._task = None
    if not cancel_quietly(task):  # it counts as running, though it never began
        fail(task, lambda: TaskKilledError(task=task.describe(), pid=task.future.pid or 0, reason=reason))


def died(detail: str, task: Task, end: Obituary) -> BaseException:
    """The worker died, or had to be ended because it could no longer be reached."""
    return WorkerDiedError(
        task=task.describe(),
        pid=end.pid,
        exitcode=end.exitcode,
        elapsed=end.elapsed,
        ended=end.ended,
        oom=end.oom,
        detail=detail,
        attempts=task.attempts,
    )


def timed_out(task: Task, end: Obituary) -> BaseException:
    """The task was running at its deadline."""
    return TaskTimeoutError(
        task=task.describe(),
        pid=end.pid,
        timeout=task.terms.timeout or 0.0,
        elapsed=end.elapsed or 0.0,
        stack=end.stack,
        ended=end.ended,
        attempts=task.attempts,
        peak_memory=end.peak,
    )


def exhausted(limit: int, task: Task, end: Obituary) -> BaseException:
    """The task and what it had started held all the memory that they may, asked for more, and were ended for that."""
    return TaskMemoryError(
        task=task.describe(),
        pid=end.pid,
        limit=limit,
        used=limit,
        elapsed=end.elapsed or 0.0,
        ended=end.ended,
        peak_memory=end.peak,
        by_kernel=True,
    )


def outgrown(limit: int, used: int, task: Task, end: Obituary) -> BaseException:
    """The task and what it had started held more memory than they may."""
    return TaskMemoryError(
        task=task.describe(),
        pid=end.pid,
        limit=limit,
        used=used,
        elapsed=end.elapsed or 0.0,
        stack=end.stack,
        ended=end.ended,
        peak_memory=end.peak,
    )


def killed(reason: str, task: Task, end: Obituary) -> BaseException:
    """Somebody asked for it."""
    return TaskKilledError(task=task.describe(), pid=end.pid, reason=reason, ended=end.ended)


def never_run(broken: BaseException, _task: Task, _end: Obituary) -> BaseException:
    """The pool broke before the task could be run on another worker."""
    return copy_of(broken)


def not_started(error: Exception, task: Task) -> BaseException:
    """No worker could be started, and none was left to wait for."""
    died = WorkerDiedError(task=task.describe(), detail=f"No worker could be started: {error}.")
    died.__cause__ = error
    return died


def died_while_starting(end: Obituary) -> BaseException:
    """A worker died before it was ready; what it had to say went to its standard error."""
    return WorkerDiedError(
        pid=end.pid, exitcode=end.exitcode, ended=end.ended, oom=end.oom, detail="It had not been ready yet."
    )


def copy_of(error: BaseException) -> BaseException:
    """Return one more of the same: each future has its own, since raising an exception adds to its traceback."""
    another = copy.copy(error)
    another.__cause__ = error.__cause__
    return another
