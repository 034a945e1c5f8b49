"""Arguments are checked at the door: a bad one is named, with its value, before anything has happened."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from numbers import Real
from types import FunctionType
from typing import Any

__all__ = ["check_callable", "check_choice", "check_count", "check_number", "check_reducers", "check_seconds"]

# Built into pickle: it looks no further, and a reducer for them would wait to be asked for ever.
_NEVER_REDUCED = frozenset(
    {type(None), bool, int, float, str, bytes, bytearray, tuple, list, dict, set, frozenset, type, FunctionType}
)


def check_seconds(name: str, value: float | None, *, allow_zero: bool = False) -> float | None:
    """Return a length of time as a float, or None for no limit.

    Raises:
        TypeError: It is not a number.
        ValueError: It is negative, not finite, or zero where zero makes no sense.
    """
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number of seconds or None, not {value!r}")
    try:
        seconds = float(value)
    except OverflowError:
        seconds = math.inf
    if not math.isfinite(seconds) or seconds < 0 or (seconds == 0 and not allow_zero):
        wanted = "a finite number of seconds, zero or more" if allow_zero else "a finite number of seconds above zero"
        raise ValueError(f"{name} must be {wanted} (None for no limit), not {value!r}")
    return seconds


def check_count(name: str, value: int | None) -> int | None:
    """Return a count of one or more, or None.

    Raises:
        TypeError: It is not an integer.
        ValueError: It is less than one.
    """
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an integer or None, not {value!r}")
    if value < 1:
        raise ValueError(f"{name} must be greater than 0, not {value!r}")
    return value


def check_number(name: str, value: int, *, least: int | None = 0) -> int:
    """Return an integer that is not less than ``least``.

    Raises:
        TypeError: It is not an integer.
        ValueError: It is less.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an integer, not {value!r}")
    if least is not None and value < least:
        raise ValueError(f"{name} must be {least} or more, not {value!r}")
    return value


def check_choice(name: str, value: Any, choices: tuple[Any, ...]) -> Any:
    """Return one of the choices.

    Raises:
        ValueError: It is none of them.
    """
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, not {value!r}")
    return value


def check_callable(name: str, value: Callable[..., Any] | None) -> None:
    """Raise TypeError unless the value can be called."""
    if not callable(value):
        raise TypeError(f"{name} must be callable, not {value!r}")


def check_reducers(name: str, value: Mapping[Any, Any] | None) -> dict[type[Any], Callable[[Any], Any]]:
    """Return a copy of a table of reduction functions by type; empty for None.

    Raises:
        TypeError: It is no mapping of types to callables.
        ValueError: A type is one that pickle asks nobody about.
    """
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise TypeError(f"{name} must map types to reduction functions, not {value!r}")
    for kind, reducer in value.items():
        if not isinstance(kind, type) or not callable(reducer):
            raise TypeError(f"{name} must map types to reduction functions, not {kind!r} to {reducer!r}")
        if kind in _NEVER_REDUCED:
            raise ValueError(f"{name} must be for types that pickle asks a reducer about, not {kind!r}")
    return dict(value)
