"""Process pools of the same kind as ours, and ours. Each is imported when its pool is made, and not before."""

from __future__ import annotations

import importlib
import multiprocessing
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from safepool.bench.peer import Peer, Retrieved

__all__ = ["Deadpool", "Loky", "Mpire", "Pebble", "Safepool"]

_UNBOUNDED = 10**9


class Loky(Peer):
    """loky's ``ProcessPoolExecutor``, with the start method that is its default."""

    name = module = distribution = "loky"
    statement = "from loky import ProcessPoolExecutor"

    def make(self, workers: int, unbounded: bool) -> Any:
        """Return the executor."""
        return importlib.import_module("loky").ProcessPoolExecutor(workers)

    def kill(self, task: Any) -> None:
        """End all workers."""
        self.pool.shutdown(wait=True, kill_workers=True)


class Pebble(Peer):
    """pebble's ``ProcessPool``, with spawn."""

    name = module = "pebble"
    distribution = "Pebble"
    statement = "from pebble import ProcessPool"
    has_timeout = True

    def make(self, workers: int, unbounded: bool) -> Any:
        """Return the pool."""
        context = multiprocessing.get_context("spawn")
        return importlib.import_module("pebble").ProcessPool(max_workers=workers, context=context)

    def submit(self, fn: Callable[..., Any], /, *args: Any, timeout: float | None = None) -> Any:
        """Hand in a task."""
        return self.pool.schedule(fn, args=args, timeout=timeout)

    def map(self, fn: Callable[[Any], Any], items: Sequence[Any], chunk: int) -> Iterable[Any]:
        """Map; its results come all at once."""
        results: Iterable[Any] = self.pool.map(fn, items, chunksize=chunk).result()
        return results

    def kill(self, task: Any) -> None:
        """End the task's worker."""
        task.cancel()

    def close(self) -> None:
        """Wait for the workers."""
        self.pool.close()
        self.pool.join()


class Deadpool(Peer):
    """Deadpool, with spawn. By default its ``submit`` waits while a thousand tasks are pending."""

    name = module = "deadpool"
    distribution = "deadpool-executor"
    statement = "from deadpool import Deadpool"
    has_timeout = True

    def make(self, workers: int, unbounded: bool) -> Any:
        """Return the executor."""
        room = {"max_backlog": _UNBOUNDED} if unbounded else {}
        return importlib.import_module("deadpool").Deadpool(max_workers=workers, mp_context="spawn", **room)

    def submit(self, fn: Callable[..., Any], /, *args: Any, timeout: float | None = None) -> Any:
        """Hand in a task."""
        terms = {} if timeout is None else {"deadpool_timeout": timeout}
        return self.pool.submit(fn, *args, **terms)

    def kill(self, task: Any) -> None:
        """End the task's worker."""
        task.cancel_and_kill_if_running()


class Mpire(Peer):
    """mpire's ``WorkerPool``, with spawn, kept alive between maps."""

    name = module = distribution = "mpire"
    statement = "from mpire import WorkerPool"
    has_timeout = True

    def make(self, workers: int, unbounded: bool) -> Any:
        """Return the pool."""
        return importlib.import_module("mpire").WorkerPool(workers, start_method="spawn", keep_alive=True)

    def submit(self, fn: Callable[..., Any], /, *args: Any, timeout: float | None = None) -> Any:
        """Hand in a task."""
        return Retrieved(self.pool.apply_async(fn, args, task_timeout=timeout).get)

    def map(self, fn: Callable[[Any], Any], items: Sequence[Any], chunk: int) -> Iterable[Any]:
        """Map as ``imap`` does."""
        results: Iterable[Any] = self.pool.imap(fn, items, chunk_size=chunk)
        return results

    def kill(self, task: Any) -> None:
        """End all workers."""
        self.pool.terminate()

    def close(self) -> None:
        """Wait for the workers."""
        self.pool.stop_and_join()


class Safepool(Peer):
    """This library."""

    name = module = distribution = "safepool"
    statement = "from safepool import SafeProcessPoolExecutor"
    has_timeout = True

    def open(self, workers: int, *, spare: int = 0, unbounded: bool = False) -> None:
        """Make the pool."""
        from safepool import SafeProcessPoolExecutor

        self.workers = workers
        self.pool = SafeProcessPoolExecutor(workers, spare_workers=spare)

    def submit(self, fn: Callable[..., Any], /, *args: Any, timeout: float | None = None) -> Any:
        """Hand in a task."""
        if timeout is None:
            return self.pool.submit(fn, *args)
        return self.pool.submit(fn, *args, task_timeout=timeout)

    def kill(self, task: Any) -> None:
        """End the task, and all that it started."""
        task.kill()
