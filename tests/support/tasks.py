"""What workers are given to do. Everything here is found by name, in every process.

The hanging kinds are the states in which a worker cannot help itself: no thread of its own gets to run, or no
signal but SIGKILL reaches it.
"""

from __future__ import annotations

import ctypes
import itertools
import mmap
import os
import re
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from multiprocessing import get_context, shared_memory
from typing import Any, NoReturn

from support import descendants
from support.rendezvous import pass_gate, report

__all__ = ["HANGS", "HOLDING_THE_GIL"]

HOLDING_THE_GIL = ("c", "regex")
_ENDLESS = 2**42


def square(number: int) -> int:
    return number * number


def own_pid() -> int:
    return os.getpid()


def size_of(value: bytes | str) -> int:
    return len(value)


def work_then_hang(reports: str, label: str, kind: str, leave: Iterable[str] = (), heartbeat: str | None = None) -> str:
    """Start descendants, say where we are, and get stuck in the way asked for ("idle": return)."""
    descendants.start(leave, label, reports)
    if heartbeat is not None:
        start_heartbeat(heartbeat)
    report(reports, label, kind)
    HANGS[kind]()
    return label


def work_then_wait(reports: str, label: str, gate: str, leave: Iterable[str] = ()) -> int:
    """Start descendants, wait at the gate, and answer with the worker's pid."""
    descendants.start(leave, label, reports)
    report(reports, label)
    pass_gate(gate)
    return os.getpid()


def work_then_die(reports: str, label: str, gate: str, how: str, leave: Iterable[str] = ()) -> NoReturn:
    """Start descendants, wait at the gate, and die."""
    work_then_wait(reports, label, gate, leave)
    DEATHS[how]()
    raise AssertionError("still alive")


def run_command(command: list[str]) -> int:
    return subprocess.call(command, stdin=subprocess.DEVNULL)


def exit_now(status: int) -> NoReturn:
    os._exit(status)


def run_hostile(name: str, *arguments: str) -> object:
    """Run one of the acts of the tests of security, in a host that knows these tasks alone."""
    from security import acts

    return getattr(acts, name)(*arguments)


def fail(message: str) -> NoReturn:
    raise LookupError(message)


def make_text(reports: str, label: str, gate: str, length: int) -> str:
    """Return a long text once the gate opens; text is pickled inside the frame, not beside it."""
    work_then_wait(reports, label, gate)
    return "x" * length


def outrun(reports: str, label: str, counters: Iterable[str], lifetimes: Iterable[float]) -> NoReturn:
    """Start chains of processes that are gone before they are found, and a swarm; then hang."""
    for counter, lifetime in zip(counters, lifetimes, strict=True):
        descendants.start_mover(counter, lifetime)
    descendants.start_bomb()
    report(reports, label)
    loop()


def nest(reports: str, label: str, depth: int, leave: Iterable[str] = ()) -> object:
    """Open a pool in the worker, and in its worker another, and so on; at the bottom hold the GIL."""
    from safepool import SafeProcessPoolExecutor

    descendants.start(leave, label, reports)
    report(reports, label)
    if depth == 0:
        _hold_the_gil()
    with SafeProcessPoolExecutor(2) as pool:
        below = [pool.submit(nest, reports, f"{label}{n}", depth - 1, leave) for n in range(2)]
        return below[0].result()


def close_everything(reports: str, label: str, gate: str) -> NoReturn:
    """Close every descriptor of the worker, as daemons do, and hang."""
    work_then_wait(reports, label, gate)
    os.closerange(3, 65536)
    loop()


class Unreadable:
    """Pickles well; unpickling it raises."""

    def __reduce__(self) -> tuple[Any, ...]:
        return fail, ("cannot be rebuilt",)


class Slow:
    """Pickles well; unpickling it waits until the test lets it go on."""

    def __reduce__(self) -> tuple[Any, ...]:
        return rebuild_when_allowed, ()


allowed = threading.Event()
rebuilding = threading.Event()


def rebuild_when_allowed() -> str:
    rebuilding.set()
    allowed.wait(60)
    return "rebuilt"


def make_unreadable(_: int) -> Unreadable:
    return Unreadable()


def make_slow() -> Slow:
    return Slow()


def report_interrupts(reports: str, label: str, gate: str) -> str:
    """Wait, and tell the test about every SIGINT that comes."""
    signal.signal(signal.SIGINT, lambda *_: report(reports, f"{label}.sigint"))
    work_then_wait(reports, label, gate)
    return label


def hold_shared_objects(reports: str, label: str) -> NoReturn:
    """Own a shared memory segment and a semaphore, tell their names, and hang."""
    kept = share(reports, label)
    loop(kept)


def start_program_with_shared_objects(reports: str, label: str, gate: str) -> int:
    """Leave a program behind that owns shared objects, and has a resource tracker of its own."""
    source = "import sys; from support import tasks; tasks.hold_shared_objects(*sys.argv[1:])"
    descendants.leave([sys.executable, "-c", source, reports, f"{label}.owner"])
    return work_then_wait(reports, label, gate)


def hold_shared_objects_then_die(reports: str, label: str, gate: str, how: str) -> NoReturn:
    """The same, but the worker dies once the gate opens."""
    kept = share(reports, label)
    pass_gate(gate)
    DEATHS[how]()
    raise AssertionError(f"still alive, with {kept}")


def share(reports: str, label: str) -> list[Any]:
    """Make a segment and a semaphore, and report the names under which they stand in /dev/shm."""
    segment = shared_memory.SharedMemory(create=True, size=4096)
    semaphore = get_context("spawn").Semaphore(1)
    report(reports, label, f"{segment.name.lstrip('/')} sem.{semaphore._semlock.name.lstrip('/')}")  # type: ignore[attr-defined]
    return [segment, semaphore]


def start_heartbeat(path: str) -> None:
    """Count up in a file from a thread of this process; the count stands still while the GIL is held."""
    with open(path, "r+b") as file:
        memory = mmap.mmap(file.fileno(), 8)
    beating = threading.Event()
    threading.Thread(target=_beat, args=(memory, beating), daemon=True).start()
    beating.wait()


def _beat(memory: mmap.mmap, beating: threading.Event) -> None:
    for count in itertools.count(1):
        memory[:8] = struct.pack("q", count)
        beating.set()
        time.sleep(0.001)


def loop(_: object = None) -> NoReturn:
    while True:
        pass


def _hold_the_gil() -> None:
    sum(itertools.repeat(1, _ENDLESS))


def _backtrack() -> None:
    re.match(r"(a+)+$", "a" * 64 + "b")


def _stop() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def _turn_deaf() -> NoReturn:
    for signum in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(signum, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    loop()


def _segfault() -> None:
    ctypes.string_at(0)


HANGS: dict[str, Callable[[], object]] = {
    "idle": lambda: None,
    "loop": loop,
    "c": _hold_the_gil,
    "regex": _backtrack,
    "stopped": _stop,
    "deaf": _turn_deaf,
}

DEATHS: dict[str, Callable[[], object]] = {
    "segfault": _segfault,
    "exit": lambda: os._exit(3),
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "abort": os.abort,
}


def own_group() -> str:
    """Return the control group that this process is in."""
    with open("/proc/self/cgroup", encoding="ascii") as file:
        return next(line.strip()[3:] for line in file if line.startswith("0::"))


def own_group_and_a_child_s() -> tuple[str, str]:
    """Return the control group that this process is in, and the one of a process that it starts."""
    shown = subprocess.run(["cat", "/proc/self/cgroup"], check=True, capture_output=True, text=True, env={}).stdout
    return own_group(), next(line[3:] for line in shown.splitlines() if line.startswith("0::"))


def content_of(path: str) -> str:
    """Return what stands in a file."""
    with open(path, encoding="ascii") as file:
        return file.read()


def hold_memory(size: int) -> int:
    """Touch so many bytes; return how many."""
    return len(b"x" * size)


def hold_memory_beneath(reports: str, gate: str, size: int) -> int:
    """Have a process in a session of its own touch so many bytes once the gate opens, and keep them."""
    program = (
        "import sys; from support import tasks; tasks.work_then_wait(*sys.argv[1:4]); tasks.keep_memory(sys.argv[4])"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", program, reports, "beneath", gate, str(size)]
    return subprocess.run(command, check=False, env=environment, start_new_session=True).returncode


def keep_memory(size: str) -> NoReturn:
    """Touch so many bytes, and hang."""
    loop(b"x" * int(size))


def use_cpu(seconds: float) -> tuple[float, float]:
    """Use so many seconds of processor time; return that, and how many have passed meanwhile."""
    began, used = time.monotonic(), time.process_time()
    while time.process_time() - used < seconds:
        pass
    return time.process_time() - used, time.monotonic() - began


def detach_from_another_group(reports: str, label: str) -> NoReturn:
    """Have a process that has left the group, and not the session, start one in a session of its own; then hang."""
    say = 'echo "$1 $$" > "$2"; exec sleep 900'
    both = f'setsid sh -c \'{say}\' sh "$1.detached" "$2" & echo "$1.parent $$" > "$2"; wait'
    descendants.leave(["timeout", "900", "sh", "-c", both, "sh", label, reports])  # timeout(1) makes itself a group
    report(reports, label)
    _hold_the_gil()
    raise AssertionError("it is over")
