"""Tasks that leave a mark when they begin: one byte each, in a file that host and workers map."""

from __future__ import annotations

import itertools
import mmap
import os
import time
from pathlib import Path

from contract.gate import pass_gate

__all__ = [
    "begun_counts",
    "mark",
    "mark_and_fork",
    "mark_and_take",
    "mark_and_tell_pid",
    "mark_or_die",
    "mark_or_hang",
    "mark_or_pass_gate",
    "new_ledger",
    "open_ledger",
]

_ledger: mmap.mmap | None = None


def new_ledger(path: Path, tasks: int) -> None:
    """Make the file, for so many tasks."""
    path.write_bytes(bytes(tasks))


def begun_counts(path: Path) -> list[int]:
    """Return how often each task has begun."""
    return list(path.read_bytes())


def open_ledger(path: str) -> None:
    """In the worker, as its initializer."""
    global _ledger
    with open(path, "r+b") as file:
        _ledger = mmap.mmap(file.fileno(), 0)


def mark(number: int) -> int:
    """Begin, and be over."""
    assert _ledger is not None
    _ledger[number] += 1
    return number


def mark_and_take(number: int, seconds: float) -> int:
    """Begin, and compute for so long."""
    mark(number)
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        pass
    return number


def mark_or_die(number: int, victim: int) -> int:
    """Begin, and be over, one way or another."""
    mark(number)
    if number == victim:
        os._exit(7)
    return number


def mark_or_hang(number: int, victim: int) -> int:
    """Begin, and be over, or never."""
    mark(number)
    return sum(itertools.repeat(1, 2**42)) if number == victim else number


def mark_or_pass_gate(number: int, waiting: int, folder: str) -> int:
    """Begin, and be over, or wait at the gate."""
    mark(number)
    return pass_gate(folder, number) if number == waiting else number


def mark_and_tell_pid(number: int) -> int:
    """Begin; return who ran it."""
    mark(number)
    return os.getpid()


def mark_and_fork(number: int) -> int:
    """Begin; come back in a forked child as well, now and then."""
    mark(number)
    if number % 100 == 50:
        os.fork()
    return number
