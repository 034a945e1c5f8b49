"""Pickling by value, for what the other side cannot import; on top of ``cloudpickle``.

cloudpickle gives every unpickled function a namespace of its own. Here the functions of one ``__main__`` share the
worker's, as they share the host's: what an initializer has set with ``global`` is what tasks see.

A global that holds a function, a class or a module is set anew with every call, so that what was typed again in a
notebook counts. Any other global is set when it is first seen, and again only if its value in the host has changed
since; so what the worker has made of it stays.
"""

from __future__ import annotations

import io
import pickle
import sys
from collections import ChainMap
from collections.abc import Callable
from multiprocessing.reduction import ForkingPickler
from types import FunctionType, ModuleType
from typing import Any

import cloudpickle

from safepool._worker.payload import Reducers

__all__ = ["dumps"]

_seen: dict[str, bytes] = {}  # in the worker: the host's value of each global, as it was last sent


Stays = Callable[[pickle.PickleBuffer], bool]


def dumps(value: object, reducers: Reducers, stays: Stays | None = None) -> bytes:
    """Pickle a value, with all that belongs to ``__main__`` or cannot be imported by value.

    Args:
        value: What to pickle.
        reducers: The pool's own.
        stays: Tells of each buffer whether it stays in the pickle.
    """
    return _dumps(value, reducers, frozenset(), stays)


def _dumps(value: object, reducers: Reducers, entered: frozenset[str], stays: Stays | None = None) -> bytes:
    file = io.BytesIO()
    _Pickler(file, reducers, entered, stays).dump(value)
    return file.getvalue()


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]  # it has no types
    def __init__(self, file: io.BytesIO, reducers: Reducers, entered: frozenset[str], stays: Stays | None) -> None:
        extra: dict[type, Any] = ForkingPickler._extra_reducers  # type: ignore[attr-defined]  # typeshed omits it
        inner = cloudpickle.Pickler.dispatch_table
        self.dispatch_table = ChainMap(reducers, extra, inner)  # read by __init__, and never again
        super().__init__(file, protocol=pickle.HIGHEST_PROTOCOL, buffer_callback=stays)
        self._reducers = reducers
        self._entered = entered  # globals that are being pickled further out: they may refer to themselves

    def reducer_override(self, obj: Any) -> Any:
        reduced = super().reducer_override(obj)
        if not isinstance(obj, FunctionType) or not isinstance(reduced, tuple):
            return reduced
        if obj.__globals__ is not sys.modules["__main__"].__dict__:
            return reduced
        make, (code, _namespace, *rest), (state, slots), *_, set_state = reduced
        named = slots["__globals__"]
        values = {name: value for name, value in named.items() if not _is_definition(value)}
        slots["__globals__"] = {name: value for name, value in named.items() if name not in values}
        packed = {
            name: _dumps(value, self._reducers, self._entered | {name})
            for name, value in values.items()
            if name not in self._entered
        }
        return make, (code, _Namespace(), *rest), (set_state, (state, slots), packed), None, None, _set_state


class _Namespace:
    """Pickles to the other side's ``__main__``, a module of the same package: functions import relative to it."""

    def __reduce__(self) -> Any:
        return _main_namespace, (getattr(sys.modules["__main__"], "__package__", None),)


def _main_namespace(package: str | None) -> dict[str, Any]:
    main = sys.modules["__main__"]
    if package:
        main.__package__ = package
    return main.__dict__


def _set_state(function: FunctionType, state: tuple[Callable[..., None], Any, dict[str, bytes]]) -> None:
    set_state, inner, packed = state
    set_state(function, inner)
    for name, content in packed.items():
        if _seen.get(name) != content:
            _seen[name] = content
            function.__globals__[name] = pickle.loads(content)


def _is_definition(value: object) -> bool:
    return isinstance(value, FunctionType | type | ModuleType)
