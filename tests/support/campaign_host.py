"""The host of one round of the campaign: makes a pool, does what the plan says, and writes down what came of it."""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import Future
from functools import partial
from typing import Any

from safepool import InitializerError, SafeProcessPoolExecutor
from safepool._os.marker import host_marker
from support import campaign_tasks as tasks
from support import census
from support.campaign_plan import Plan, names_of
from support.eventually import eventually
from support.rendezvous import report


class Round:
    """One plan, carried out."""

    def __init__(self, plan: Plan, reports: str, ledger: str) -> None:
        self.plan = plan
        self.reports = reports
        self.ledger = ledger
        self.pool: SafeProcessPoolExecutor | None = None
        self.futures: dict[str, Future[Any]] = {}
        self.calls: dict[str, int] = {}
        self.watched: set[str] = set()
        self.refused: dict[str, str] = {}
        self.cancelled: list[str] = []
        self.interrupted = False
        self.signals = 0  # that were handled
        self.crowded = False  # whether there was room for no other thread once

    def run(self) -> None:
        """Do all steps, each at its moment, and end the pool in the plan's way."""
        try:
            signal.signal(signal.SIGUSR2, self._count)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            with contextlib.suppress(_PlannedError):
                self._run()
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        except KeyboardInterrupt:
            self.interrupted = True
            if self.pool is not None:
                self.pool.shutdown(kill=True)  # the interrupt may have come before the block

    def _count(self, *_: object) -> None:
        self.signals += 1

    def _run(self) -> None:
        end = self.plan.end
        self.pool = SafeProcessPoolExecutor(**self.plan.options)
        if end in ("wait", "raise", "SIGINT", "SIGKILL", "SIGTERM"):
            with self.pool:
                self._do_steps()
                if end == "raise":
                    raise _PlannedError
            return
        self._do_steps()
        if end == "cancel":
            self.pool.shutdown(cancel_futures=True)
        elif end == "kill":
            self.pool.shutdown(kill=True)
        elif end == "timeout":
            self.pool.shutdown(timeout=0.3)
        elif end == "no wait":
            self.pool.shutdown(wait=False)
        self.pool = None  # "forget" comes here with the pool open

    def _do_steps(self) -> None:
        start = time.monotonic()
        report(self.reports, "begun", host_marker())
        for step in self.plan.steps:
            time.sleep(max(0.0, start + step["at"] - time.monotonic()))  # the moment is the experiment
            getattr(self, f"_do_{step['do']}")(step)

    def _do_submit(self, step: dict[str, Any]) -> None:
        for name in names_of(step):
            self._submit(name, step)

    def _submit(self, name: str, step: dict[str, Any]) -> None:
        assert self.pool is not None
        data = (b"x" if step["kind"] == "large" else "x") * step.get("size", 0)
        call = partial(tasks.TASKS[step["kind"]], self.ledger, self.reports, name, step)
        try:
            future = self.pool.submit(call, data, task_timeout=step["timeout"])
        except Exception as error:
            self.refused[name] = f"{type(error).__name__}: {error}"
            return
        self.futures[name] = future
        future.add_done_callback(partial(self._note, name))
        self.watched.add(name)  # unless Ctrl-C comes first: then nobody knows whether it is

    def _note(self, name: str, future: Future[Any]) -> None:
        self.calls[name] = self.calls.get(name, 0) + 1
        with contextlib.suppress(OSError):  # where descriptors are short
            report(self.reports, f"{name}.settled", _name_of(future))

    def told(self, name: str) -> int:
        """How often its outcome was told; of one that is not surely watched, once will do."""
        return self.calls.get(name, 0 if name in self.watched else 1)

    def _do_cancel(self, step: dict[str, Any]) -> None:
        for name, future in self._of(step):
            if future.cancel():
                self.cancelled.append(name)

    def _do_cancel_running(self, step: dict[str, Any]) -> None:
        for _, future in self._of(step):
            future.cancel(cancel_running=True)  # type: ignore[call-arg]

    def _do_kill(self, step: dict[str, Any]) -> None:
        for _, future in self._of(step):
            future.kill()  # type: ignore[attr-defined]

    def _do_resize(self, step: dict[str, Any]) -> None:
        assert self.pool is not None
        try:
            self.pool.resize(step["size"])
        except ValueError:  # below min_workers
            pass
        except InitializerError as error:  # the pool is broken
            self.refused[f"resize at {step['at']}"] = f"{type(error).__name__}: {error}"

    def _do_starve(self, step: dict[str, Any]) -> None:
        """Leave room for a few descriptors only, for a while."""
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        highest = max(census.open_files())
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1 + step["room"], hard))
        threading.Timer(step["for"], resource.setrlimit, (resource.RLIMIT_NOFILE, (soft, hard))).start()

    def _do_crowd(self, step: dict[str, Any]) -> None:
        """Allow this user no more processes nor threads for a while; nothing of that holds for root."""
        limits = resource.getrlimit(resource.RLIMIT_NPROC)
        threading.Timer(step["for"], resource.setrlimit, (resource.RLIMIT_NPROC, limits)).start()
        resource.setrlimit(resource.RLIMIT_NPROC, (1, limits[1]))
        try:
            threading.Thread(target=int).start()
        except RuntimeError:
            self.crowded = True

    def _of(self, step: dict[str, Any]) -> list[tuple[str, Future[Any]]]:
        label = step["of"]
        return [(name, future) for name, future in self.futures.items() if name.split(".")[0] == label]


class _PlannedError(Exception):
    """What the ``with`` block is left by."""


def _name_of(future: Future[Any]) -> str:
    if future.cancelled():
        return "CancelledError"
    error = future.exception()
    if isinstance(error, OSError) and error.errno is not None:
        return "OSError"
    return "value" if error is None else type(error).__name__


def _describe(name: str, step: dict[str, Any], future: Future[Any], calls: int) -> dict[str, Any]:
    if not future.done():
        return {"name": "nothing"}
    outcome = _name_of(future)
    error = None if outcome == "CancelledError" else future.exception()
    right = error is not None or outcome == "CancelledError" or tasks.is_right(name, step, future.result())
    exitcode = getattr(error, "exitcode", None)
    return {"name": outcome, "text": str(error)[:600], "right": right, "exitcode": exitcode, "calls": calls}


def _belongings() -> tuple[int, int]:
    return len(census.open_files()), threading.active_count()


def _is_as_before(before: tuple[int, int]) -> bool:
    return all(now <= then for now, then in zip(_belongings(), before, strict=True))


def main(plan_path: str, reports: str, ledger: str, results: str) -> None:
    """Warm up, carry the plan out, compare the host with what it was, and write all of it down."""
    faulthandler.register(signal.SIGUSR1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with open(plan_path, encoding="utf-8") as file:
        plan = Plan(**json.load(file))
    with SafeProcessPoolExecutor(1) as pool:
        pool.submit(os.getpid).result(60)
    canary = subprocess.Popen(["sleep", "900"], stdin=subprocess.DEVNULL)  # in this group and session
    report(reports, "canary", str(canary.pid))
    before = _belongings()
    this = Round(plan, reports, ledger)
    this.run()
    pending = list(this.futures.items())
    with contextlib.suppress(AssertionError):
        eventually(lambda: all(future.done() for _, future in pending), within=90)
    with contextlib.suppress(AssertionError):
        eventually(lambda: all(this.calls.get(name) for name in this.watched), within=30)
    steps = {step["label"]: step for step in plan.steps if step["do"] == "submit"}
    outcomes = {name: _describe(name, steps[name.split(".")[0]], future, this.told(name)) for name, future in pending}
    this.futures.clear()
    pending.clear()
    with contextlib.suppress(AssertionError):
        eventually(lambda: gc.collect() >= 0 and _is_as_before(before), within=20)
    files, threads = _belongings()
    found = {
        "outcomes": outcomes,
        "refused": this.refused,
        "cancelled": this.cancelled,
        "interrupted": this.interrupted,
        "signals": this.signals,
        "crowded": this.crowded,
        "files": [str(target) for target in census.open_files().values()] if files > before[0] else [],
        "threads": [str(thread) for thread in threading.enumerate()] if threads > before[1] else [],
    }
    with open(f"{results}.part", "w", encoding="utf-8") as file:
        json.dump(found, file)
    os.replace(f"{results}.part", results)
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)  # else it has its default again before the interpreter has ended


if __name__ == "__main__":
    main(*sys.argv[1:])
