"""How many CPUs are there for us? loky knows, and it alone asks every place where a limit can stand."""

from __future__ import annotations

__all__ = ["cpu_count"]


def cpu_count(only_physical_cores: bool = False) -> int:
    """Return how many CPUs this process may use: what ``max_workers`` is by default.

    The least of: the CPUs of the machine, those that the process may run on (its affinity), the CPU time that its
    control group may use (rounded up), and ``LOKY_MAX_CPU_COUNT`` in the environment. At least one. The same as
    ``loky.cpu_count`` and ``joblib.cpu_count``.

    Args:
        only_physical_cores: Count a core once, however many threads it runs at a time. A limit from elsewhere that
            is lower than that still counts.
    """
    import loky  # lazily: 30 ms, and only here

    return int(loky.cpu_count(only_physical_cores=only_physical_cores))
