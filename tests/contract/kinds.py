"""The executors that the suite compares, by name, so that a worker can make one too."""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Callable
from concurrent.futures import Executor, ProcessPoolExecutor
from typing import Any

NewPool = Callable[..., Executor]

STANDARD = "standard"
SAFEPOOL = "safepool"
KINDS = (STANDARD, SAFEPOOL)


def make_pool(kind: str, max_workers: int | None = 2, **options: Any) -> Executor:
    """Make an executor of that kind; the standard one with spawned workers, as ours has."""
    if kind == STANDARD:
        return ProcessPoolExecutor(max_workers, mp_context=multiprocessing.get_context("spawn"), **options)
    from safepool import SafeProcessPoolExecutor

    return SafeProcessPoolExecutor(max_workers, **options)


def class_of(kind: str) -> type[Executor]:
    """Return the class itself."""
    if kind == STANDARD:
        return ProcessPoolExecutor
    from safepool import SafeProcessPoolExecutor

    return SafeProcessPoolExecutor


def knows_max_tasks_per_child(kind: str) -> bool:
    """Say whether this kind takes ``max_tasks_per_child``; the standard one does from Python 3.11 on."""
    return kind == SAFEPOOL or sys.version_info >= (3, 11)
