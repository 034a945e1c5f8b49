"""Order statistics of a few numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence

__all__ = ["median", "quantile"]


def quantile(values: Sequence[float], share: float) -> float:
    """Return the least value that at least this share of the values does not exceed: one that was really seen."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def median(values: Sequence[float]) -> float:
    """Return the middle value, or the mean of the two in the middle."""
    ranked = sorted(values)
    middle = len(ranked) // 2
    return ranked[middle] if len(ranked) % 2 else (ranked[middle - 1] + ranked[middle]) / 2
