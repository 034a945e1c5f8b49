"""Hosts of measurements find the modules of this folder."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from safepool.bench.cage import call_in_host

TESTS = Path(__file__).resolve().parents[1]


@pytest.fixture
def in_host(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Call ``module:name`` of this folder in a host of its own."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")]))

    def call(function: str, *, within: float = 50.0, **arguments: Any) -> Any:
        return call_in_host(f"benchmarks.{function}", arguments, within)

    return call
