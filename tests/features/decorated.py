"""Functions with ``@safepool.process``, for ``test_process_decorator``."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import safepool
from contract.gate import announce
from executor import calls


@safepool.process
def tell_pid() -> int:
    return os.getpid()


@safepool.process(timeout=60, env={"SAFEPOOL_TEST_VARIABLE": "set"})
def describe(number: int, *, scale: int = 1) -> tuple[int, str | None]:
    """Return the number, scaled, and a variable of the environment."""
    return number * scale, os.environ.get("SAFEPOOL_TEST_VARIABLE")


@safepool.process(timeout=60)
def repeat(*, task_timeout: str = "none") -> str:
    """Have a keyword that the executor's own ``submit`` has, too."""
    return task_timeout


@safepool.process(timeout=0.5)
def hang() -> None:
    calls.hang()


@safepool.process
def hang_with_child(folder: str) -> None:
    child = subprocess.Popen(["sleep", "900"], start_new_session=True)
    announce(folder, child.pid)
    child.wait()


@safepool.process
def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@safepool.process(retries=2)
def die_at_first(path: str) -> int:
    with open(path, "ab") as file:
        file.write(b".")
    runs = Path(path).stat().st_size
    if runs == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return runs


@safepool.process
def fail(text: str) -> None:
    raise ValueError(text)


@safepool.process
def factorial(number: int) -> int:
    """Every factor in a process of its own."""
    return 1 if number == 0 else number * factorial(number - 1).result()


class Counter:
    """A decorated method: the object travels with the call."""

    def __init__(self, start: int) -> None:
        self.start = start

    @safepool.process
    def plus(self, number: int) -> int:
        return self.start + number


count = 0


def count_calls() -> int:
    """Tell how many calls this process has made of it: a decorated one starts from nothing each time."""
    global count
    count += 1
    return count


count_in_process = safepool.process(count_calls)
