"""A host that does as it is told: run as a script, one JSON command a line on its standard input.

It says everything through the FIFO of the test, never through a pipe that a descendant could hold open. When the
input ends, the test is gone, and the host leaves at once.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import json
import os
import pkgutil
import resource
import signal
import subprocess
import sys
import threading
import time
import warnings
from concurrent.futures import Future
from typing import Any

from safepool import SafeProcessPoolExecutor
from safepool._os.marker import host_marker
from support.descendants import start
from support.rendezvous import report


class Server:
    """The program: its commands are the methods whose name starts with ``do_``."""

    def __init__(self, reports: str, pool: dict[str, Any]) -> None:
        self.reports = reports
        self.options = pool
        self.pool: SafeProcessPoolExecutor | None = None
        self.futures: dict[str, Future[Any]] = {}
        self.children: list[subprocess.Popen[bytes]] = []
        self.memory = b""

    def do_canary(self, label: str = "canary") -> None:
        """Start a process of the host's own, which is nobody else's business."""
        self.children.append(subprocess.Popen(["sleep", "900"], stdin=subprocess.DEVNULL))
        report(self.reports, label, str(self.children[-1].pid))

    def do_pool(self) -> None:
        self.pool = SafeProcessPoolExecutor(**self.options)
        report(self.reports, "pool", host_marker())

    def do_submit(self, label: str, task: str, args: list[Any], timeout: float | None = None) -> None:
        assert self.pool is not None
        limit = {} if timeout is None else {"task_timeout": timeout}
        function = pkgutil.resolve_name(task if ":" in task else f"support.tasks:{task}")
        future = self.pool.submit(function, *args, **limit)
        self.futures[label] = future
        future.add_done_callback(lambda done: report(self.reports, f"{label}.outcome", _describe(done)))

    def do_shutdown(self, **options: Any) -> None:
        assert self.pool is not None
        self.pool.shutdown(**options)
        report(self.reports, "shutdown")

    def do_ignore_children(self) -> None:
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)

    def do_reap_everything(self) -> None:
        """Take every exit status before anybody else can, as some libraries do."""
        threading.Thread(target=_reap, daemon=True).start()

    def do_reap_in_a_handler(self) -> None:
        """The same, in a handler of SIGCHLD."""
        signal.signal(signal.SIGCHLD, _reap_now)

    def do_fork(self, label: str, holding: bool = False) -> None:
        """Fork a helper without exec. With ``holding``, instead one that keeps every descriptor over an exec."""
        if holding:
            start(["keeper_exec"], label, self.reports)
            return
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            if os.fork() == 0:
                report(self.reports, label)
                time.sleep(900)
                os._exit(0)

    def do_limit_descriptors(self, room: int | None) -> None:
        """Leave room for so many more descriptors; None lifts the limit."""
        limit = None
        if room is not None:
            used = {int(name) for name in os.listdir("/proc/self/fd")}
            limit = next(itertools.islice((number for number in itertools.count() if number not in used), room, None))
        self._limit(resource.RLIMIT_NOFILE, limit)  # lifted without a look, for which there may be no descriptor

    def do_limit_processes(self, most: int | None) -> None:
        """Allow this user so many processes; None lifts the limit."""
        self._limit(resource.RLIMIT_NPROC, most)

    def _limit(self, which: int, value: int | None) -> None:
        hard = resource.getrlimit(which)[1]
        resource.setrlimit(which, (hard if value is None else value, hard))
        report(self.reports, "limited" if value is not None else "lifted")

    def do_hold_memory(self, size: int) -> None:
        """Touch so many bytes, and keep them."""
        self.memory = b"x" * size
        report(self.reports, "holding")

    def do_die(self, how: str) -> None:
        report(self.reports, "dying")
        _DEATHS[how]()

    def serve(self) -> None:
        for line in sys.stdin:
            command = json.loads(line)
            name = command.pop("do")
            if name == "return":
                return
            getattr(self, f"do_{name}")(**command)
        os._exit(0)


def _describe(future: Future[Any]) -> str:
    if future.cancelled():
        return json.dumps({"error": "CancelledError"})
    error = future.exception()
    if error is None:
        return json.dumps({"value": future.result() if _small(future.result()) else "large"})
    facts = {name: getattr(error, name, None) for name in ("pid", "exitcode", "timeout", "elapsed")}
    return json.dumps({"error": type(error).__name__, "text": str(error)[:1000], **facts})


def _small(value: object) -> bool:
    return isinstance(value, (int, str)) and len(str(value)) < 100


def _reap() -> None:
    while True:
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            time.sleep(0.001)


def _reap_now(*_: object) -> None:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG) != (0, 0):
            pass


def _fail() -> None:
    raise RuntimeError("nobody handles this")


def _become_another() -> None:
    """Replace the program; the process lives on, and tells so."""
    script = 'echo "reborn $$" > "$1"; exec sleep 900'
    os.execv("/bin/sh", ["sh", "-c", script, "sh", sys.argv[2]])


_DEATHS = {
    "segfault": lambda: ctypes.string_at(0),
    "exit": lambda: os._exit(4),
    "abort": os.abort,
    "exec": _become_another,
    "raise": _fail,
}


if __name__ == "__main__":
    options = json.loads(sys.argv[1])
    report(sys.argv[2], "host", str(os.getpid()))
    Server(sys.argv[2], options).serve()
