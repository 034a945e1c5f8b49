"""safepool: a process pool in which nothing is left behind.

The names below are loaded when they are first used (PEP 562): every worker imports this package, and must not pay
for the host's half of it.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False  # to type checkers it is True; ``typing`` costs as much as all else that a worker imports of ours
if TYPE_CHECKING:
    from typing import Any

    from safepool._pool.cpus import cpu_count as cpu_count
    from safepool._pool.executor import SafeProcessPoolExecutor as SafeProcessPoolExecutor
    from safepool._pool.future import SafeFuture as SafeFuture
    from safepool._pool.process import process as process
    from safepool._pool.reusable import get_reusable_executor as get_reusable_executor
    from safepool._worker.identity import ThisWorker as ThisWorker
    from safepool._worker.identity import get_worker as get_worker
    from safepool.context import get_context as get_context
    from safepool.errors import ContainmentError as ContainmentError
    from safepool.errors import EndedProcess as EndedProcess
    from safepool.errors import InitializerError as InitializerError
    from safepool.errors import LeakError as LeakError
    from safepool.errors import LeftoverWarning as LeftoverWarning
    from safepool.errors import QueueFullError as QueueFullError
    from safepool.errors import SoftTimeoutError as SoftTimeoutError
    from safepool.errors import TaskKilledError as TaskKilledError
    from safepool.errors import TaskMemoryError as TaskMemoryError
    from safepool.errors import TaskTimeoutError as TaskTimeoutError
    from safepool.errors import TransferError as TransferError
    from safepool.errors import WorkerDiedError as WorkerDiedError
    from safepool.tools.leaks import no_leaks as no_leaks

__version__ = "0.1.0"

_HOMES = {
    "ContainmentError": "safepool.errors",
    "EndedProcess": "safepool.errors",
    "InitializerError": "safepool.errors",
    "LeakError": "safepool.errors",
    "LeftoverWarning": "safepool.errors",
    "QueueFullError": "safepool.errors",
    "SafeFuture": "safepool._pool.future",
    "SafeProcessPoolExecutor": "safepool._pool.executor",
    "SoftTimeoutError": "safepool.errors",
    "TaskKilledError": "safepool.errors",
    "TaskMemoryError": "safepool.errors",
    "TaskTimeoutError": "safepool.errors",
    "ThisWorker": "safepool._worker.identity",
    "TransferError": "safepool.errors",
    "WorkerDiedError": "safepool.errors",
    "cpu_count": "safepool._pool.cpus",
    "get_context": "safepool.context",
    "get_reusable_executor": "safepool._pool.reusable",
    "get_worker": "safepool._worker.identity",
    "no_leaks": "safepool.tools.leaks",
    "process": "safepool._pool.process",
}

__all__ = [
    "ContainmentError",
    "EndedProcess",
    "InitializerError",
    "LeakError",
    "LeftoverWarning",
    "QueueFullError",
    "SafeFuture",
    "SafeProcessPoolExecutor",
    "SoftTimeoutError",
    "TaskKilledError",
    "TaskMemoryError",
    "TaskTimeoutError",
    "ThisWorker",
    "TransferError",
    "WorkerDiedError",
    "cpu_count",
    "get_context",
    "get_reusable_executor",
    "get_worker",
    "no_leaks",
    "process",
]

_ELSEWHERE = (
    "safepool runs on Linux, not on {platform}: that nothing is left behind rests on what only Linux has (a pipe whose "
    "closing kills a process group, pidfds, /proc). Use concurrent.futures.ProcessPoolExecutor there, which has the "
    "same interface but for what safepool adds."
)


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'safepool' has no attribute {name!r}")
    if sys.platform != "linux":
        raise ImportError(_ELSEWHERE.format(platform=sys.platform), name=home)
    import importlib

    value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
