"""The pools that come with Python."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar

from safepool.bench.peer import Lacks, Peer, Retrieved

__all__ = ["MpPool", "Stdlib", "StdlibFork"]


class Stdlib(Peer):
    """``concurrent.futures.ProcessPoolExecutor``, with spawn."""

    name = "stdlib"
    statement = "from concurrent.futures import ProcessPoolExecutor"
    method: ClassVar[str] = "spawn"
    has_kill = hasattr(concurrent.futures.ProcessPoolExecutor, "kill_workers")  # from Python 3.14 on

    def make(self, workers: int, unbounded: bool) -> Any:
        """Return the executor."""
        return concurrent.futures.ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context(self.method))

    def kill(self, task: Any) -> None:
        """End all workers."""
        self.pool.kill_workers()


class StdlibFork(Stdlib):
    """The same, with fork."""

    name = "stdlib-fork"
    method = "fork"


class MpPool(Peer):
    """``multiprocessing.Pool``, with spawn. A task whose worker died is never heard of again."""

    name = "mp.Pool"
    statement = "from multiprocessing import Pool; import multiprocessing.pool"

    def make(self, workers: int, unbounded: bool) -> Any:
        """Return the pool."""
        return multiprocessing.get_context("spawn").Pool(workers)

    def submit(self, fn: Callable[..., Any], /, *args: Any, timeout: float | None = None) -> Any:
        """Hand in a task."""
        if timeout is not None:
            raise Lacks("a timeout for a task")
        return Retrieved(self.pool.apply_async(fn, args).get)

    def map(self, fn: Callable[[Any], Any], items: Sequence[Any], chunk: int) -> Iterable[Any]:
        """Map as ``imap`` does."""
        results: Iterable[Any] = self.pool.imap(fn, items, chunksize=chunk)
        return results

    def kill(self, task: Any) -> None:
        """End all workers."""
        self.pool.terminate()

    def close(self) -> None:
        """Wait for the workers."""
        self.pool.close()
        self.pool.join()
