"""One executor for the whole program, kept between uses: starting workers costs more than most of what they are given.

loky keeps one for each thread; a program that computes in ten threads has ten pools there, and one here.
"""

from __future__ import annotations

import contextlib
import inspect
import os
import threading
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from safepool._pool.cpus import cpu_count
from safepool._pool.door import check_choice, check_count
from safepool._pool.executor import SafeProcessPoolExecutor

__all__ = ["get_reusable_executor"]

Reuse = Literal["auto"] | bool


class _Kept(NamedTuple):
    executor: SafeProcessPoolExecutor
    options: dict[str, Any]  # that it was made with


_kept: _Kept | None = None
_lock = threading.RLock()  # re-entrant, since a signal handler may ask for the executor, too


def get_reusable_executor(
    max_workers: int | None = None,
    *,
    reuse: Reuse = "auto",
    kill_workers: bool = False,
    idle_timeout: float | None = 10.0,
    **options: Any,
) -> SafeProcessPoolExecutor:
    """Return the executor of this process: make it, resize it, or replace it, as need be.

    It is the same as the last time if it takes calls and was made with the same options; for another ``max_workers``
    it is resized. Otherwise a new one takes its place at once, and the old one is shut down before this call returns.
    The death of a worker is no reason to replace it. All threads share it: one that wants other options had better
    make an executor of its own, and whoever shuts this one down does so for all. A forked child has one of its own.

    Args:
        max_workers: The most workers at a time. By default the number of usable CPUs; with ``reuse=True``, as many as
            there may be already.
        reuse: "auto" to reuse it only if the options are the same, True to reuse it whatever they are, False for a
            new one. Options are the same if they are equal; those that cannot be compared are not.
        kill_workers: Whether what the old one still runs is ended (``TaskKilledError``). Otherwise it is waited for.
        idle_timeout: Seconds after which a worker that has nothing to do leaves; None for never.
        **options: What else ``SafeProcessPoolExecutor`` takes, by name.

    Raises:
        TypeError: An argument has the wrong type, or there is no such option; the message names it.
        ValueError: An argument is out of range; the message names it.

    A call that raises one of these has changed nothing.
    """
    size = check_count("max_workers", max_workers)
    check_choice("reuse", reuse, ("auto", True, False))
    complete = _complete({"idle_timeout": idle_timeout, **options})
    with _lock:
        old = _kept
        if old is not None and _may_be_reused(old, reuse, complete) and _resize(old.executor, size, reuse):
            return old.executor
        executor = _make(size, complete, old)
    if old is not None:
        # Not under the lock: callbacks of what is waited for may ask for the executor, and get the new one.
        old.executor.shutdown(kill=kill_workers)
    return executor


def _make(size: int | None, options: dict[str, Any], before: _Kept | None) -> SafeProcessPoolExecutor:
    global _kept
    executor = SafeProcessPoolExecutor(size, **options)
    overtaken = _kept  # by a signal handler that asked meanwhile: nobody would ever shut its executor down
    _kept = _Kept(executor, options)
    if overtaken is not None and overtaken is not before:
        overtaken.executor.shutdown(wait=False)
    return executor


def _complete(options: dict[str, Any]) -> dict[str, Any]:
    """Return all options, those that were not given at their defaults; tables as they are now."""
    given = inspect.signature(SafeProcessPoolExecutor).bind_partial(None, **options)
    given.apply_defaults()
    del given.arguments["max_workers"]
    return {name: dict(value) if isinstance(value, Mapping) else value for name, value in given.arguments.items()}


def _may_be_reused(kept: _Kept, reuse: Reuse, options: dict[str, Any]) -> bool:
    return kept.executor._pool.is_open and bool(reuse) and (reuse != "auto" or _are_same(kept.options, options))


def _are_same(left: dict[str, Any], right: dict[str, Any]) -> bool:
    try:
        return bool(left == right)
    except Exception:  # arrays, for instance, answer with an array
        return False


def _resize(executor: SafeProcessPoolExecutor, size: int | None, reuse: Reuse) -> bool:
    """Give it the size that is asked for; return False if it has been shut down, or has broken, meanwhile."""
    if size is None and reuse != "auto":
        return True
    size = size or cpu_count()
    with contextlib.suppress(RuntimeError):
        if size != executor._max_workers:
            executor.resize(size)
        return True
    return False


def _forget_lock() -> None:
    """A forked child may have been born with the lock taken, by a thread that it does not have."""
    global _lock
    _lock = threading.RLock()


os.register_at_fork(after_in_child=_forget_lock)
