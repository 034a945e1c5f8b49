"""Records without what the standard library imports to make them: ``dataclasses`` and ``NamedTuple`` for our own use.

``dataclasses`` imports ``inspect``, ``ast`` and ``dis``, ``typing`` imports ``re``: 4 ms and 3 ms, which the host pays
before the first worker can be started, and worker and janitor before they are there. To type checkers these are the
standard library's own; ``tests/unit/test_plain.py`` holds the two to the same behaviour.

Facts: with ``from __future__ import annotations`` the names of a class's fields stand in its ``__annotations__``, in
order, whatever the annotations say.
"""

from __future__ import annotations

from collections import namedtuple

__all__ = ["NamedTuple", "dataclass", "field", "replace"]

TYPE_CHECKING = False  # to type checkers it is True
if TYPE_CHECKING:
    from collections.abc import Callable
    from dataclasses import dataclass, field, replace
    from typing import Any, NamedTuple
else:

    class _NamedTupleType(type):
        def __new__(cls, name: str, bases: tuple[type, ...], namespace: dict[str, Any]) -> type:
            fields = namespace.pop("__annotations__", None)
            if fields is None:
                return super().__new__(cls, name, bases, namespace)
            defaults = [namespace.pop(field) for field in fields if field in namespace]
            made = namedtuple(  # noqa: PYI024  # this is the other one
                name, fields, defaults=defaults, module=namespace["__module__"]
            )
            for key, value in namespace.items():
                if key not in ("__module__", "__qualname__"):
                    setattr(made, key, value)
            return made

    class NamedTuple(metaclass=_NamedTupleType):
        """Makes a tuple with names of the class that inherits from it."""

    class _Factory:
        def __init__(self, make: Callable[[], Any]) -> None:
            self.make = make

    def field(*, default_factory: Callable[[], Any]) -> Any:
        """Stand for a default that is made anew for each object."""
        return _Factory(default_factory)

    def dataclass(cls: type | None = None, *, frozen: bool = False, eq: bool = True) -> Any:
        """Give a class ``__init__`` and ``__repr__`` by its annotations, and what the arguments say."""
        if cls is None:
            return lambda cls: dataclass(cls, frozen=frozen, eq=eq)
        cls.__init__ = _make_init(cls, frozen=frozen)
        cls.__repr__ = _repr
        if eq:
            cls.__eq__ = _eq
            cls.__hash__ = _hash if frozen else None
        if frozen:
            cls.__setattr__ = cls.__delattr__ = _refuse
        return cls

    def replace(record: Any, /, **changes: Any) -> Any:
        """Return a copy with these changes; a call with a limit of its own makes one, so it had better be quick."""
        if not changes.keys() <= record.__dict__.keys():
            raise TypeError(f"{type(record).__qualname__} has no {(changes.keys() - record.__dict__.keys()).pop()!r}")
        copy = object.__new__(type(record))
        copy.__dict__.update(record.__dict__, **changes)
        return copy

    def _make_init(cls: type, *, frozen: bool) -> Callable[..., None]:
        """Written out and compiled, as ``dataclasses`` does it: a task is made for every call."""
        parameters, lines, scope = [], [], {"_set": object.__setattr__, "_Factory": _Factory}
        for name in cls.__annotations__:
            default = cls.__dict__.get(name, _NO_DEFAULT)
            value = name
            if isinstance(default, _Factory):
                delattr(cls, name)
                scope[f"_make_{name}"], default = default.make, _Factory
                value = f"_make_{name}() if {name} is _Factory else {name}"
            scope[f"_default_{name}"] = default
            parameters.append(name if default is _NO_DEFAULT else f"{name}=_default_{name}")
            lines.append(f"    _set(self, {name!r}, {value})" if frozen else f"    self.{name} = {value}")
        code = "\n".join([f"def __init__(self, {', '.join(parameters)}):", *lines])
        exec(code, scope)  # noqa: S102  # of names that stand in our own source
        return scope["__init__"]

    _NO_DEFAULT = object()

    def _fields_of(record: Any) -> list[tuple[str, Any]]:
        return [(name, getattr(record, name)) for name in type(record).__annotations__]

    def _repr(self: Any) -> str:
        return f"{type(self).__qualname__}({', '.join(f'{name}={value!r}' for name, value in _fields_of(self))})"

    def _eq(self: Any, other: object) -> bool:
        return _fields_of(self) == _fields_of(other) if type(self) is type(other) else NotImplemented

    def _hash(self: Any) -> int:
        return hash(tuple(value for _, value in _fields_of(self)))

    def _refuse(self: Any, name: str, *_value: Any) -> None:
        raise AttributeError(f"{type(self).__qualname__} cannot be changed: {name!r}")
