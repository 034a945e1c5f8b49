"""Values to bytes and back.

By reference with ``pickle`` where the other side can import what is meant, by value with ``cloudpickle`` where it
cannot: lambdas, closures, classes defined in functions, and everything in a ``__main__`` that workers cannot import
(``python -c``, standard input, a REPL, a notebook).

Types with a multiprocessing reducer keep it (locks, connections, sockets, tensors): both picklers consult
``ForkingPickler``'s registry. Before it, and before what a class says of itself, come the reducers of the pool; they
travel as an argument, since one process may have pools of different minds.
"""

from __future__ import annotations

import copyreg
import io
import pickle
import sys
from collections.abc import Callable
from functools import partial
from multiprocessing.reduction import ForkingPickler

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TypeAlias

__all__ = [
    "LARGE",
    "NO_REDUCERS",
    "PLAIN_TYPES",
    "Call",
    "LargeBytes",
    "Reducers",
    "dumps",
    "dumps_by_value",
    "is_plain",
    "one_line",
]

PLAIN_TYPES = frozenset({type(None), bool, int, float, complex, str, bytes})
LARGE = 1 << 16  # bytes; what is smaller goes in the pickle
_PLAIN_SIZE = 1 << 16  # bytes; a larger one takes long enough to be somebody else's business

# Of exactly this type: as ``__reduce__`` would, from outside.
Reducers: TypeAlias = "dict[type[Any], Callable[[Any], Any]]"
NO_REDUCERS: Reducers = {}
Call: TypeAlias = "tuple[Callable[..., object], tuple[Any, ...]]"  # a function and its arguments


class LargeBytes:
    """Stands for bytes that are to leave the pickle; what arrives are bytes."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def __reduce__(self) -> tuple[type[bytes], tuple[pickle.PickleBuffer]]:
        return bytes, (pickle.PickleBuffer(self._content),)


def dumps(value: object, reducers: Reducers = NO_REDUCERS, buffers: list[memoryview] | None = None) -> bytes:
    """Pickle, by reference where possible.

    Args:
        value: What to pickle.
        reducers: The pool's own.
        buffers: Takes up large buffers, which then are not in the pickle.

    Raises:
        Exception: What ``pickle`` raised, if ``cloudpickle`` could not do it either.
    """
    if type(value) in PLAIN_TYPES and not reducers:
        return pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
    try:
        return _dumps_by_reference(value, reducers, buffers)
    except Exception as error:
        if _is_soft_timeout(error):
            raise
        try:
            return dumps_by_value(value, reducers, buffers)
        except Exception as by_value_error:
            raise error from by_value_error  # the second knows what in a closure was at fault


def dumps_by_value(value: object, reducers: Reducers = NO_REDUCERS, buffers: list[memoryview] | None = None) -> bytes:
    """Pickle with ``cloudpickle``: what stands in ``__main__`` or cannot be imported travels by value."""
    from safepool._worker import by_value  # lazily: most workers never need it

    if buffers is None:
        return by_value.dumps(value, reducers)
    buffers.clear()  # of an attempt that has failed
    return by_value.dumps(value, reducers, partial(_stays, buffers))


def is_plain(value: object, size: int) -> bool:
    """Return True if unpickling this value runs no code of the user's and takes no time to speak of."""
    if size > _PLAIN_SIZE:
        return False
    kind = type(value)
    if kind is list or kind is tuple:  # what ``map`` with chunks returns, for one
        return PLAIN_TYPES.issuperset(map(type, value))  # type: ignore[call-overload]  # mypy does not narrow by identity
    return kind in PLAIN_TYPES


def one_line(error: BaseException) -> str:
    """Return class and message of an exception, whatever its ``__str__`` does."""
    try:
        return f"{type(error).__name__}: {error}"
    except BaseException:  # user code
        return type(error).__name__


def _is_soft_timeout(error: Exception) -> bool:
    errors = sys.modules.get("safepool.errors")  # not loaded, not raised
    return errors is not None and isinstance(error, errors.SoftTimeoutError)


def _stays(buffers: list[memoryview], buffer: pickle.PickleBuffer) -> bool:
    """Return True if a buffer stays in the pickle: it is small, or not in one piece."""
    try:
        content = buffer.raw()
    except BufferError:
        return True
    if content.nbytes < LARGE:
        return True
    buffers.append(content)
    return False


def _dumps_by_reference(value: object, reducers: Reducers, buffers: list[memoryview] | None) -> bytes:
    file = io.BytesIO()
    stays = None if buffers is None else partial(_stays, buffers)
    pickler = pickle.Pickler(file, pickle.HIGHEST_PROTOCOL, buffer_callback=stays)
    # What a ForkingPickler has, without a call of Python code for each value.
    registered = ForkingPickler._extra_reducers  # type: ignore[attr-defined]  # what ``register`` adds to
    pickler.dispatch_table = {**copyreg.dispatch_table, **registered, **reducers}
    pickler.dump(value)
    return file.getvalue()  # shares the memory; a view would keep the file from being collected
