"""What the workers run in the tests of features beyond the standard library's."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from contract.gate import pass_gate


def fail_so_often(path: str, failures: int, how: str) -> int:
    """Die or hang in the first runs, counted in a file; return how many runs it took."""
    with open(path, "ab", buffering=0) as file:
        file.write(b".")
    runs = Path(path).stat().st_size
    if runs <= failures:
        if how == "die":
            os._exit(7)
        if how == "raise":
            raise ValueError(f"run {runs}")
        while True:
            time.monotonic()
    return runs


def note(path: str, word: str) -> None:
    with open(path, "a", encoding="ascii") as file:
        file.write(f"{word}\n")


def pass_gate_and_tell_pid(folder: str) -> int:
    pass_gate(folder, None)
    return os.getpid()


def tell_pid() -> int:
    return os.getpid()


def die() -> None:
    os._exit(7)


def square(number: int) -> int:
    return number * number


def square_or_die(number: int) -> int:
    if number < 0:
        os._exit(7)
    return number * number


def square_or_raise(number: int) -> int:
    if number < 0:
        raise ValueError(number)
    return number * number


def pass_gate_if_first(folder: str, number: int) -> int:
    return pass_gate(folder, number) if number == 0 else number


_remembered: list[str | None] = []


def remember_variable(name: str) -> None:
    """As an initializer: look at the environment."""
    _remembered.append(os.environ.get(name))


def remembered() -> str | None:
    return _remembered[0]


def has_loaded(module: str) -> bool:
    return module in sys.modules


def squares_by_reusable_executor(numbers: list[int]) -> tuple[list[int], set[int]]:
    from safepool import get_reusable_executor

    squares = list(get_reusable_executor(1).map(square, numbers))
    return squares, {get_reusable_executor(1).submit(tell_pid).result() for _ in numbers}
