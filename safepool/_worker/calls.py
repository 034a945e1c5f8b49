"""Calls to bytes and back: a function that workers can import goes as its name, which is looked up once on either side.

Nine tenths of the time that pickle takes for a small call go into finding the function again, for each task, by its
module and name, twice: to be sure of it, and to have it. A function that is found under its name goes as that name,
and its arguments as a pickle of their own; whatever else can be called goes with its arguments in one pickle, since the
two may share objects.

A *bundle* is many calls of one such function: the name, and the arguments of each as a pickle of its own, so that it
can be divided between any two of them.
"""

from __future__ import annotations

import itertools
import pickle
import sys
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import FunctionType, ModuleType

from safepool._worker import payload
from safepool._worker.segments import Exchange, Lender, Loan, pack

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TypeAlias

__all__ = ["CallPickler", "CallReader", "PackedCall", "Parts", "pack_bundle", "unpack_bundle"]

Parts: TypeAlias = "tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]"
PackedCall: TypeAlias = "tuple[bytes, bool, Loan | None]"

_MOST_KNOWN = 256  # functions
_LONGEST_NAME = 254  # its length has one byte
_NO_NAME = b"\0"
_SIZE = 8  # bytes of a row's size, and of their number
_ENVELOPE = b"\xff"  # comes first, and the envelope; then all the rest
_NO_KEYWORDS: dict[str, Any] = {}


class CallPickler:
    """In the host: calls to bytes.

    Args:
        dumps: How one pool pickles.
        imports_main: Workers can import ``__main__``, and with it what stands there.
        reducers: The pool's own; they may mean the types of arguments.
        lender: Has segments for large buffers.
    """

    def __init__(
        self, dumps: Callable[..., bytes], imports_main: bool, reducers: payload.Reducers, lender: Lender
    ) -> None:
        self._dumps = dumps
        self._lender = lender
        self._imports_main = imports_main
        self._plain_types = payload.PLAIN_TYPES - reducers.keys()
        self._names: dict[FunctionType, tuple[dict[str, Any], str, bytes]] = {}  # where, under what, as what

    def dumps(self, call: Parts, lends: bool = False) -> PackedCall:
        """Pickle a call; return also whether letting go of it runs nobody's code, and what was lent for it.

        Args:
            call: What to pickle.
            lends: Large buffers go into a segment; such a call can be run once.

        Raises:
            Exception: What ``pickle`` raised.
        """
        fn, args, kwargs = call
        name = self._name(fn) if type(fn) is FunctionType else _NO_NAME
        is_plain = False
        if name != _NO_NAME and not kwargs and (types := set(map(type, args))) <= self._plain_types:
            if not lends or bytes not in types or not _have_large_bytes(args):
                return name + pickle.dumps((args, kwargs), pickle.HIGHEST_PROTOCOL), True, None
            is_plain = True
        if not lends:
            return name + self._dumps(call if name == _NO_NAME else (args, kwargs)), False, None
        if bytes in self._plain_types:
            args, kwargs = _with_large_bytes_apart(args, kwargs)
        content = (fn, args, kwargs) if name == _NO_NAME else (args, kwargs)
        envelope, packed, loan = pack(self._lender, self._dump, content)
        return (_ENVELOPE + envelope if loan else b"") + name + packed, is_plain, loan

    def name_of(self, fn: Callable[..., Any]) -> bytes | None:
        """Return what a function goes as in each of many calls; None if it has to be pickled."""
        name = self._name(fn) if type(fn) is FunctionType else _NO_NAME
        return None if name == _NO_NAME else name

    def dumps_row(self, args: tuple[Any, ...]) -> tuple[bytes, bool]:
        """Pickle the arguments of one of many calls; return also whether letting go of them runs nobody's code.

        Raises:
            Exception: What ``pickle`` raised.
        """
        if set(map(type, args)) <= self._plain_types:
            return pickle.dumps((args, _NO_KEYWORDS), pickle.HIGHEST_PROTOCOL), True
        return self._dumps((args, _NO_KEYWORDS)), False

    def _dump(self, value: object, buffers: list[memoryview] | None) -> bytes:
        return self._dumps(value, buffers=buffers)

    def _name(self, fn: FunctionType) -> bytes:
        """Return what the function goes as, if it is found under that name now."""
        known = self._names.get(fn)
        if known is not None and known[0].get(known[1]) is fn:
            return known[2]
        self._names.pop(fn, None)
        module = _home_of(fn)
        if module is None or not (self._imports_main or _goes_by_reference(module)):
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
    """In the worker: bytes to calls.

    Args:
        exchange: Has what the host has lent.
    """

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._names: dict[bytes, tuple[str, str]] = {}

    def loads(self, packed: bytes | memoryview) -> Parts:
        """Rebuild a call.

        Raises:
            Exception: What importing, looking up or unpickling raised.
        """
        content, buffers = memoryview(packed), None
        if packed[:1] == _ENVELOPE:
            buffers, content = self._exchange.borrow(content[1:])
        size = content[0]
        if not size:
            whole: Parts = pickle.loads(content[1:], buffers=buffers)
            return whole
        fn = self._find(bytes(content[1 : size + 1]))
        args, kwargs = pickle.loads(content[size + 1 :], buffers=buffers)
        return fn, args, kwargs

    def loads_row(self, name: bytes, row: memoryview) -> Parts:
        """Rebuild one of many calls.

        Raises:
            Exception: What importing, looking up or unpickling raised.
        """
        fn = self._find(name)
        args, kwargs = pickle.loads(row)
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


def pack_bundle(name: bytes, rows: Sequence[bytes]) -> bytes:
    """Return what many calls of the function of this name go as."""
    sizes = array("Q", [len(rows), *map(len, rows)])
    return b"".join((name, sizes.tobytes(), *rows))


def unpack_bundle(packed: bytes | memoryview) -> tuple[bytes, Iterator[memoryview]]:
    """Return the function's name, and the arguments of each call, as ``loads_row`` takes them."""
    content = memoryview(packed)
    start = 1 + content[0]
    name = bytes(content[1:start])
    (count,) = content[start : start + _SIZE].cast("Q")
    end = start + _SIZE * (1 + count)
    return name, _cut(content[end:], content[start + _SIZE : end].cast("Q"))


def _cut(content: memoryview, sizes: Iterable[int]) -> Iterator[memoryview]:
    start = 0
    for size in sizes:
        yield content[start : start + size]
        start += size


def _home_of(fn: FunctionType) -> ModuleType | None:
    """Return the module in which the function is found under its name; None if there is none."""
    module, name = fn.__module__, fn.__qualname__
    home = sys.modules.get(module) if type(module) is str and "\n" not in module + name else None
    return home if type(home) is ModuleType and vars(home).get(name) is fn else None


def _goes_by_reference(module: ModuleType) -> bool:
    """Return True if ``cloudpickle`` would have what stands there looked up in the worker."""
    name = module.__name__
    if name == "__main__":
        return False
    cloudpickle = sys.modules.get("cloudpickle")  # not loaded, nothing registered
    return cloudpickle is None or not any(
        name == by_value or name.startswith(f"{by_value}.") for by_value in cloudpickle.list_registry_pickle_by_value()
    )


def _have_large_bytes(values: Iterable[object]) -> bool:
    return any(type(value) is bytes and len(value) >= payload.LARGE for value in values)


def _with_large_bytes_apart(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if not _have_large_bytes(itertools.chain(args, kwargs.values())):
        return args, kwargs
    large: dict[int, payload.LargeBytes] = {}  # what is given twice arrives as one

    def apart(value: Any) -> Any:
        if type(value) is not bytes or len(value) < payload.LARGE:
            return value
        return large.setdefault(id(value), payload.LargeBytes(value))

    return tuple(map(apart, args)), {name: apart(value) for name, value in kwargs.items()}
