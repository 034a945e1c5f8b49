"""One pool for the tests of a module: what hostile tasks do to it, it has to survive together."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from contract.leftovers import nothing_left_behind
from executor.conftest import gate, new_pool, pool

__all__ = ["gate", "new_pool", "nothing_left_behind", "pool"]


@pytest.fixture(autouse=True)
def canary() -> Iterator[subprocess.Popen[bytes]]:
    """A process of the host's own group and session, which nobody may touch."""
    with subprocess.Popen(["sleep", "900"], stdin=subprocess.DEVNULL) as canary:
        yield canary
        is_unharmed = canary.poll() is None
        canary.kill()
    assert is_unharmed, "the canary is dead"
