"""Measure: every case, so many times, with the peers taking turns; each measurement in a fresh interpreter."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from safepool.bench import arrays
from safepool.bench.cage import HostFailed, call_in_host
from safepool.bench.case import Scale
from safepool.bench.cases import CASES
from safepool.bench.peers import version_of
from safepool.bench.quantiles import median

__all__ = ["Measurement", "Plan", "Results", "describe_machine", "run"]


@dataclass(frozen=True)
class Plan:
    """What is to be measured."""

    cases: Sequence[str]
    peers: Sequence[str]
    workers: int
    repeat: int
    scale: Scale


@dataclass(frozen=True)
class Measurement:
    """What came of one case with one peer, once: figures, or why there are none."""

    case: str
    peer: str
    turn: int
    figures: dict[str, float] = field(default_factory=dict)
    lacks: str = ""
    error: str = ""


@dataclass(frozen=True)
class Results:
    """All measurements of a run, and of what they are."""

    plan: Plan
    machine: dict[str, str]
    versions: dict[str, str]
    measurements: list[Measurement]

    def figures(self, case: str, peer: str, key: str) -> dict[int, float]:
        """Return one figure by turn."""
        return {found.turn: found.figures[key] for found in self._of(case, peer) if key in found.figures}

    def middle(self, case: str, peer: str, key: str) -> float | None:
        """Return the median over all turns; None if there is nothing."""
        figures = self.figures(case, peer, key)
        return median(list(figures.values())) if figures else None

    def trouble(self, case: str, peer: str) -> str:
        """Return why a figure is missing; nothing if the peer has no word for it."""
        return next((found.error for found in self._of(case, peer) if found.error), "")

    def keys(self, case: str) -> list[str]:
        """Return the keys of all figures of a case, in order."""
        return list(dict.fromkeys(key for found in self.measurements if found.case == case for key in found.figures))

    def _of(self, case: str, peer: str) -> list[Measurement]:
        return [found for found in self.measurements if (found.case, found.peer) == (case, peer)]

    @classmethod
    def from_json(cls, kept: dict[str, Any]) -> Results:
        """Return what ``as_json`` has described."""
        found = [Measurement(**measurement) for measurement in kept["measurements"]]
        return cls(Plan(**kept["plan"]), kept["machine"], kept["versions"], found)

    def as_json(self) -> dict[str, Any]:
        """Return what is written into a file."""
        return asdict(self)


def run(plan: Plan, tell: Callable[[str], None]) -> Results:
    """Make all measurements of a plan.

    Peers take turns within a case, each time starting with another, so that a slow minute of the machine and the
    order count for none of them. One that has failed or lacks the case is not asked again. When it is interrupted, it
    returns what it has.
    """
    results = Results(plan, describe_machine(), {peer: version_of(peer) for peer in plan.peers}, [])
    try:
        _measure_all(plan, results.measurements, tell)
    except KeyboardInterrupt:
        tell("interrupted")
    return results


def _measure_all(plan: Plan, found: list[Measurement], tell: Callable[[str], None]) -> None:
    for case in plan.cases:
        out: set[str] = {peer for peer in plan.peers if not CASES[case].suits(peer)}
        for turn in range(plan.repeat):
            first = turn % len(plan.peers)
            for peer in [*plan.peers[first:], *plan.peers[:first]]:
                if peer not in out:
                    found.append(_measure(plan, case, peer, turn))
                    tell(_line(found[-1]))
                    if found[-1].error or found[-1].lacks:
                        out.add(peer)


def describe_machine() -> dict[str, str]:
    """Return what kind of machine this is; nothing that says which one."""
    return {
        "CPU": f"{_cpu_model()}, {len(os.sched_getaffinity(0))} cores",
        "memory": f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / (1 << 30):.0f} GiB",
        "kernel": f"{platform.system()} {platform.release().partition('-')[0]}",
        "Python": f"{platform.python_implementation()} {sys.version.split()[0]}",
        "arrays": arrays.kind(),
    }


def _measure(plan: Plan, case: str, peer: str, turn: int) -> Measurement:
    arguments = {"case": case, "peer": peer, "workers": plan.workers, "scale": plan.scale}
    try:
        answer = call_in_host("safepool.bench.measure:measure", arguments, CASES[case].limit(plan.scale))
    except HostFailed as failure:
        return Measurement(case, peer, turn, error=str(failure))
    return Measurement(case, peer, turn, **answer)


def _line(found: Measurement) -> str:
    figures = "  ".join(f"{key} {value:.4g}" for key, value in found.figures.items())
    outcome = figures or (f"has no {found.lacks.removeprefix('a ')}" if found.lacks else f"error: {found.error}")
    return f"{found.case:16} {found.peer:12} {outcome}"


def _cpu_model() -> str:
    with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
        names = (line.partition(":")[2].strip() for line in file if line.startswith(("model name", "Model")))
        return next(names, platform.machine())
