"""One manner of speaking for nine libraries. What a library has no word for raises ``Lacks``."""

from __future__ import annotations

import concurrent.futures
import contextlib
import inspect
import multiprocessing
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

__all__ = ["PEERS", "Call", "Handle", "Lacks", "Peer"]


class Lacks(Exception):  # noqa: N818  it is an answer
    """There is no option, method or name for it."""


class Handle:
    """A task that was handed in."""

    def __init__(self, raw: Any, get: Callable[[float], Any]) -> None:
        self.raw, self.get = raw, get

    def outcome(self, within: float) -> Any:
        """Return what came of it, an exception as well; "waiting" if nothing did."""
        begun = time.monotonic()
        try:
            return self.get(within)
        except BaseException as error:
            return "waiting" if time.monotonic() - begun >= within - 0.05 else error


Call = tuple[Any, ...]  # the function and its arguments


class Peer:
    """A library with its pool."""

    OPTIONS: dict[str, str] = {}  # of the pool: our word, its parameter  # noqa: RUF012
    SUBMIT: dict[str, str] = {}  # of a task  # noqa: RUF012
    IMPORT, OPEN, CONTEXT = "", "", ""  # for a script: how it is imported and made, and what makes it spawn
    WITH_SPAWN: tuple[str, ...] = ()  # options that fork does not go with

    pool: Any

    def open(self, workers: int = 2, **options: Any) -> Any:
        self.pool = self.make(workers, **self.translate(options))
        return self.pool

    def translate(self, options: dict[str, Any]) -> dict[str, Any]:
        if unknown := options.keys() - self.OPTIONS.keys():
            raise Lacks(", ".join(unknown))
        return {self.OPTIONS[word]: value for word, value in options.items()}

    def terms(self, options: dict[str, Any]) -> dict[str, Any]:
        if unknown := options.keys() - self.SUBMIT.keys():
            raise Lacks(", ".join(unknown))
        return {self.SUBMIT[word]: value for word, value in options.items()}

    def make(self, workers: int, **options: Any) -> Any:
        raise NotImplementedError

    def start(self, *call: Any, **terms: Any) -> Handle:
        future = self.pool.submit(*call, **self.terms(terms))
        return Handle(future, future.result)

    def together(self, calls: list[Call], within: float = 12.0, **terms: Any) -> list[Any]:
        """Run all of them; return the outcome of each."""
        handles = [self.start(*call, **terms) for call in calls]
        until = time.monotonic() + within
        return [handle.outcome(max(0.1, until - time.monotonic())) for handle in handles]

    def iterate(self, function: Callable[[Any], Any], items: Iterable[Any], **terms: Any) -> Iterator[Any]:
        if terms:
            raise Lacks(", ".join(terms))
        return iter(self.pool.map(function, items))

    def unordered(self, function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
        raise Lacks("unordered")

    def kill(self, handle: Handle) -> None:
        raise Lacks("kill")

    def cancel(self, handle: Handle) -> bool:
        return bool(handle.raw.cancel())

    def close(self) -> None:
        self.pool.shutdown(wait=True)

    def public(self) -> list[Any]:
        """What a user calls, for a look at the parameters."""
        return [type(self.pool)]

    def vocabulary(self) -> set[str]:
        """Every public name and every name of a parameter."""
        words: set[str] = set()
        for thing in self.public():
            members = [thing, *(getattr(thing, name) for name in dir(thing) if not name.startswith("_"))]
            words |= {name for name in dir(thing) if not name.startswith("_")}
            for member in members:
                with contextlib.suppress(TypeError, ValueError):
                    words |= set(inspect.signature(member).parameters)
        return words


class Safepool(Peer):
    OPTIONS = {  # noqa: RUF012
        "initializer": "initializer",
        "initargs": "initargs",
        "finalizer": "finalizer",
        "finalargs": "finalargs",
        "max_tasks": "max_tasks_per_child",
        "idle_timeout": "idle_timeout",
        "min_workers": "min_workers",
        "spare_workers": "spare_workers",
        "env": "env",
        "threads": "inner_max_num_threads",
        "reducers": "job_reducers",
        "max_pending": "max_pending",
        "memory_limit": "memory_limit",
        "worker_memory": "max_worker_memory",
        "soft_timeout": "soft_timeout",
        "leftovers": "leftovers",
        "when_full": "when_full",
        "on_error": "on_error",
        "containment": "containment",
    }
    IMPORT = "from safepool import SafeProcessPoolExecutor as Pool"
    OPEN = "Pool(2)"

    def make(self, workers: int, **options: Any) -> Any:
        from safepool import SafeProcessPoolExecutor

        return SafeProcessPoolExecutor(workers, **options)

    def start(self, *call: Any, **terms: Any) -> Handle:
        future = self.pool.options(**terms).submit(*call)
        return Handle(future, future.result)

    def iterate(self, function: Callable[[Any], Any], items: Iterable[Any], **terms: Any) -> Iterator[Any]:
        words = {"timeout": "task_timeout", "lazy": "buffersize", "go_on": "return_exceptions"}
        return iter(self.pool.map(function, items, **{words[word]: value for word, value in terms.items()}))

    def unordered(self, function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
        return iter(self.pool.map_unordered(function, items))

    def kill(self, handle: Handle) -> None:
        assert handle.raw.kill()


class Std(Peer):
    OPTIONS = {"initializer": "initializer", "initargs": "initargs", "max_tasks": "max_tasks_per_child"}  # noqa: RUF012
    IMPORT = "import multiprocessing\nfrom concurrent.futures import ProcessPoolExecutor as Pool"
    OPEN, CONTEXT = "Pool(2{})", ", mp_context=multiprocessing.get_context('spawn')"

    def make(self, workers: int, **options: Any) -> Any:
        if "max_tasks_per_child" in options:
            options["mp_context"] = multiprocessing.get_context("spawn")
        return concurrent.futures.ProcessPoolExecutor(workers, **options)


class MpPool(Peer):
    OPTIONS = {"initializer": "initializer", "initargs": "initargs", "max_tasks": "maxtasksperchild"}  # noqa: RUF012
    IMPORT = "import multiprocessing"
    OPEN, CONTEXT = "multiprocessing{}.Pool(2)", ".get_context('spawn')"

    def make(self, workers: int, **options: Any) -> Any:
        return multiprocessing.Pool(workers, **options)

    def start(self, *call: Any, **terms: Any) -> Handle:
        self.terms(terms)
        result = self.pool.apply_async(call[0], call[1:])
        return Handle(result, result.get)

    def iterate(self, function: Callable[[Any], Any], items: Iterable[Any], **terms: Any) -> Iterator[Any]:
        if terms.keys() - {"go_on", "lazy"}:
            raise Lacks("timeout")
        return iter(self.pool.imap(function, items))

    def unordered(self, function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
        return iter(self.pool.imap_unordered(function, items))

    def cancel(self, handle: Handle) -> bool:
        raise Lacks("cancel")

    def close(self) -> None:
        self.pool.close()
        self.pool.join()


class Loky(Peer):
    OPTIONS = {  # noqa: RUF012
        "initializer": "initializer",
        "initargs": "initargs",
        "idle_timeout": "timeout",
        "env": "env",
        "reducers": "job_reducers",
    }
    IMPORT, OPEN = "from loky import get_reusable_executor", "get_reusable_executor(2)"

    def make(self, workers: int, **options: Any) -> Any:
        import loky

        return loky.get_reusable_executor(workers, **options)

    def public(self) -> list[Any]:
        import loky

        return [type(self.pool), loky.get_reusable_executor]


class Pebble(Peer):
    OPTIONS = {"initializer": "initializer", "initargs": "initargs", "max_tasks": "max_tasks"}  # noqa: RUF012
    SUBMIT = {"timeout": "timeout"}  # noqa: RUF012
    IMPORT = "import multiprocessing\nfrom pebble import ProcessPool as Pool"
    OPEN, CONTEXT = "Pool(2{})", ", context=multiprocessing.get_context('spawn')"

    def make(self, workers: int, **options: Any) -> Any:
        import pebble

        return pebble.ProcessPool(workers, **options)

    def start(self, *call: Any, **terms: Any) -> Handle:
        future = self.pool.schedule(call[0], call[1:], **self.terms(terms))
        return Handle(future, future.result)

    def iterate(self, function: Callable[[Any], Any], items: Iterable[Any], **terms: Any) -> Iterator[Any]:
        terms.pop("go_on", None)  # it always does
        terms.pop("lazy", None)
        return iter(self.pool.map(function, items, **terms).result())

    def kill(self, handle: Handle) -> None:
        handle.raw.cancel()

    def close(self) -> None:
        self.pool.close()
        self.pool.join()

    def public(self) -> list[Any]:
        import pebble

        return [type(self.pool), pebble.concurrent.process]


class Deadpool(Peer):
    OPTIONS = {  # noqa: RUF012
        "initializer": "initializer",
        "initargs": "initargs",
        "finalizer": "finalizer",
        "finalargs": "finalargs",
        "max_tasks": "max_tasks_per_child",
        "min_workers": "min_workers",
        "worker_memory": "max_worker_memory_bytes",
        "max_pending": "max_backlog",
        "env": "propagate_environ",
    }
    SUBMIT = {"timeout": "deadpool_timeout", "priority": "deadpool_priority"}  # noqa: RUF012
    IMPORT = "import multiprocessing\nfrom deadpool import Deadpool as Pool"
    OPEN, CONTEXT = "Pool(2{})", ", mp_context='spawn'"

    def make(self, workers: int, **options: Any) -> Any:
        import deadpool

        return deadpool.Deadpool(workers, **options)

    def translate(self, options: dict[str, Any]) -> dict[str, Any]:
        rest = {word: value for word, value in options.items() if word != "on_error"}
        on_exit = {"shutdown_wait": False, "shutdown_cancel_futures": True}  # whether there is an error or not
        return {**super().translate(rest), **(on_exit if "on_error" in options else {})}

    def kill(self, handle: Handle) -> None:
        handle.raw.cancel_and_kill_if_running()


class Mpire(Peer):
    OPTIONS = {"worker_id": "pass_worker_id", "state": "use_worker_state", "by_value": "use_dill"}  # noqa: RUF012
    SUBMIT = {  # noqa: RUF012
        "timeout": "task_timeout",
        "initializer": "worker_init",
        "finalizer": "worker_exit",
    }
    IMPORT = "from mpire import WorkerPool as Pool"
    OPEN, CONTEXT = "Pool(2{})", ", start_method='spawn'"

    def open(self, workers: int = 2, **options: Any) -> Any:
        import functools

        self._terms: dict[str, Any] = {}
        for hook, arguments in (("initializer", "initargs"), ("finalizer", "finalargs")):
            if hook in options:
                self._terms[hook] = functools.partial(options.pop(hook), *options.pop(arguments, ()))
        return super().open(workers, **options)

    def make(self, workers: int, **options: Any) -> Any:
        from mpire import WorkerPool

        return WorkerPool(workers, **options)

    def start(self, *call: Any, **terms: Any) -> Handle:
        result = self.pool.apply_async(call[0], call[1:], **self.terms({**self._terms, **terms}))
        return Handle(result, result.get)

    def iterate(self, function: Callable[[Any], Any], items: Iterable[Any], **terms: Any) -> Iterator[Any]:
        terms.pop("go_on", None)
        words = {"timeout": "task_timeout", "lazy": "max_tasks_active", "max_tasks": "worker_lifespan"}
        return iter(
            self.pool.imap(
                function,
                items,
                iterable_len=None if hasattr(items, "__len__") else 10_000,
                chunk_size=1,
                **{words[word]: value for word, value in terms.items()},
            )
        )

    def unordered(self, function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
        return iter(self.pool.imap_unordered(function, items, chunk_size=1))

    def cancel(self, handle: Handle) -> bool:
        raise Lacks("cancel")

    def close(self) -> None:
        self.pool.stop_and_join()


class Joblib(Peer):
    OPTIONS = {  # noqa: RUF012
        "initializer": "initializer",
        "initargs": "initargs",
        "idle_timeout": "idle_worker_timeout",
        "threads": "inner_max_num_threads",
    }
    IMPORT = "from joblib import Parallel, delayed"

    def make(self, workers: int, **options: Any) -> Any:
        import joblib

        self._workers = max(2, workers)  # with one, everything runs in the host
        self._config = options
        return joblib.Parallel

    def _call(self, calls: Iterable[Call], **options: Any) -> Any:
        import joblib

        with joblib.parallel_config(backend="loky", **self._config):
            tasks = (joblib.delayed(call[0])(*call[1:]) for call in calls)
            return joblib.Parallel(n_jobs=self._workers, **options)(tasks)

    def start(self, *call: Any, **terms: Any) -> Handle:
        if terms.keys() - {"timeout"}:
            raise Lacks(", ".join(terms))
        future: concurrent.futures.Future[Any] = concurrent.futures.Future()

        def run() -> None:
            try:
                future.set_result(self._call([call], **terms)[0])
            except BaseException as error:
                future.set_exception(error)

        threading.Thread(target=run, daemon=True).start()
        return Handle(None, future.result)

    def together(self, calls: list[Call], within: float = 12.0, **terms: Any) -> list[Any]:
        try:
            return list(self._call(calls, **terms))
        except BaseException as error:
            return [error] * len(calls)

    def iterate(self, function: Callable[[Any], Any], items: Iterable[Any], **terms: Any) -> Iterator[Any]:
        words = {"timeout": "timeout"}
        options = {words[word]: value for word, value in terms.items() if word in words}
        return iter(self._call(((function, item) for item in items), return_as="generator", **options))

    def unordered(self, function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
        return iter(self._call(((function, item) for item in items), return_as="generator_unordered"))

    def cancel(self, handle: Handle) -> bool:
        raise Lacks("cancel")

    def close(self) -> None:
        from joblib.externals.loky import get_reusable_executor

        get_reusable_executor().shutdown(wait=True)

    def public(self) -> list[Any]:
        import joblib

        return [joblib.Parallel, joblib.parallel_config]


class Ray(Peer):
    SUBMIT = {"retries": "max_retries", "max_tasks": "max_calls", "memory_limit": "memory"}  # noqa: RUF012
    IMPORT = "import ray"

    def make(self, workers: int, **options: Any) -> Any:
        import ray

        ray.init(num_cpus=workers, include_dashboard=False, logging_level="error", log_to_driver=False, **options)
        return ray

    def translate(self, options: dict[str, Any]) -> dict[str, Any]:
        import functools

        runtime: dict[str, Any] = {}
        if "initializer" in options:
            hook = functools.partial(options.pop("initializer"), *options.pop("initargs", ()))
            runtime["worker_process_setup_hook"] = lambda: hook()  # noqa: PLW0108  only a function is taken
        if "env" in options:
            runtime["env_vars"] = options.pop("env")
        return {**super().translate(options), **({"runtime_env": runtime} if runtime else {})}

    def start(self, *call: Any, **terms: Any) -> Handle:
        options = {"max_retries": 0, **self.terms(terms)}
        reference = self.pool.remote(**options)(call[0]).remote(*call[1:])
        return Handle(reference, lambda within: self.pool.get(reference, timeout=within))

    def iterate(self, function: Callable[[Any], Any], items: Iterable[Any], **terms: Any) -> Iterator[Any]:
        if terms.keys() - {"go_on"}:
            raise Lacks(", ".join(terms))
        references = [self.start(function, item) for item in items]

        class Iterator_:  # noqa: N801  a generator would end with its first error
            def __iter__(self) -> Any:
                return self

            def __next__(self) -> Any:
                if not references:
                    raise StopIteration
                return references.pop(0).get(20)

        return Iterator_()

    def unordered(self, function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
        waiting = [self.start(function, item).raw for item in items]
        while waiting:
            ready, waiting = self.pool.wait(waiting, num_returns=1)
            yield self.pool.get(ready[0])

    def kill(self, handle: Handle) -> None:
        self.pool.cancel(handle.raw, force=True)

    def cancel(self, handle: Handle) -> bool:
        self.pool.cancel(handle.raw)
        return "Cancel" in type(handle.outcome(5)).__name__

    def close(self) -> None:
        self.pool.shutdown()

    def public(self) -> list[Any]:
        import ray

        return [ray.init, ray.get, ray.wait, ray.cancel, ray.shutdown, *self._options()]

    def _options(self) -> list[Any]:
        from ray._common import ray_option_utils

        class Options:
            __slots__ = tuple(name for name in ray_option_utils.task_options if not name.startswith("_"))

        return [Options]


PEERS: dict[str, type[Peer]] = {
    "safepool": Safepool,
    "stdlib": Std,
    "mp.Pool": MpPool,
    "loky": Loky,
    "pebble": Pebble,
    "deadpool": Deadpool,
    "mpire": Mpire,
    "joblib": Joblib,
    "ray": Ray,
}
