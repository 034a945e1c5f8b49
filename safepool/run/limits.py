"""What a command may take: time and memory, as people write them."""

from __future__ import annotations

import math
import re

from safepool._os.features import why_not
from safepool._plain import NamedTuple
from safepool._pool.door import parse_size

__all__ = ["Limits", "check_limits", "parse_seconds"]

_TIME = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*([smhd]?)\s*")
_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}


class Limits(NamedTuple):
    """Of one command."""

    timeout: float | None = None  # seconds
    grace: float = 0.0  # seconds
    memory: int | None = None  # bytes


def check_limits(timeout: str | None, grace: str, memory: str | None) -> Limits:
    """Return what these options say.

    Raises:
        ValueError: One says nothing, or nothing that makes sense; the message names it.
    """
    limits = Limits(
        timeout=None if timeout is None else parse_seconds("--timeout", timeout),
        grace=parse_seconds("--grace", grace),
        memory=None if memory is None else parse_size("--memory", memory),
    )
    if limits.timeout == 0:
        raise ValueError("--timeout must be more than zero; leave it out for no limit")
    if limits.memory is not None and (reason := why_not("proc")):
        raise ValueError(f"--memory cannot be had here: only /proc tells how much memory a command holds ({reason})")
    if limits.memory == 0:
        raise ValueError("--memory must be more than zero; leave it out for no limit")
    return limits


def parse_seconds(name: str, text: str) -> float:
    """Return the seconds that a text like "30", "1.5m" or "2h" stands for.

    Raises:
        ValueError: It is no length of time.
    """
    match = _TIME.fullmatch(text)
    seconds = math.inf if match is None else float(match[1]) * _SECONDS[match[2]]
    if not math.isfinite(seconds):
        raise ValueError(f"{name} must be a number of seconds, or one with a unit, like '1.5m' or '2h', not {text!r}")
    return seconds
