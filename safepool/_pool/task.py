"""A task: one submitted call, from the door to its outcome."""

from __future__ import annotations

import enum
import reprlib
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from safepool._pool.terms import Terms
from safepool._worker.segments import Loan

if TYPE_CHECKING:
    from safepool._pool.future import SafeFuture

__all__ = ["Task", "TaskState"]

_short = reprlib.Repr()
_short.maxstring = _short.maxother = 40
_MOST_ARGUMENTS = 4


def _nothing() -> None:
    """Stand for a call that was let go of."""


_NOTHING: tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]] = (_nothing, (), {})


class TaskState(enum.Enum):
    """Where a task is: in exactly one place.

    It goes back to WAITING only: from SENT, when it is taken back, and from RUNNING, to be run once more.
    """

    WAITING = "waiting"
    SENT = "sent"  # to a worker that has another one to run first
    RUNNING = "running"
    SETTLED = "settled"


class Task:
    """One call and its future.

    Attributes:
        number: Of all tasks of a pool, from 1.
        payload: The call, pickled.
        attempts: How often it has begun.
        put_backs: How often it was taken back from a worker that died before it began.
        is_plain: Letting go of the call runs nobody's code.
        loan: The segment that has the call's large buffers; held until the call has run.
        unfit: Why it cannot be sent; it fails when its turn comes.
        size: How many calls it is.

    ``state`` changes under the pool's lock only; whoever moves it to SETTLED, and nobody else, gives the future its
    outcome.
    """

    __slots__ = (
        "attempts",
        "call",
        "future",
        "is_plain",
        "loan",
        "number",
        "payload",
        "put_backs",
        "state",
        "terms",
        "unfit",
    )

    size: int = 1

    def __init__(
        self,
        number: int,
        future: SafeFuture[Any],
        call: tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]],
        payload: bytes,
        terms: Terms,
        *,
        is_plain: bool = False,
        loan: Loan | None = None,
        unfit: BaseException | None = None,
    ) -> None:
        self.number = number
        self.future = future
        self.call = call
        self.payload = payload
        self.terms = terms
        self.loan = loan
        self.unfit = unfit
        self.attempts = 0
        self.put_backs = 0
        self.is_plain = is_plain
        self.state = TaskState.WAITING

    def pack(self) -> bytes:
        """Return what it goes as."""
        return self.payload

    def each(self) -> Iterable[Task]:
        """Return the tasks that it consists of, to settle each of them."""
        return (self,)

    def release(self) -> None:
        """Let go of the call: this may run finalizers, which are user code."""
        self.call = _NOTHING
        self.loan = None

    def describe(self) -> str:
        """Return the call as text, arguments shortened. Runs the arguments' own ``__repr__``; never raises."""
        try:
            return self._describe()
        except BaseException:  # user code, and only a courtesy
            return f"task {self.number}"

    def _describe(self) -> str:
        fn, args, kwargs = self.call
        name = getattr(fn, "__qualname__", None) or type(fn).__name__
        shown = [_repr(arg) for arg in args[:_MOST_ARGUMENTS]]
        shown += [f"{key}={_repr(value)}" for key, value in list(kwargs.items())[:_MOST_ARGUMENTS]]
        if len(shown) < len(args) + len(kwargs):
            shown.append("...")
        return f"{name}({', '.join(shown)})"


def _repr(value: object) -> str:
    try:
        return _short.repr(value)
    except BaseException:  # user code; the text is a courtesy
        return f"<{type(value).__name__}>"
