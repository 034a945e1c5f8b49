"""Tasks that make a pool, whose tasks make a pool, whose tasks make a pool."""

from __future__ import annotations

import itertools
import os
import subprocess
from typing import Any, NoReturn

from contract.gate import announce
from safepool import SafeProcessPoolExecutor, TaskTimeoutError

_ENDLESS = 2**42
_ORPHAN = "setsid sleep 900 > /dev/null 2>&1 & echo $!"  # which ends by itself, whatever the test did wrong


def pids_below(depth: int) -> list[int]:
    """Return the process ids from here to the bottom."""
    if not depth:
        return [os.getpid()]
    with SafeProcessPoolExecutor(1) as pool:
        return [os.getpid(), *pool.submit(pids_below, depth - 1).result()]


def count_leaves(depth: int, width: int) -> int:
    if not depth:
        return 1
    with SafeProcessPoolExecutor(2) as pool:
        return sum(pool.map(count_leaves, [depth - 1] * width, [width] * width))


def call_at_depth(depth: int, how: str, *args: Any) -> Any:
    """Do it at the bottom of a nest."""
    if not depth:
        return _WAYS[how](*args)
    with SafeProcessPoolExecutor(1) as pool:
        return pool.submit(call_at_depth, depth - 1, how, *args).result()


def hang_at_depth(folder: str, depth: int) -> object:
    """Tell the pid of each level, and of an orphan in a session of its own beside it; hold the GIL at the bottom."""
    announce(folder)
    announce(folder, int(subprocess.run(["sh", "-c", _ORPHAN], check=True, capture_output=True, text=True).stdout))
    if not depth:
        return sum(itertools.repeat(1, _ENDLESS))
    with SafeProcessPoolExecutor(1) as pool:
        return pool.submit(hang_at_depth, folder, depth - 1).result()


def limit_what_is_below(folder: str, depth: int, seconds: float) -> str:
    """Have a nest below end at a deadline that is set here; return the class of its error."""
    announce(folder)
    with SafeProcessPoolExecutor(1) as pool:
        future = pool.submit(hang_at_depth, folder, depth, task_timeout=seconds)
        error = future.exception()
        assert isinstance(error, TaskTimeoutError), error
        again = pool.submit(pids_below, 1).result()
    return f"{type(error).__name__}, then {len(again)} more"


def _die() -> NoReturn:
    os._exit(7)


def _fail() -> NoReturn:
    raise LookupError("from the bottom")


_WAYS: dict[str, Any] = {"die": _die, "raise": _fail, "hold": bytes}
