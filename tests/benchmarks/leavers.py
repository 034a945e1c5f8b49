"""Hosts that go wrong, for the cage around a measurement."""

from __future__ import annotations

import os
import signal
import subprocess


def leave_behind(pids: str) -> dict[str, int]:
    """Leave a child, and one that has gone to another session; say who."""
    children = [subprocess.Popen(["sleep", "1000"], start_new_session=detached) for detached in (False, True)]
    with open(pids, "w", encoding="ascii") as file:
        file.write(" ".join(str(child.pid) for child in children))
    for child in children:
        child.returncode = 0  # not waited for
    return {"left": len(children)}


def leave_behind_and_hang(pids: str) -> None:
    leave_behind(pids)
    signal.pause()


def raise_it() -> None:
    raise LookupError("no such thing")


def die() -> None:
    os._exit(7)


def print_and_return() -> dict[str, int]:
    print("what a library says", flush=True)  # noqa: T201  the answer must be told from it
    return {"figure": 1}
