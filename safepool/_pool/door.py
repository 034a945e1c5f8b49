"""Arguments are checked at the door: a bad one is named, with its value, before anything has happened."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Mapping
from functools import partial
from numbers import Real
from types import FunctionType
from typing import Any

from safepool._os.features import VARIABLE, why_not
from safepool._plain import replace
from safepool._pool.terms import Terms

__all__ = [
    "check_callable",
    "check_choice",
    "check_count",
    "check_cpus",
    "check_environment",
    "check_flag",
    "check_number",
    "check_proc",
    "check_reducers",
    "check_seconds",
    "check_size",
    "check_terms",
    "parse_size",
]

_SIZE = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*([KMGT]i?|k)?B\s*")
_FACTORS: dict[str | None, int] = {
    None: 1,
    "k": 1000,  # as the standard has it; everybody else writes it like the others
    **{prefix: 1000**power for power, prefix in enumerate("KMGT", 1)},
    **{f"{prefix}i": 1024**power for power, prefix in enumerate("KMGT", 1)},
}
_LEAST_CPUS = 0.01  # the kernel gives no less than 1 of 100 milliseconds
_MOST_CPUS = 1 << 20  # more than any machine has; what the kernel refuses is far above
_LEAST_SIZE = 32 << 20  # bytes; a worker that has imported nothing of the user's holds about 16 MiB

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
        wanted = "zero or more" if allow_zero else "above zero (None for no limit)"
        raise ValueError(f"{name} must be a finite number of seconds, {wanted}, not {value!r}")
    return seconds


def check_cpus(name: str, value: float | None) -> float | None:
    """Return a share of the machine's CPUs as a float, or None for no limit.

    Raises:
        TypeError: It is not a number.
        ValueError: It is less than a hundredth of a CPU, more than any machine has, or no number.
    """
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number of CPUs or None, not {value!r}")
    if not _LEAST_CPUS <= value <= _MOST_CPUS:  # what is no number is neither
        raise ValueError(
            f"{name} must be a number of CPUs from {_LEAST_CPUS:g} to {_MOST_CPUS:,} (None for no limit), not {value!r}"
        )
    return float(value)


def check_size(name: str, value: int | str | None) -> int | None:
    """Return an amount of memory in bytes, or None for no limit.

    Raises:
        TypeError: It is neither an integer nor text.
        ValueError: It is no size ("2GiB", "500 MB", "1.5GB"), or less than a worker needs to be there at all.
        RuntimeError: There is no /proc here, which alone tells how much memory a process holds.
    """
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise TypeError(f"{name} must be a number of bytes, a text like '2GiB' or None, not {value!r}")
    size = value if isinstance(value, int) else parse_size(name, value)
    if size < _LEAST_SIZE:
        raise ValueError(
            f"{name} must be {_LEAST_SIZE >> 20} MiB or more, not {value!r}: a worker that does nothing needs half"
        )
    check_proc(name, value)
    return size


def check_proc(name: str, value: object) -> None:
    """Refuse what could not be kept without /proc.

    Raises:
        RuntimeError: There is none here.
    """
    if reason := why_not("proc"):
        raise RuntimeError(f"{name} cannot be {value!r} here: only /proc tells of the processes of a task ({reason})")


def parse_size(name: str, text: str) -> int:
    """Return the bytes that a text like "2GiB" stands for.

    Raises:
        ValueError: It is no size.
    """
    match = _SIZE.fullmatch(text)
    size = math.inf if match is None else float(match[1]) * _FACTORS[match[2]]
    if not math.isfinite(size):
        raise ValueError(f"{name} must be a size with a unit, like '2GiB' or '500MB', not {text!r}")
    return int(size)


def check_terms(base: Terms = Terms(), **changes: Any) -> Terms:  # noqa: B008  # it cannot be changed
    """Return the terms with these changes; ``task_timeout`` is the constructor's name for ``timeout``.

    Raises:
        TypeError: One has the wrong type.
        ValueError: One is out of range, or they contradict each other.
    """
    checked = {name: _TERMS[name](name, value) for name, value in changes.items()}
    if "task_timeout" in checked:
        checked["timeout"] = checked.pop("task_timeout")
    terms = replace(base, **checked)
    if terms.soft_timeout is not None and terms.timeout is not None and terms.soft_timeout >= terms.timeout:
        raise ValueError(
            f"soft_timeout must be less than the timeout ({terms.timeout:g} s), not {terms.soft_timeout!r}"
        )
    return terms


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


def check_flag(name: str, value: bool) -> bool:
    """Return True or False.

    Raises:
        TypeError: It is neither.
    """
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, not {value!r}")
    return value


def check_callable(name: str, value: Callable[..., Any] | None) -> None:
    """Raise TypeError unless the value can be called."""
    if not callable(value):
        raise TypeError(f"{name} must be callable, not {value!r}")


def check_environment(name: str, value: Mapping[str, str] | None) -> dict[str, str]:
    """Return environment variables; none at all for None.

    Raises:
        TypeError: Names and values are not all text.
        ValueError: There cannot be a variable like one of them.
    """
    if value is not None and not isinstance(value, Mapping):
        raise TypeError(f"{name} must be a mapping of strings or None, not {value!r}")
    environment = dict(value or {})
    for key, text in environment.items():
        if not all(isinstance(part, str) for part in (key, text)):
            raise TypeError(f"{name} must map strings to strings, not {key!r} to {text!r}")
        if not key or "=" in key or "\0" in key + text or not _is_encodable(key + text):
            raise ValueError(f"{name}: {key!r}={text!r} cannot stand in an environment")
        if key == VARIABLE:
            raise ValueError(f"{name} must not set {key} ({text!r}): workers do without what this program does without")
    return environment


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


def _is_encodable(text: str) -> bool:
    try:
        os.fsencode(text)
    except UnicodeEncodeError:
        return False
    return True


_TERMS: dict[str, Callable[[str, Any], Any]] = {
    "task_timeout": check_seconds,
    "timeout": check_seconds,
    "soft_timeout": check_seconds,
    "memory_limit": check_size,
    "retries": check_number,
    "priority": partial(check_number, least=None),
}
