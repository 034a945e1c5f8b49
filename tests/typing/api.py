"""Never run: what type checkers must make of the public interface. Checked with mypy (strict) and pyright.

Each ``assert_type`` is a promise; each ignored error is a call that must be refused, and both checkers complain
about an ignore comment that ignores nothing.
"""

from __future__ import annotations

import concurrent.futures
import multiprocessing
from collections.abc import Iterator
from concurrent.futures import Executor, Future
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any, Literal

from typing_extensions import assert_type

from safepool import (
    EndedProcess,
    InitializerError,
    LeakError,
    QueueFullError,
    SafeFuture,
    SafeProcessPoolExecutor,
    SoftTimeoutError,
    TaskKilledError,
    TaskMemoryError,
    TaskTimeoutError,
    ThisWorker,
    TransferError,
    WorkerDiedError,
    cpu_count,
    get_context,
    get_reusable_executor,
    get_worker,
    no_leaks,
    process,
)


def add(left: int, right: int, *, scale: float = 1.0) -> float:
    return (left + right) * scale


def name_of(number: int) -> str:
    return str(number)


def nothing() -> None:
    return None


def prepare(path: str) -> None:
    assert path


def construction() -> None:
    assert_type(SafeProcessPoolExecutor(), SafeProcessPoolExecutor)
    assert_type(SafeProcessPoolExecutor(containment="strict").strict_by, Literal["group", "guardian"] | None)
    SafeProcessPoolExecutor(4, multiprocessing.get_context("spawn"), prepare, ("path",))
    SafeProcessPoolExecutor(
        max_workers=4,
        mp_context=get_context(),
        initializer=prepare,
        initargs=("path",),
        max_tasks_per_child=10,
        task_timeout=1.5,
        grace=1,
        env={"OMP_NUM_THREADS": "1"},
        job_reducers={Path: lambda path: (Path, (str(path),))},
        result_reducers={Path: repr},
        inner_max_num_threads=1,
    )
    SafeProcessPoolExecutor("4")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    SafeProcessPoolExecutor(task_timeout="1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    SafeProcessPoolExecutor(4, None, None, (), 10)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    SafeProcessPoolExecutor(job_reducers=[Path])  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    SafeProcessPoolExecutor(env={"A": 1})  # type: ignore[dict-item]  # pyright: ignore[reportArgumentType]


def submitting(pool: SafeProcessPoolExecutor) -> None:
    assert_type(pool.submit(add, 1, 2), SafeFuture[float])
    assert_type(pool.submit(add, 1, right=2, scale=2.0), SafeFuture[float])
    assert_type(pool.submit(nothing), SafeFuture[None])
    assert_type(pool.submit(name_of, 1, task_timeout=3), SafeFuture[str])
    assert_type(pool.submit(name_of, 1, task_timeout=None), SafeFuture[str])
    assert_type(pool.submit(lambda: b"bytes"), SafeFuture[bytes])
    assert_type(pool.submit(dict[str, int]), SafeFuture[dict[str, int]])
    pool.submit(add, "1", 2)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    pool.submit(add, 1)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]


def futures(pool: SafeProcessPoolExecutor) -> None:
    future = pool.submit(name_of, 1)
    assert_type(future.result(), str)
    assert_type(future.result(timeout=1.0), str)
    assert_type(future.exception(), BaseException | None)
    assert_type(future.cancel(), bool)
    assert_type(future.cancel(cancel_running=True), bool)
    assert_type(future.leftovers, tuple[EndedProcess, ...])
    assert_type(future.peak_memory, int | None)
    assert_type(future.pid, int | None)
    assert_type(future.started_at, float | None)
    future.kill()
    future.add_done_callback(print)
    as_standard: Future[str] = future
    for done in concurrent.futures.as_completed([as_standard, pool.submit(name_of, 2)]):
        assert_type(done, Future[str])


def mapping(pool: SafeProcessPoolExecutor) -> None:
    assert_type(pool.map(name_of, [1, 2]), Iterator[str])
    assert_type(pool.map(add, [1, 2], [3, 4], chunksize=2, timeout=5.0), Iterator[float])
    assert_type(pool.map(name_of, range(3), buffersize=2, task_timeout=1.0), Iterator[str])
    assert_type(list(pool.map(name_of, (1, 2))), list[str])
    pool.map(1, [1])  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    pool.map(name_of, [1], chunksize="2")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


@process
def decorated(number: int, *, scale: float = 1.0) -> float:
    return number * scale


@process(timeout=60, soft_timeout=50.0, memory_limit="2GiB", grace=1, retries=2, env={"A": "1"})
def decorated_on_terms(text: str) -> list[str]:
    return [text]


def one_off() -> None:
    assert_type(decorated(1, scale=2.0), SafeFuture[float])
    assert_type(decorated_on_terms("a").result(), list[str])
    decorated("1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def awaiting(pool: SafeProcessPoolExecutor) -> None:
    assert_type(await pool.submit(name_of, 1), str)
    assert_type(await decorated(1), float)


def in_a_worker() -> None:
    worker = get_worker()
    assert_type(worker, ThisWorker)
    assert_type(worker.id, int)
    worker.state.anything = 1


def limits() -> None:
    SafeProcessPoolExecutor(soft_timeout=1, memory_limit=1 << 30, max_worker_memory="1GiB", exit_timeout=1)
    SafeProcessPoolExecutor(finalizer=prepare, finalargs=("path",), max_pending=10, when_full="raise", leftovers="end")
    SafeProcessPoolExecutor(containment="strict", cpu_limit=1.5, measure_memory=True)
    SafeProcessPoolExecutor(detached="spare")
    SafeProcessPoolExecutor(detached="keep")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    SafeProcessPoolExecutor(when_full="wait")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    SafeProcessPoolExecutor(leftovers="kill")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def viewing(pool: SafeProcessPoolExecutor) -> None:
    view = pool.options(timeout=5.0, soft_timeout=4.0, memory_limit="1GiB", retries=1, priority=-1)
    as_standard: Executor = view
    as_standard.submit(nothing)
    assert_type(view.submit(name_of, 1).result(), str)
    assert_type(view.map(name_of, [1]), Iterator[str])


def ending(pool: SafeProcessPoolExecutor) -> None:
    as_standard: Executor = pool
    as_standard.shutdown()
    pool.shutdown(wait=False, cancel_futures=True)
    pool.shutdown(timeout=5.0)
    pool.shutdown(kill=True)
    pool.terminate_workers()
    pool.kill_workers()
    with SafeProcessPoolExecutor() as entered:
        assert_type(entered, SafeProcessPoolExecutor)


def resizing(pool: SafeProcessPoolExecutor) -> None:
    pool.resize(4)
    pool.resize(None)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def reusing() -> None:
    assert_type(get_reusable_executor(), SafeProcessPoolExecutor)
    assert_type(get_reusable_executor(4, reuse=True, kill_workers=True), SafeProcessPoolExecutor)
    get_reusable_executor(max_workers=4, reuse="auto", idle_timeout=None, initializer=prepare, initargs=("path",))
    get_reusable_executor("4")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    get_reusable_executor(reuse="never")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def counting() -> None:
    assert_type(cpu_count(), int)
    assert_type(cpu_count(only_physical_cores=True), int)


def leaks() -> str:
    try:
        with no_leaks(patience=1, end=True) as watch:
            assert_type(watch, None)
            return "a block that may not swallow what leaves it"
    except LeakError as leak:
        assert_type(leak.processes, tuple[EndedProcess, ...])
        assert_type(leak.ended[0].pid, int)
        raise


def contexts() -> None:
    assert_type(get_context(), BaseContext)


def errors(pool: SafeProcessPoolExecutor) -> None:
    try:
        pool.submit(nothing).result()
    except TaskTimeoutError as timeout:
        assert_type(timeout.task, str)
        assert_type(timeout.pid, int)
        assert_type(timeout.timeout, float)
        assert_type(timeout.elapsed, float)
        assert_type(timeout.stack, str)
        assert_type(timeout.peak_memory, int | None)
        assert_type(timeout.ended, tuple[EndedProcess, ...])
    except InitializerError as broken:
        assert_type(broken.attempts, int)
        assert_type(broken.reason, str)
    except WorkerDiedError as death:
        assert_type(death.task, str | None)
        assert_type(death.pid, int | None)
        assert_type(death.exitcode, int | None)
        assert_type(death.elapsed, float | None)
        assert_type(death.ended[0].command, str)
        assert_type(death.oom, bool | None)
    except TaskMemoryError as memory:
        assert_type(memory.limit, int)
        assert_type(memory.used, int)
        assert_type(memory.by_kernel, bool)
    except SoftTimeoutError as soft:
        assert_type(soft.timeout, float)
    except QueueFullError as full:
        assert_type(full.max_pending, int)
    except TaskKilledError as kill:
        assert_type(kill.reason, str)
    except TransferError as transfer:
        assert_type(transfer.original, str)


def standard_places(pool: SafeProcessPoolExecutor) -> None:
    def takes_executor(executor: Executor) -> Any:
        return executor.submit(nothing)

    takes_executor(pool)
    takes_executor(pool.options(timeout=1.0))
