"""What workers run. Every peer imports this module in its workers: it loads nothing that a task can do without."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterable
from typing import Any

__all__ = [
    "apply_each",
    "echo",
    "hang",
    "hang_with_children",
    "hang_with_tree",
    "nap",
    "produce",
    "size_of",
    "spin",
    "start_instant",
]

_LONG = 1000.0  # seconds: longer than any measurement

_kept: dict[int, Any] = {}


def echo(value: Any) -> Any:
    """Return the argument: a task that is nothing but its transport."""
    return value


def apply_each(function: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
    """Do a chunk, for a library that has no chunks of its own."""
    return [function(item) for item in items]


def nap(seconds: float) -> int:
    """Sleep, and say in which process."""
    time.sleep(seconds)
    return os.getpid()


def spin(seconds: float) -> float:
    """Take so much CPU time, however many others want the CPU."""
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        pass
    return seconds


def start_instant(_: object = None) -> float:
    """Say when this task started, on the clock that all processes of the machine share."""
    return time.monotonic()


def size_of(array: Any) -> int:
    """Take an array in; touch one item of each page, as a task that uses it would."""
    view = memoryview(array).cast("B")
    return sum(view[::4096]) * 0 + view.nbytes


def produce(size: int) -> Any:
    """Give an array out. It is made once per worker: its transport is measured, not its making."""
    from safepool.bench.arrays import make

    if size not in _kept:
        _kept[size] = make(size)
    return _kept[size]


def hang(reports: str) -> None:
    """Report who it is and since when it runs, and never end."""
    _report(reports, os.getpid(), time.monotonic())
    time.sleep(_LONG)


def hang_with_children(order: tuple[str, int]) -> None:
    """Start so many processes, report them all, and never end."""
    reports, count = order
    children = [subprocess.Popen(["sleep", str(_LONG)], stdin=subprocess.DEVNULL) for _ in range(count)]
    _report(reports, os.getpid(), *(child.pid for child in children))
    time.sleep(_LONG)


def hang_with_tree(reports: str, branches: int, leaves: int) -> None:
    """Start a tree of processes two levels deep, report them all, and never end."""
    sleep = f"sleep {_LONG} & echo $!; "
    pids = [os.getpid()]
    for _ in range(branches):
        shell = subprocess.Popen(
            ["sh", "-c", f"{sleep * leaves} exec >&-; wait"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
        )
        assert shell.stdout is not None
        with shell.stdout:
            pids += [shell.pid, *(int(shell.stdout.readline()) for _ in range(leaves))]
    _report(reports, *pids)
    time.sleep(_LONG)


def _report(reports: str, *words: float) -> None:
    """Write one line into a named pipe; lines shorter than PIPE_BUF do not mix."""
    with open(reports, "w", encoding="ascii") as pipe:
        pipe.write(" ".join(map(repr, words)) + "\n")
