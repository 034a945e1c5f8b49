"""Calls to bytes and back: a function that workers can import goes as its name, which is looked up once on either side.

Nine tenths of the time that pickle takes for a small call go into finding the function again, for each task, by its
module and name, twice: to be sure of it, and to have it. A function that is found under its name goes as that name,
and its arguments as a pickle of their own; whatever else can be called goes with its arguments in one pickle, since the
two may share objects.
"""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable
from types import FunctionType, ModuleType

from safepool._worker import payload

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TypeAlias

__all__ = ["CallPickler", "CallReader"]

Parts: TypeAlias = "tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]"

_MOST_KNOWN = 256  # functions
_LONGEST_NAME = 255  # its length has one byte
_NO_NAME = b"\0"


class CallPickler:
    """In the host: calls to bytes.

    Args:
        dumps: How one pool pickles.
        imports_main: Workers can import ``__main__``, and with it what stands there.
        reducers: The pool's own; they may mean the types of arguments.
    """

    def __init__(self, dumps: Callable[[object], bytes], imports_main: bool, reducers: payload.Reducers) -> None:
        self._dumps = dumps
        self._imports_main = imports_main
        self._plain_types = payload.PLAIN_TYPES - reducers.keys()
        self._names: dict[FunctionType, tuple[dict[str, Any], str, bytes]] = {}  # where, under what, as what

    def dumps(self, call: Parts) -> tuple[bytes, bool]:
        """Pickle a call; tell also whether letting go of it runs nobody's code.

        Raises:
            Exception: What ``pickle`` raised.
        """
        fn, args, kwargs = call
        name = self._name(fn) if type(fn) is FunctionType else _NO_NAME
        if name == _NO_NAME:
            return _NO_NAME + self._dumps(call), False
        if not kwargs and self._plain_types.issuperset(map(type, args)):
            return name + pickle.dumps((args, kwargs), pickle.HIGHEST_PROTOCOL), True
        return name + self._dumps((args, kwargs)), False

    def _name(self, fn: FunctionType) -> bytes:
        """Return what the function goes as, if it is found under that name now."""
        known = self._names.get(fn)
        if known is not None and known[0].get(known[1]) is fn:
            return known[2]
        self._names.pop(fn, None)
        module = _home_of(fn) if self._imports_main else None
        if module is None:
            return _NO_NAME
        name = f"{fn.__module__}\n{fn.__qualname__}".encode()
        if len(name) > _LONGEST_NAME:
            return _NO_NAME
        if len(self._names) >= _MOST_KNOWN:
            self._names.clear()
        name = bytes([len(name)]) + name
        self._names[fn] = vars(module), fn.__qualname__, name
        return name


class CallReader:
    """In the worker: bytes to calls."""

    def __init__(self) -> None:
        self._names: dict[bytes, tuple[str, str]] = {}

    def loads(self, packed: bytes | memoryview) -> Parts:
        """Rebuild a call.

        Raises:
            Exception: What importing, looking up or unpickling raised.
        """
        size = packed[0]
        if not size:
            whole: Parts = pickle.loads(memoryview(packed)[1:])
            return whole
        fn = self._find(bytes(packed[1 : size + 1]))
        args, kwargs = pickle.loads(memoryview(packed)[size + 1 :])
        return fn, args, kwargs

    def _find(self, name: bytes) -> Callable[..., Any]:
        """Look a function up as pickle does, each time: a task may have put another one in its place."""
        module, attribute = self._names.get(name) or ("", "")
        try:
            fn: Callable[..., Any] = getattr(sys.modules[module], attribute)
        except (KeyError, AttributeError):
            fn = pickle.loads(b"c" + name + b"\n.", fix_imports=False)  # the opcode GLOBAL: imports, and has the errors
            module, _, attribute = name.decode().partition("\n")
            self._names[name] = (module, attribute)
        return fn


def _home_of(fn: FunctionType) -> ModuleType | None:
    """Return the module in which the function is found under its name; None if there is none."""
    module, name = fn.__module__, fn.__qualname__
    home = sys.modules.get(module) if type(module) is str and "\n" not in module + name else None
    return home if type(home) is ModuleType and vars(home).get(name) is fn else None
