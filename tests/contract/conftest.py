"""The two executors as fixtures, and the list of what the standard library's is expected to fail."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import pytest

from contract.gate import Gate
from contract.kinds import KINDS, STANDARD, NewPool, make_pool
from contract.known_differences import KNOWN_DIFFERENCES
from contract.leftovers import nothing_left_behind

__all__ = ["nothing_left_behind"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        name = getattr(item, "originalname", None)
        if name in KNOWN_DIFFERENCES and _kind_of(item) == STANDARD:
            item.add_marker(pytest.mark.xfail(strict=True, reason=KNOWN_DIFFERENCES[name]))


def _kind_of(item: pytest.Item) -> str | None:
    callspec = getattr(item, "callspec", None)
    return callspec.params.get("kind") if callspec else None


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """Name the executor under test."""
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def pool(kind: str) -> Iterator[Executor]:
    """Share one pool of two workers among the tests of a module; no test may break it."""
    shared = make_pool(kind, max_workers=2)
    yield shared
    shared.shutdown(wait=True, cancel_futures=True)


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    """Hold tasks until the test lets them through."""
    gate = Gate(tmp_path / "gate")
    yield gate
    gate.close()


@pytest.fixture
def new_pool(kind: str, gate: Gate) -> Iterator[NewPool]:
    """Make pools that the test may break or shut down; it keeps none of them alive."""
    made: list[weakref.ref[Executor]] = []

    def make(max_workers: int | None = 1, **options: Any) -> Executor:
        pool = make_pool(kind, max_workers, **options)
        made.append(weakref.ref(pool))
        return pool

    yield make
    gate.close()
    for reference in made:
        left = reference()
        if left is not None:
            left.shutdown(wait=True, cancel_futures=True)
