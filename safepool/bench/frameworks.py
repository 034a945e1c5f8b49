"""Larger libraries that have a process pool somewhere within. Imported when their pools are made."""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from safepool.bench import tasks
from safepool.bench.peer import Lacks, Peer

__all__ = ["Joblib", "Ray"]


class Joblib(Peer):
    """joblib's ``Parallel`` on its loky backend. It has no ``submit``: what is gathered is one call of ``Parallel``."""

    name = module = distribution = "joblib"
    statement = "from joblib import Parallel, delayed"
    has_submit = False
    has_kill = False

    def make(self, workers: int, unbounded: bool) -> Any:
        """Return a function that runs calls."""
        joblib = importlib.import_module("joblib")

        def run(fn: Callable[..., Any], items: Iterable[Any], **options: Any) -> Any:
            with joblib.parallel_config(backend="loky", n_jobs=max(2, workers)):  # one would run in the host
                return joblib.Parallel(**options)(joblib.delayed(fn)(item) for item in items)

        return run

    def submit(self, fn: Callable[..., Any], /, *args: Any, timeout: float | None = None) -> Any:
        """Say that there is none."""
        raise Lacks("submit")

    def gather(self, fn: Callable[[Any], Any], items: Iterable[Any], timeout: float | None = None) -> list[Any]:
        """Run one ``Parallel``."""
        if timeout is not None:
            raise Lacks("a timeout that ends a task")
        return list(self.pool(fn, items))

    def map(self, fn: Callable[[Any], Any], items: Sequence[Any], chunk: int) -> Iterable[Any]:
        """Run one ``Parallel``."""
        results: Iterable[Any] = self.pool(fn, items, return_as="generator", batch_size=chunk)
        return results

    def close(self) -> None:
        """End the executor that all calls share."""
        importlib.import_module("joblib.externals.loky").get_reusable_executor().shutdown(wait=True)


class Ray(Peer):
    """Ray's tasks, on a local ``ray.init``."""

    name = module = distribution = "ray"
    statement = "import ray"

    def make(self, workers: int, unbounded: bool) -> Any:
        """Start Ray, and all that comes with it."""
        ray = importlib.import_module("ray")
        ray.init(num_cpus=workers, include_dashboard=False, logging_level="error", log_to_driver=False)
        self._remotes: dict[Any, Any] = {}
        return ray

    def submit(self, fn: Callable[..., Any], /, *args: Any, timeout: float | None = None) -> Any:
        """Hand in a task."""
        if timeout is not None:
            raise Lacks("a timeout that ends a task")
        return _RayTask(self.pool, self._remote(fn).remote(*args))

    def gather(self, fn: Callable[[Any], Any], items: Iterable[Any], timeout: float | None = None) -> list[Any]:
        """Hand in a task for each item; get all at once, which is quicker."""
        if timeout is not None:
            raise Lacks("a timeout that ends a task")
        remote = self._remote(fn)
        return list(self.pool.get([remote.remote(item) for item in items]))

    def map(self, fn: Callable[[Any], Any], items: Sequence[Any], chunk: int) -> Iterable[Any]:
        """Hand in a task for each chunk: it has no map."""
        if chunk == 1:
            return self.gather(fn, items)
        remote = self._remote(tasks.apply_each)
        chunks = [remote.remote(fn, items[start : start + chunk]) for start in range(0, len(items), chunk)]
        return itertools.chain.from_iterable(self.pool.get(chunks))

    def kill(self, task: Any) -> None:
        """End the task's worker."""
        self.pool.cancel(task.reference, force=True)

    def close(self) -> None:
        """End Ray."""
        self.pool.shutdown()

    def _remote(self, fn: Callable[..., Any]) -> Any:
        if fn not in self._remotes:
            self._remotes[fn] = self.pool.remote(max_retries=0)(fn)
        return self._remotes[fn]


class _RayTask:
    """A reference, with the word of futures."""

    def __init__(self, ray: Any, reference: Any) -> None:
        self.reference = reference
        self.result = lambda timeout=None: ray.get(reference, timeout=timeout)
