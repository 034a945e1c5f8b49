"""On what terms a task runs: the pool's own, a view's, or the call's."""

from __future__ import annotations

from safepool._plain import dataclass

__all__ = ["Terms"]


@dataclass(frozen=True)
class Terms:
    """Limits and wishes for one task; all of them have been checked.

    Attributes:
        timeout: Seconds that it may run; None for no limit.
        soft_timeout: Seconds after which it is warned; None for never.
        memory_limit: Bytes that it may hold, with all that it has started; None for no limit.
        retries: How often it is run again after its worker died or its time was up.
        priority: The lowest number goes first.
    """

    timeout: float | None = None
    retries: int = 0
    priority: int = 0
    soft_timeout: float | None = None
    memory_limit: int | None = None

    @property
    def has_limits(self) -> bool:
        """True if the worker may be signalled while the task runs."""
        return self.timeout is not None or self.soft_timeout is not None or self.memory_limit is not None
