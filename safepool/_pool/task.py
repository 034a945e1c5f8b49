"""A task: one submitted call, from the door to its outcome."""

from __future__ import annotations

import enum
import reprlib
from collections.abc import Callable
from types import BuiltinFunctionType, FunctionType
from typing import TYPE_CHECKING, Any

from safepool._plain import dataclass
from safepool._pool.terms import Terms
from safepool._worker.payload import PLAIN_TYPES

if TYPE_CHECKING:
    from safepool._pool.future import SafeFuture

__all__ = ["Task", "TaskState"]

_short = reprlib.Repr()
_short.maxstring = _short.maxother = 40
_MOST_ARGUMENTS = 4
_PLAIN_CALLABLES = frozenset({FunctionType, BuiltinFunctionType, type})


def _nothing() -> None:
    """Stand for a call that was let go of."""


_NOTHING: tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]] = (_nothing, (), {})


class TaskState(enum.Enum):
    """Where a task is: in exactly one place. It goes back only from RUNNING to WAITING, to be run once more."""

    WAITING = "waiting"
    RUNNING = "running"
    SETTLED = "settled"


@dataclass(eq=False)
class Task:
    """One call and its future.

    ``state`` changes under the pool's lock only; whoever moves it to SETTLED, and nobody else, gives the future its
    outcome.
    """

    number: int
    future: SafeFuture[Any]
    call: tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]
    payload: memoryview | bytes
    terms: Terms
    attempts: int = 0  # how often it has begun
    put_backs: int = 0  # how often it was taken back from a worker that died before it began
    unfit: BaseException | None = None  # why it cannot be sent; it fails when its turn comes
    state: TaskState = TaskState.WAITING

    def release(self) -> None:
        """Let go of the call: this may run finalizers, which are user code."""
        self.call = _NOTHING

    def is_plain(self) -> bool:
        """Return True if letting go of the call runs nobody's code."""
        fn, args, kwargs = self.call
        return type(fn) in _PLAIN_CALLABLES and not kwargs and all(type(arg) in PLAIN_TYPES for arg in args)

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
