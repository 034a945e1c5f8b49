"""Make one measurement: what the host of a measurement calls."""

from __future__ import annotations

from typing import Any

from safepool.bench import footprint, latency
from safepool.bench.case import Scale
from safepool.bench.cases import CASES
from safepool.bench.peer import Lacks, Peer
from safepool.bench.peers import PEERS

__all__ = ["measure"]

_LEAVES_TASKS = {footprint.queue_memory, latency.replacement}  # such a pool might never end by itself


def measure(case: str, peer: str, workers: int, scale: Scale) -> dict[str, Any]:
    """Make one measurement here and now; return its figures, or what the peer lacks for it."""
    subject: Peer = PEERS[peer]()
    try:
        figures = CASES[case].function(subject, workers, **CASES[case].arguments(scale))
    except Lacks as lacking:
        return {"lacks": str(lacking)}
    if subject.pool is not None and CASES[case].function not in _LEAVES_TASKS:
        subject.close()
    return {"figures": figures}
