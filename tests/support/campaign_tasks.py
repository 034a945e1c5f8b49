"""What workers do in the campaign. Each run enters itself in the ledger first."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from typing import Any

from support import descendants
from support.rendezvous import report
from support.tasks import DEATHS, HANGS, square

__all__ = ["TASKS", "is_right"]

Step = dict[str, Any]

_SHORT = 7


def is_right(name: str, step: Step, value: object) -> bool:
    """Return whether this is what the task should have returned."""
    if step["kind"] == "large":
        return value == b"x" * step["size"]
    if step["kind"] == "text":
        return value == "x" * step["size"]
    return value == (square(_SHORT) if step["kind"] in ("short", "burst") else name)


def _enter(ledger: str, name: str) -> None:
    fd = os.open(ledger, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
    try:
        os.write(fd, f"{name}\n".encode())
    finally:
        os.close(fd)


def _leave(kinds: Iterable[str], name: str, reports: str) -> None:
    for kind in kinds:
        if kind == "cleared":  # no marker: only its session, its group and its parent give it away
            command = ["sh", "-c", 'echo "$1 $$" > "$2"; exec sleep 900', "sh", f"{name}.{kind}", reports]
            descendants.leave(["env", "-i", "PATH=/usr/bin:/bin", *command])
        else:
            descendants.start([kind], name, reports)


def _short(ledger: str, _reports: str, name: str, _step: Step, _data: bytes | str) -> int:
    _enter(ledger, name)
    return square(_SHORT)


def _echo(ledger: str, _reports: str, name: str, _step: Step, data: bytes | str) -> bytes | str:
    """Send it back; what is right, the host sees. Bytes go through shared memory, text through the socket."""
    _enter(ledger, name)
    return data


def _raise(ledger: str, _reports: str, name: str, _step: Step, _data: bytes | str) -> None:
    _enter(ledger, name)
    raise LookupError(name)


def _leave_something(ledger: str, reports: str, name: str, step: Step, _data: bytes | str) -> str:
    _enter(ledger, name)
    _leave(step["leave"], name, reports)
    return name


def _die(ledger: str, reports: str, name: str, step: Step, _data: bytes | str) -> None:
    _enter(ledger, name)
    _leave(step["leave"], name, reports)
    DEATHS[step["how"]]()


def _hang(ledger: str, reports: str, name: str, step: Step, _data: bytes | str) -> str:
    _enter(ledger, name)
    _leave(step["leave"], name, reports)
    if step["kind"] == "sleep":
        time.sleep(900)
    HANGS.get(step["kind"], lambda: None)()
    return name


def _nest(ledger: str, reports: str, name: str, step: Step, _data: bytes | str) -> str:
    """A pool in the worker, whose worker has left something and holds the interpreter lock."""
    from safepool import SafeProcessPoolExecutor

    _enter(ledger, name)
    report(reports, f"{name}.nesting")
    with SafeProcessPoolExecutor(1) as pool:
        pool.submit(_hold, reports, name).result()
    return name


def _hold(reports: str, name: str) -> None:
    _leave(["plain", "setsid"], name, reports)
    HANGS["c"]()


TASKS: dict[str, Callable[..., object]] = {
    "short": _short,
    "burst": _short,
    "large": _echo,
    "text": _echo,
    "raise": _raise,
    "leave": _leave_something,
    "die": _die,
    "nest": _nest,
    **dict.fromkeys(("loop", "c", "regex", "stopped", "deaf", "sleep"), _hang),
}
