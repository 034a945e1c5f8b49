"""What a case is: something to measure, at three scales."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

__all__ = ["SCALES", "Case", "Metric", "Scale"]

Scale = Literal["tiny", "quick", "full"]
SCALES: tuple[Scale, ...] = ("tiny", "quick", "full")


@dataclass(frozen=True)
class Metric:
    """One figure of a case: a row of the table."""

    key: str
    label: str
    unit: str
    more_is_better: bool = False


@dataclass(frozen=True)
class Case:
    """Something to measure."""

    name: str
    group: str
    metrics: tuple[Metric, ...]
    function: Callable[..., dict[str, float]]
    tiny: dict[str, Any]
    quick: dict[str, Any]
    full: dict[str, Any]
    fixed: dict[str, Any] = field(default_factory=dict)
    only: tuple[str, ...] = ()  # peers; none for all
    series: str = ""  # what the keys count, where they are numbers of something and not metrics of the table
    limits: tuple[float, float, float] = (40.0, 120.0, 600.0)  # seconds for one measurement

    def arguments(self, scale: Scale) -> dict[str, Any]:
        """Return what the function is called with."""
        sizes: dict[str, Any] = getattr(self, scale)
        return {**self.fixed, **sizes}

    def limit(self, scale: Scale) -> float:
        """Return how many seconds one measurement may take."""
        return self.limits[SCALES.index(scale)]

    def suits(self, peer: str) -> bool:
        """Return False if the case means nothing to the peer."""
        return not self.only or peer in self.only
