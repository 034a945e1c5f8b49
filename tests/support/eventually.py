"""A bounded poll, only for facts that the kernel does not announce."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

__all__ = ["eventually"]

T = TypeVar("T")


def eventually(
    predicate: Callable[[], T],
    *,
    within: float = 20.0,
    step: float = 0.005,
    otherwise: Callable[[], object] | None = None,
) -> T:
    """Return the first true answer of ``predicate``; fail with ``otherwise()`` when none came in time.

    The deadline is what a hung test costs, not what is expected: it says nothing about speed.
    """
    deadline = time.monotonic() + within
    while True:
        answer = predicate()
        if answer:
            return answer
        if time.monotonic() > deadline:
            story = otherwise() if otherwise is not None else f"last answer: {answer!r}"
            raise AssertionError(f"did not happen within {within:g} s; {story}")
        time.sleep(step)
