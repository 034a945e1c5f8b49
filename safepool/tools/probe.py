"""A mechanism that can be tried, and what came of it."""

from __future__ import annotations

from collections.abc import Callable

from safepool._os.features import why_not
from safepool._plain import NamedTuple, dataclass

__all__ = ["DEGRADED", "EVERY_POOL", "LIMITS", "MISSING", "OK", "STRICT", "TASKS", "Finding", "Probe"]

OK = "ok"
DEGRADED = "degraded"  # something stands in for it, with less
MISSING = "missing"

EVERY_POOL = "every pool"
TASKS = "tasks"  # what a pool does without, and some tasks do not
STRICT = "strict containment"
LIMITS = "limits by the kernel"


class Finding(NamedTuple):
    """What came of trying: a status, and what was seen."""

    status: str
    found: str


@dataclass(frozen=True)
class Probe:
    """One mechanism.

    Attributes:
        name: What it is called in the output, and for ``--only``.
        needed_for: EVERY_POOL, TASKS, STRICT or LIMITS.
        attempt: Does the very thing, and leaves nothing behind.
        lost: What does not hold without it.
        remedy: How to get it.
        mechanism: What it is the probe of (``features``): where a pool does without that, it is not tried.
    """

    name: str
    needed_for: str
    attempt: Callable[[], Finding]
    lost: str
    remedy: str
    mechanism: str | None = None

    def run(self) -> Finding:
        """Try it; what cannot be tried is missing."""
        try:
            if self.mechanism is not None and (reason := why_not(self.mechanism)):
                return Finding(DEGRADED, f"a pool does without: {reason}")
            return self.attempt()
        except (OSError, AttributeError) as error:  # an interpreter may lack a call, too
            return Finding(MISSING, str(error))
