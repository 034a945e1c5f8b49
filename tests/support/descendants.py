"""Processes that a task leaves behind, one kind for each way out of a process group.

Every one reports ``label.kind`` with its own pid once it is where it wants to be, then sleeps. None outlives
its ``sleep`` of a quarter of an hour, whatever the test did wrong.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterable

from support.rendezvous import report

__all__ = [
    "ESCAPING",
    "KEEPING",
    "KINDS",
    "MOST_GENERATIONS",
    "SWARM",
    "TRACELESS",
    "leave",
    "start",
    "start_bomb",
    "start_mover",
]

_LIFETIME = "900"
_ANNOUNCE = 'echo "$1 $$" > "$2"; exec sleep "$3"'
# In a process of its own, so that the worker is not what gets forked.
_OWN_GROUP = "import os, sys; os.setpgid(0, 0); os.execvp(sys.argv[1], sys.argv[1:])"
# Each generation lives a moment, forks the next one into a session of its own, and exits: no list of processes is
# ever up to date. Bounded, should nobody catch it: 40 s at the least, at 2 ms each, well past the deadline of the test.
_MOVER = """
import mmap, os, struct, sys, time
with open(sys.argv[1], "r+b") as file:
    memory = mmap.mmap(file.fileno(), 8)
for generation in range(1, {most}):
    memory[:8] = struct.pack("q", generation)
    if os.fork():
        os._exit(0)
    os.setsid()
    time.sleep(float(sys.argv[2]))
"""
MOST_GENERATIONS = 20_000
# Doubles until there are 32, all in the worker's group.
SWARM = 32
_BOMB = """
import os, time
for _ in range(5):
    os.fork()
time.sleep(900)
"""
_DAEMON = (
    "import os, sys\n"
    "if os.fork(): os._exit(0)\n"
    "os.setsid()\n"
    "if os.fork(): os._exit(0)\n"
    "os.execvp(sys.argv[1], sys.argv[1:])"
)

# The kernel shows as environment what lies between the two addresses of prctl(PR_SET_MM_MAP), field 50 of the stat line
# and the next; a program may write there, and setproctitle does.
_OVERWRITER = """
import ctypes, os, sys, time
if os.fork(): os._exit(0)
os.setsid()
if os.fork(): os._exit(0)
with open("/proc/self/stat", "rb") as file:
    fields = file.read().rpartition(b")")[2].split()
start, end = map(int, fields[47:49])
ctypes.memset(start, 0, end - start)
fd = os.open(sys.argv[2], os.O_WRONLY)
os.write(fd, b"%s %d\\n" % (os.fsencode(sys.argv[1]), os.getpid()))
time.sleep(float(sys.argv[3]))
"""

# Stops its worker's guardian, again and again, for as long as there is one.
_STOPPER = """
import os, signal, sys, time
fd = os.open(sys.argv[2], os.O_WRONLY)
os.kill(int(sys.argv[3]), signal.SIGSTOP)
os.write(fd, b"%s %d\\n" % (os.fsencode(sys.argv[1]), os.getpid()))
until = time.monotonic() + 900
while time.monotonic() < until:
    try:
        os.kill(int(sys.argv[3]), signal.SIGSTOP)
    except ProcessLookupError:
        break
    time.sleep(0.001)
"""

# A Popen that is collected while its child runs warns; the children are meant to be left behind.
_started: list[subprocess.Popen[bytes]] = []


def start(kinds: Iterable[str], label: str, reports: str) -> None:
    """Start one descendant of each kind."""
    for kind in kinds:
        _STARTERS[kind](f"{label}.{kind}", reports)


def leave(
    command: list[str],
    *,
    start_new_session: bool = False,
    close_fds: bool = True,
    environment: dict[str, str] | None = None,
) -> None:
    """Start a process and forget about it."""
    _started.append(
        subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            start_new_session=start_new_session,
            close_fds=close_fds,
            env=environment,
        )
    )


def start_mover(counter: str, lifetime: float, *, environment: dict[str, str] | None = None) -> None:
    """Start a chain of processes that never stay; it counts its generations in the file ``counter``."""
    program = _MOVER.format(most=MOST_GENERATIONS)
    leave([sys.executable, "-I", "-S", "-c", program, counter, str(lifetime)], environment=environment)


def start_bomb() -> None:
    """Start processes that fork from one another."""
    leave([sys.executable, "-I", "-S", "-c", _BOMB])


def _plain(label: str, reports: str) -> None:
    leave(_sleeper(label, reports))


def _pipeline(label: str, reports: str) -> None:
    leave(["sh", "-c", 'echo "$1 $$" > "$2"; sleep "$3" | cat | cat', "sh", label, reports, _LIFETIME])


def _jobcontrol(label: str, reports: str) -> None:
    leave(["timeout", _LIFETIME, *_sleeper(label, reports)])  # timeout(1) makes itself a group of its own


def _setpgid(label: str, reports: str) -> None:
    leave([sys.executable, "-I", "-S", "-c", _OWN_GROUP, *_sleeper(label, reports)])


def _setsid(label: str, reports: str) -> None:
    leave(_sleeper(label, reports), start_new_session=True)


def _daemon(label: str, reports: str) -> None:
    command = [sys.executable, "-I", "-S", "-c", _DAEMON, *_sleeper(label, reports)]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)


def _orphan(label: str, reports: str) -> None:
    """In a session that it leads, and without a parent."""
    leave(["sh", "-c", 'setsid sh -c "$0" sh "$@" &', _ANNOUNCE, label, reports, _LIFETIME])


def _freed(label: str, reports: str) -> None:
    """A daemon that dropped the marker as well: the supported way to leave something running."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SAFEPOOL_")}
    command = [sys.executable, "-I", "-S", "-c", _DAEMON, *_sleeper(label, reports)]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL, env=environment)


def _scrubbed(label: str, reports: str) -> None:
    """A daemon with an empty environment."""
    command = [sys.executable, "-I", "-S", "-c", _DAEMON, "/bin/sh", *_sleeper(label, reports)[1:]]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL, env={})


def _renamed(label: str, reports: str) -> None:
    """A daemon that writes over its own environment, as setproctitle does."""
    command = [sys.executable, "-I", "-c", _OVERWRITER, label, reports, _LIFETIME]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)


def _stopper(label: str, reports: str) -> None:
    """A daemon without a trace that keeps the guardian, the worker's parent, from doing anything."""
    command = [sys.executable, "-I", "-S", "-c", _STOPPER, label, reports, str(os.getppid())]
    subprocess.run([sys.executable, "-I", "-S", "-c", _DAEMON, *command], check=True, stdin=subprocess.DEVNULL, env={})


def _keeper_fork(label: str, reports: str) -> None:
    """Hold every descriptor of the worker, as a fork without exec does."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # 3.12: fork with threads, which is the point here
        pid = os.fork()
    if pid:
        return
    with contextlib.suppress(BaseException):
        report(reports, label)
        time.sleep(float(_LIFETIME))
    os._exit(0)


def _keeper_exec(label: str, reports: str) -> None:
    """Hold every descriptor of the worker over an exec, as careless C libraries do."""
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            os.set_inheritable(int(name), True)
    leave(_sleeper(label, reports), close_fds=False)


def _sleeper(label: str, reports: str) -> list[str]:
    return ["sh", "-c", _ANNOUNCE, "sh", label, reports, _LIFETIME]


_STARTERS: dict[str, Callable[[str, str], None]] = {
    "plain": _plain,
    "pipeline": _pipeline,
    "jobcontrol": _jobcontrol,
    "setpgid": _setpgid,
    "setsid": _setsid,
    "daemon": _daemon,
    "orphan": _orphan,
    "freed": _freed,
    "scrubbed": _scrubbed,
    "renamed": _renamed,
    "stopper": _stopper,
    "keeper_fork": _keeper_fork,
    "keeper_exec": _keeper_exec,
}

TRACELESS = ("freed", "scrubbed", "renamed")  # only a control group knows where they come from
KEEPING = ("keeper_fork", "keeper_exec")
ESCAPING = ("jobcontrol", "setpgid", "setsid", "daemon")  # a signal to the worker's group does not reach them
KINDS = ("plain", "pipeline", *ESCAPING)
