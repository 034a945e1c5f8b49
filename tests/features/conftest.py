"""The same pools as for the executor's tests."""

from __future__ import annotations

from contract.leftovers import nothing_left_behind
from executor.conftest import gate, new_pool, pool

__all__ = ["gate", "new_pool", "nothing_left_behind", "pool"]
