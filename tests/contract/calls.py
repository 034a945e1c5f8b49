"""What the workers run: small functions that a worker can import."""

from __future__ import annotations

import os
import threading
from concurrent.futures import Executor
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from contract.gate import announce, pass_gate
from contract.kinds import make_pool

T = TypeVar("T")

_kept: dict[str, Any] = {}


def add(left: int, right: int) -> int:
    return left + right


def square(number: int) -> int:
    return number * number


def same(value: T) -> T:
    return value


def returns_none() -> None:
    return None


def arguments(*args: Any, **keywords: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return args, keywords


def size_of(data: bytes) -> int:
    return len(data)


def bytes_of_size(size: int) -> bytes:
    return b"x" * size


def append_line(path: str, line: str) -> None:
    with open(path, "a", encoding="ascii") as file:
        file.write(line + "\n")


def lines_of(path: Path) -> list[str]:
    return path.read_text(encoding="ascii").split() if path.exists() else []


def raise_this(error: BaseException) -> NoReturn:
    raise error


def raise_value_error_in_the_worker(text: str) -> NoReturn:
    raise ValueError(text)


def raise_from_another() -> NoReturn:
    try:
        raise KeyError("the first one")
    except KeyError as error:
        raise RuntimeError("the second one") from error


def raise_with_note() -> NoReturn:
    error = ValueError("noted")
    error.add_note("the note")  # type: ignore[attr-defined,unused-ignore]  # from Python 3.11 on
    raise error


def square_unless(refused: int, number: int) -> int:
    if number == refused:
        raise ValueError(f"{number} is refused")
    return number * number


def exit_with(status: int) -> NoReturn:
    os._exit(status)


def return_lock() -> Any:
    return threading.Lock()


def raise_with_lock(text: str = "") -> NoReturn:
    raise ValueError(text, threading.Lock())


def keep(name: str, value: Any) -> None:
    """Serve as initializer: what is kept here can be asked for by tasks."""
    _kept[name] = value


def kept(name: str) -> Any:
    return _kept.get(name)


def keep_count_of_initializations() -> None:
    _kept["count"] = _kept.get("count", 0) + 1


def acquire_kept_lock() -> bool:
    got: bool = _kept["lock"].acquire(block=False)
    if got:
        _kept["lock"].release()
    return got


def put_into_kept_queue(value: Any) -> None:
    _kept["queue"].put(value)


def raise_in_initializer() -> NoReturn:
    raise ValueError("the initializer failed")


def pass_gate_and_raise(folder: str) -> NoReturn:
    pass_gate(folder, None)
    raise ValueError("the initializer failed")


def squares_by_nested_pool(kind: str, numbers: list[int]) -> list[int]:
    with make_pool(kind, max_workers=1) as pool:
        return list(pool.map(square, numbers))


def announce_and_square(folder: str, number: int) -> int:
    announce(folder)
    return number * number


class Shy:
    """An object that refuses to be pickled."""

    def __reduce__(self) -> NoReturn:
        raise ValueError("too shy to be pickled")


class Brittle:
    """An object that can be pickled and breaks when it is rebuilt."""

    def __reduce__(self) -> tuple[Any, ...]:
        return raise_value_error_in_the_worker, ("broken in transit",)


class BreaksInHost:
    """An object that can be pickled and breaks when the process with this id rebuilds it."""

    def __init__(self, host: int) -> None:
        self.host = host

    def __reduce__(self) -> tuple[Any, ...]:
        return raise_if_in, (self.host,)


def raise_if_in(pid: int) -> BreaksInHost:
    if os.getpid() == pid:
        raise ValueError("broken on arrival")
    return BreaksInHost(pid)


class Counter:
    """An object with a method to submit."""

    def __init__(self, start: int) -> None:
        self.start = start

    def plus(self, number: int) -> int:
        return self.start + number


class KeywordError(Exception):
    """An exception whose class cannot be rebuilt from its arguments."""

    def __init__(self, *, code: int) -> None:
        super().__init__(f"code {code}")
        self.code = code


def raise_keyword_error(code: int) -> NoReturn:
    raise KeywordError(code=code)


class CodeError(Exception):
    """An exception with two arguments and an attribute of its own."""

    def __init__(self, text: str, code: int) -> None:
        super().__init__(text, code)
        self.code = code


def is_executor(value: object) -> bool:
    return isinstance(value, Executor)
