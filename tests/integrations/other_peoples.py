"""Packages written by others, each at its main job, on the standard library's pool or on ours.

    python other_peoples.py EXECUTOR JOB FOLDER OUTCOME

``safepool`` as EXECUTOR replaces the name in ``concurrent.futures`` before the package is imported, which is what a
changed import amounts to; nothing else differs. The job works in FOLDER. What came of it is written to OUTCOME, with
how many of our pools there were, and how many of their workers have worked.
"""

from __future__ import annotations

import concurrent.futures
import json
import logging
import math
import multiprocessing
import os
import runpy
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

WORKERS = 2
NUMBERS = range(60)


def root(number: int) -> float:
    """Something to compute."""
    return math.sqrt(number)


def root_of_a_positive(number: int) -> float:
    """Fail for some: what a package makes of a task's own exception is part of its job."""
    if number % 20 == 13:
        raise ValueError(f"{number} is unlucky")
    return math.sqrt(number)


def peak(x: float) -> float:
    """A function that is worth being sampled adaptively."""
    return x + 0.01**2 / (0.01**2 + x**2)


def die() -> None:
    """Take the worker along."""
    os._exit(7)


# --- command lines: what the package prints and writes is compared, in the folder -------------------------------------


def command(module: str, *arguments: str) -> object:
    """Run ``python -m module arguments``; return its exit status."""
    sys.argv = [module, *arguments]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as done:
        return done.code or 0
    return 0


def sources() -> list[str]:
    return sorted(str(path) for path in Path().glob("*.py"))


def black() -> object:
    return command("black", "--workers", str(WORKERS), *sources())


def black_diff() -> object:
    """Workers print, and take turns by a manager's lock, which is an argument of the task."""
    return command("black", "--diff", "--workers", str(WORKERS), *sources())


def yapf() -> object:
    return command("yapf", "--parallel", "--in-place", *sources())


def compile_all() -> object:
    return command("compileall", "-q", "-j", str(WORKERS), "--invalidation-mode", "checked-hash", ".")


# --- libraries: what they return is compared --------------------------------------------------------------------------


def tqdm() -> object:
    """Its workers share a lock with the host. Where fork is the default, that must be the spawn context's."""
    from tqdm.auto import tqdm
    from tqdm.contrib.concurrent import process_map

    tqdm.set_lock(multiprocessing.get_context("spawn").RLock())
    return [
        process_map(root, NUMBERS, max_workers=WORKERS),
        process_map(root, NUMBERS, max_workers=WORKERS, chunksize=7),
        process_map(pow, NUMBERS, reversed(NUMBERS), max_workers=WORKERS, max_tasks_per_child=None),
    ]


def tqdm_as_it_is() -> object:
    from tqdm.contrib.concurrent import process_map

    try:
        return process_map(root, NUMBERS, max_workers=WORKERS)
    except RuntimeError as error:
        return str(error)


def pqdm() -> object:
    from pqdm.processes import pqdm

    pairs = [{"x": number, "y": 2} for number in NUMBERS]
    return [
        pqdm(NUMBERS, root, n_jobs=WORKERS),
        pqdm(list(enumerate(NUMBERS)), math.hypot, n_jobs=WORKERS, argument_type="args"),
        pqdm(pairs, keywords, n_jobs=WORKERS, argument_type="kwargs"),
        [str(outcome) for outcome in pqdm(NUMBERS, root_of_a_positive, n_jobs=WORKERS)],
    ]


def keywords(*, x: int, y: int) -> int:
    """Be called by keywords."""
    return x**y


def bounded_pool_executor() -> object:
    """It derives a class of its own from the executor; its ``submit`` waits for an earlier task's done-callback."""
    from bounded_pool_executor import BoundedProcessPoolExecutor

    with BoundedProcessPoolExecutor(WORKERS) as pool:
        futures = [pool.submit(root, number) for number in NUMBERS]
        return [future.result() for future in futures]


def adaptive() -> object:
    """It asks for the executor's class, and for its ``_max_workers``."""
    import adaptive

    with concurrent.futures.ProcessPoolExecutor(WORKERS) as pool:
        sequence = adaptive.SequenceLearner(root, NUMBERS)
        adaptive.BlockingRunner(sequence, executor=pool)
        learner = adaptive.Learner1D(peak, bounds=(-1, 1))
        adaptive.BlockingRunner(learner, executor=pool, loss_goal=0.05)
    # Which points are sampled depends on who is first; that each has its value, and that the goal is reached, does not.
    assert all(value == peak(x) for x, value in learner.data.items())
    return [list(sequence.result()), bool(learner.loss() <= 0.05)]


def adaptive_of_a_user() -> object:
    """The package's import stays as it is; the user's own is changed."""
    import adaptive

    from safepool import SafeProcessPoolExecutor

    sequence = adaptive.SequenceLearner(root, NUMBERS)
    with SafeProcessPoolExecutor(WORKERS) as pool:
        adaptive.BlockingRunner(sequence, executor=pool)
    return list(sequence.result())


def dask() -> object:
    import dask
    from dask import bag

    words = bag.from_sequence(NUMBERS, npartitions=6).map(lambda number: (number % 3, root(number)))
    totals = words.foldby(0, lambda total, word: total + word[1], 0.0, lambda one, other: one + other, 0.0)
    own_pool = sorted(totals.compute(scheduler="processes", num_workers=WORKERS))
    with concurrent.futures.ProcessPoolExecutor(WORKERS) as pool, dask.config.set(pool=pool):
        given_pool = sorted(totals.compute(scheduler="processes"))
    return [own_pool, given_pool]


def apscheduler() -> object:
    """Jobs, one of which takes its worker along, and then more jobs."""
    from apscheduler.events import EVENT_JOB_ERROR, EVENT_JOB_EXECUTED
    from apscheduler.executors.pool import ProcessPoolExecutor
    from apscheduler.schedulers.background import BackgroundScheduler

    scheduler = BackgroundScheduler(timezone="UTC", executors={"default": ProcessPoolExecutor(WORKERS)})
    outcomes: dict[str, Any] = {}
    news = threading.Condition()

    def note(job: str, outcome: Any) -> None:
        with news:
            outcomes[job] = outcome
            news.notify()

    def hear(event: Any) -> None:
        note(event.job_id, type(event.exception).__name__ if event.exception else event.retval)

    class Log(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            """What the pool raised, unlike what the job raised, is logged and no event."""
            if record.msg == "Error running job %s":
                note(str(record.args[0]), record.exc_info[0].__name__)  # type: ignore[index,union-attr]
            else:
                sys.stderr.write(f"{record.getMessage()}\n")

    def run(jobs: dict[str, tuple[Callable[..., Any], list[Any]]]) -> None:
        for name, (function, arguments) in jobs.items():
            scheduler.add_job(function, args=arguments, id=name, misfire_grace_time=None)
        with news:
            assert news.wait_for(lambda: jobs.keys() <= outcomes.keys(), 30), outcomes

    logging.getLogger("apscheduler").addHandler(Log())
    scheduler.add_listener(hear, EVENT_JOB_EXECUTED | EVENT_JOB_ERROR)
    scheduler.start()
    run({f"before {number}": (root, [number]) for number in range(6)})
    run({"fails": (root_of_a_positive, [13])})
    run({"dies": (die, [])})
    run({f"after {number}": (root, [number]) for number in range(6)})
    scheduler.shutdown()
    return outcomes


# --- which pool it was ------------------------------------------------------------------------------------------------


def witnessed() -> Callable[[], dict[str, int]]:
    """Have an eye on our pools, below the public class, which the packages see as it is."""
    from safepool._pool.pool import Pool

    tasks: list[Any] = []
    pools: set[int] = set()
    submit = Pool.submit

    def noting(pool: Pool, *arguments: Any) -> Any:
        tasks.append(submit(pool, *arguments))
        pools.add(id(pool))
        return tasks[-1]

    Pool.submit = noting  # type: ignore[method-assign]
    return lambda: {"pools": len(pools), "tasks": len(tasks), "workers": len({task.pid for task in tasks} - {None})}


JOBS = {
    job.__name__: job
    for job in (
        adaptive,
        adaptive_of_a_user,
        apscheduler,
        black,
        black_diff,
        bounded_pool_executor,
        compile_all,
        dask,
        pqdm,
        tqdm,
        tqdm_as_it_is,
        yapf,
    )
}


def main(executor: str, job: str, folder: str, outcome: str) -> None:
    """Do one job."""
    witnesses = witnessed()
    if executor == "safepool":
        from safepool import SafeProcessPoolExecutor

        concurrent.futures.ProcessPoolExecutor = SafeProcessPoolExecutor  # type: ignore[misc,assignment]
    os.environ["BLACK_CACHE_DIR"] = os.path.join(folder, "cache")
    os.chdir(folder)
    warnings.simplefilter("ignore")  # forking with threads around is the standard library's habit, not our subject
    returned = JOBS[job]()
    Path(outcome).write_text(json.dumps({"returned": returned, **witnesses()}), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
