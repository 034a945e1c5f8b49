"""Sizes, times and commands as people read them."""

from __future__ import annotations

__all__ = ["duration", "printable", "size"]

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def size(count: float) -> str:
    """Return bytes in the largest unit of which there is one at least."""
    unit = 0
    while count >= 1024 and unit < len(_UNITS) - 1:  # noqa: PLR2004  # by which each unit is larger than the last
        count, unit = count / 1024, unit + 1
    return f"{count:.0f} {_UNITS[unit]}" if unit < _UNITS.index("GiB") else f"{count:.1f} {_UNITS[unit]}"


def duration(seconds: float) -> str:
    """Return seconds with two units at most."""
    if abs(seconds) < 60:  # noqa: PLR2004
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if abs(minutes) < 60:  # noqa: PLR2004
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def printable(command: str) -> str:
    """Return a command line as one line; whoever names a process does not command the terminal."""
    return "".join(character if character.isprintable() else "?" for character in command)
