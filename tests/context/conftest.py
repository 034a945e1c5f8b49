"""The context under test, and processes that are ended after the test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

from context import calls
from contract.gate import Gate
from contract.leftovers import nothing_left_behind
from contract.patience import PATIENCE
from safepool import get_context

__all__ = ["nothing_left_behind"]


@pytest.fixture(scope="session")
def warmed_up(warmed_up: None) -> None:
    """Have what a host keeps for good beside a pool's: the keeper's thread, and a file of multiprocessing's heap."""
    process = get_context().Process(target=calls.nothing)  # type: ignore[attr-defined]
    process.start()
    process.join(PATIENCE)
    process.close()
    get_context().Value("i", 0)


@pytest.fixture
def context() -> BaseContext:
    return get_context()


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    """Hold processes until the test lets them through."""
    gate = Gate(tmp_path / "gate")
    yield gate
    gate.close()


@pytest.fixture
def start(context: BaseContext) -> Iterator[Callable[..., BaseProcess]]:
    """Start processes; what still runs after the test is killed."""
    started: list[BaseProcess] = []

    def start_one(target: Callable[..., object], *args: object, **options: Any) -> BaseProcess:
        process = context.Process(target=target, args=args, **options)  # type: ignore[attr-defined]
        process.start()
        started.append(process)
        return process  # type: ignore[no-any-return]

    yield start_one
    while started:
        process = started.pop()
        process.kill()
        process.join(PATIENCE)
        process.close()
