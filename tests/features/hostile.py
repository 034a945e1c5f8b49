"""Calls, arguments and exceptions that do what they should not."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
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


def die_with(_argument: object) -> NoReturn:
    os._exit(7)


def accept(_argument: object) -> int:
    return 1


def note_run_and_spoil_the_record(path: str) -> NoReturn:
    """Overwrite whatever memory the worker shares with the host, and die."""
    with open(path, "ab", buffering=0) as file:
        file.write(b".")
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            if "safepool" in os.readlink(f"/proc/self/fd/{name}"):
                os.write(int(name), b"junk" * 4)
    os._exit(7)


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
