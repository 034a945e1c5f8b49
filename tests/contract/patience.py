"""How long a test waits before it calls a thing broken."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

import support.eventually
from support import census

T = TypeVar("T")

PATIENCE = 30.0  # seconds; a bound against hanging, never a measure of speed


def eventually(predicate: Callable[[], T], otherwise: Callable[[], object] | None = None) -> T:
    """Ask again and again, within patience; only for what nobody announces."""
    return support.eventually.eventually(predicate, within=PATIENCE, otherwise=otherwise)


def is_gone(pid: int) -> bool:
    """Say whether a process has ended; a zombie has."""
    seen = census.look_at(pid)
    return seen is None or seen.state in {"Z", "X"}


def result_of(future: Future[T]) -> T:
    """Wait for the result, within patience."""
    return future.result(timeout=PATIENCE)


def error_of(future: Future[Any]) -> BaseException | None:
    """Wait for the exception, within patience."""
    return future.exception(timeout=PATIENCE)
