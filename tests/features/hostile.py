"""Calls, arguments and exceptions that do what they should not."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn


@dataclasses.dataclass(frozen=True)
class FrozenError(Exception):
    """Refuses to be given a cause."""


def raise_frozen() -> NoReturn:
    raise FrozenError


class Unprintable:
    """Ends whoever asks what it looks like."""

    def __repr__(self) -> str:
        raise SystemExit(3)


class Nameless:
    """Dies when called, and has no name."""

    def __call__(self) -> NoReturn:
        os._exit(7)

    def __getattr__(self, name: str) -> Any:
        if name == "__qualname__":
            raise RuntimeError("no name")
        raise AttributeError(name)


class Finalized:
    """Calls something when the host lets go of it; travels as a plain number."""

    def __init__(self, call: Callable[[], object]) -> None:
        self._call = call

    def __reduce__(self) -> tuple[type[int], tuple[()]]:
        return int, ()

    def __del__(self) -> None:
        self._call()


def use_up_descriptors() -> NoReturn:
    """Leave none to read a source file with, or to import a module, not even one that others have imported already."""
    sys.modules.pop("traceback", None)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    with open(os.devnull, encoding="ascii"):
        raise AssertionError("there was one left")


def die_with(_argument: object) -> NoReturn:
    os._exit(7)


def accept(_argument: object) -> int:
    return 1


def note_run_and_spoil_the_record(path: str, ending: Callable[[], NoReturn]) -> None:
    """Overwrite whatever memory the worker shares with the host, and die of that ending."""
    with open(path, "ab", buffering=0) as file:
        file.write(b".")
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            if "safepool" in os.readlink(f"/proc/self/fd/{name}"):
                os.write(int(name), b"junk" * 4)
    ending()


def leave() -> NoReturn:
    os._exit(7)


def be_killed() -> NoReturn:
    """Die as of somebody else's SIGKILL."""
    signal.raise_signal(signal.SIGKILL)
    raise AssertionError("it has ended this process")


def leave_a_child_that_writes_to_every_socket(path: str) -> int:
    """Come back while a forked child goes on to write where it should not, and says so."""
    child = os.fork()
    if child:
        return child
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            if os.readlink(f"/proc/self/fd/{name}").startswith("socket:"):
                os.write(int(name), b"foreign bytes, more than a header of them")
    Path(path).write_text("written", "ascii")
    os._exit(0)


def nap_and_give_a_list(seconds: float) -> list[float]:
    """Give a result that is unpickled in the delivery thread."""
    time.sleep(seconds)
    return [seconds]


def refuse() -> NoReturn:
    raise ValueError("not today")


def interrupt_me() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def reset_signals() -> int:
    return _set_signals(signal.SIG_DFL)


def ignore_signals() -> int:
    return _set_signals(signal.SIG_IGN)


def block_signals() -> int:
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    return os.getpid()


def _set_signals(handler: signal.Handlers) -> int:
    for signum in signal.valid_signals():
        with contextlib.suppress(OSError, ValueError):
            signal.signal(signum, handler)
    return os.getpid()


class SlowToPickle:
    """A result whose pickling takes its time."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def __reduce__(self) -> tuple[type[float], tuple[float]]:
        time.sleep(self._seconds)
        return float, (self._seconds,)


class IndescribableError(SyntaxError):
    """What a traceback looks at is not what it expects."""


class UnpicklableError(Exception):
    """Ends whoever pickles it."""

    def __init__(self, end: type[BaseException]) -> None:
        super().__init__(end)
        self._end = end

    def __reduce__(self) -> NoReturn:
        raise self._end


def raise_indescribable(kind: str) -> NoReturn:
    if kind == "text":
        error = IndescribableError("bad text")
        error.text = 5  # type: ignore[assignment]  # a program may assign anything
        error.lineno = error.offset = 1
        raise error
    raise UnpicklableError(SystemExit if kind == "exit" else KeyboardInterrupt)


def start_slowly(fifo: str, mebibytes: int) -> int:
    """Hold memory while a program is started that cannot be executed before a second is over; return its status."""
    held = bytearray(mebibytes << 20)
    held[:: os.sysconf("SC_PAGE_SIZE")] = b"x" * len(range(0, len(held), os.sysconf("SC_PAGE_SIZE")))
    os.mkfifo(fifo)
    writer = subprocess.Popen(["sh", "-c", 'sleep 1; exec 3> "$1"', "sh", fifo])
    opening = [(os.POSIX_SPAWN_OPEN, 0, fifo, os.O_RDONLY, 0)]
    pid = os.posix_spawnp("true", ["true"], os.environ, file_actions=opening)
    status = os.waitpid(pid, 0)[1]
    writer.wait()
    return status


class HeldUp:
    """An argument whose pickling tells that it has begun, and waits; travels as a number."""

    def __init__(self, number: int) -> None:
        self._number = number
        self.arrived, self.go_on = threading.Event(), threading.Event()

    def __reduce__(self) -> tuple[type[int], tuple[int]]:
        self.arrived.set()
        assert self.go_on.wait(60)
        return int, (self._number,)


on_rebuild: list[Callable[[], object]] = []  # in the host


class CallsOnRebuild:
    """A result that calls the host's function when it is rebuilt there."""

    def __reduce__(self) -> tuple[Callable[[], CallsOnRebuild], tuple[()]]:
        return _rebuild_and_call, ()


def _rebuild_and_call() -> CallsOnRebuild:
    for call in on_rebuild:
        call()
    return CallsOnRebuild()


def note_and_die(notes: str, signum: int) -> None:
    """Leave a byte, and die of the signal."""
    with open(notes, "ab") as file:
        file.write(b".")
    os.kill(os.getpid(), signum)


class DiesWhenRebuilt:
    """An argument that is the end of whoever unpickles it."""

    def __init__(self, notes: str, signum: int) -> None:
        self._facts = notes, signum

    def __reduce__(self) -> tuple[object, ...]:
        return note_and_die, self._facts
