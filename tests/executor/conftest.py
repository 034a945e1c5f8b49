"""Pools for the tests of what safepool adds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from contract.gate import Gate
from contract.leftovers import nothing_left_behind
from safepool import SafeProcessPoolExecutor

__all__ = ["nothing_left_behind"]


@pytest.fixture(scope="module")
def pool() -> Iterator[SafeProcessPoolExecutor]:
    """Share one pool of two workers among the tests of a module."""
    shared = SafeProcessPoolExecutor(2)
    yield shared
    shared.shutdown(kill=True)


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    """Hold tasks until the test lets them through."""
    gate = Gate(tmp_path / "gate")
    yield gate
    gate.close()


@pytest.fixture
def new_pool(gate: Gate) -> Iterator[Callable[..., SafeProcessPoolExecutor]]:
    """Make pools that the test may shut down or break."""
    made: list[SafeProcessPoolExecutor] = []

    def make(max_workers: int | None = 1, **options: Any) -> SafeProcessPoolExecutor:
        made.append(SafeProcessPoolExecutor(max_workers, **options))
        return made[-1]

    yield make
    gate.close()
    while made:  # and let go of them: what a pool owns may live as long as somebody refers to it
        made.pop().shutdown(kill=True)
