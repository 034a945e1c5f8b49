"""What workers of strict pools are given to do."""

from __future__ import annotations

import os
import re
import resource
import signal
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NoReturn

from support import census, descendants, tasks
from support.rendezvous import report

# Becomes an orphan in a session of its own, with an empty environment, and takes memory.
_GROWING = """
import os, sys, time
if os.fork():
    os._exit(0)
os.setsid()
if os.fork():
    os._exit(0)
fd = os.open(sys.argv[1], os.O_WRONLY)
os.write(fd, f"{sys.argv[2]} {os.getpid()}\\n".encode())
memory = b"x" * (int(sys.argv[3]) << 20)
time.sleep(900)
"""


def leave_a_server() -> int:
    """As a user would, who wants it to go on."""
    return subprocess.Popen(["sleep", "900"], start_new_session=True).pid


def outrun_without_a_trace(reports: str, label: str, counters: Iterable[str], lifetimes: Iterable[float]) -> NoReturn:
    """Start chains of processes that are gone before they are found, and that carry no marker; then hang."""
    for counter, lifetime in zip(counters, lifetimes, strict=True):
        descendants.start_mover(counter, lifetime, environment={})
    report(reports, label)
    tasks.loop()


def grow_without_a_trace(reports: str, label: str, mebibytes: int) -> NoReturn:
    """Leave a daemon that holds so much; then hang."""
    command = [sys.executable, "-I", "-S", "-c", _GROWING, reports, label, str(mebibytes)]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL, env={})
    tasks.loop()


def wait_in_a_strict_pool(half: str, reports: str, label: str, gate: str, leave: Iterable[str]) -> int:
    """Have a strict pool of one's own, kept in the same way, whose worker leaves these and waits at the gate."""
    from safepool import SafeProcessPoolExecutor
    from safepool._os import control_group
    from support.halves import refuse

    if half == "guardian":
        control_group.make_sure = refuse
    with SafeProcessPoolExecutor(1, containment="strict") as inner:
        assert inner.strict_by == half
        return inner.submit(tasks.work_then_wait, reports, label, gate, leave).result()


def have_had_a_pool() -> None:
    """Leave nothing but a janitor, which stays as long as this process."""
    from safepool import SafeProcessPoolExecutor

    with SafeProcessPoolExecutor(1) as inner:
        inner.submit(abs, -1).result()


def leave_many(count: int) -> None:
    """Leave so many orphans without a trace that come to their end at once."""
    script = f"i=0; while [ $i -lt {count} ]; do (setsid true &); i=$((i+1)); done"
    subprocess.run(["sh", "-c", script], check=True, env={"PATH": os.environ["PATH"]})


def circumstances() -> dict[str, Any]:
    """What a process is given by whoever starts it."""
    signals = re.findall(r"^(Sig(?:Blk|Ign|Cgt)):\s*(\w+)$", Path("/proc/self/status").read_text(), re.MULTILINE)
    names = [name for name in dir(resource) if name.startswith("RLIMIT_")]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SAFEPOOL_")}
    return {
        "directory": os.getcwd(),
        "umask": re.findall(r"^Umask:\s*(\d+)", Path("/proc/self/status").read_text(), re.MULTILINE),
        "nice": os.nice(0),
        "CPUs": os.sched_getaffinity(0),
        "limits": {name: resource.getrlimit(getattr(resource, name)) for name in names},
        "environment": environment,
        "signals": dict(signals),
        "leads its session": os.getsid(0) == os.getpgrp() == os.getpid(),
        "descriptors": sorted(name.partition(":")[0] for name in census.open_files().values()),
    }


# Stands in the worker's group, and cleans up when the worker is gone; that takes a moment.
_CLEANER = """
import os, sys, time
# resource_tracker import main
fd = os.open(sys.argv[2], os.O_WRONLY)
os.write(fd, f"cleaner {os.getpid()}{os.linesep}".encode())
os.read(int(sys.argv[1]), 1)
time.sleep(0.1)
os.write(fd, f"cleaned {os.getpid()}{os.linesep}".encode())
"""


def leave_a_cleaner(reports: str, label: str) -> NoReturn:
    """Start one; then hang."""
    read, _ours = os.pipe()
    subprocess.Popen([sys.executable, "-I", "-S", "-c", _CLEANER, str(read), reports], pass_fds=[read])
    report(reports, label)
    tasks.loop()


def stop_parent() -> int:
    """Stop whoever has started this worker, and tell who that is."""
    os.kill(os.getppid(), signal.SIGSTOP)
    return os.getppid()
