"""What the tasks of the comparison do. Every worker of every library imports this by name."""

from __future__ import annotations

import itertools
import os
import subprocess
import time
from pathlib import Path

_kept: list[bytearray] = []
_state: list[int] = [0]


def say(path: str, text: object) -> None:
    """Write a file that is there at once, in full."""
    Path(f"{path}.new").write_text(str(text))
    os.replace(f"{path}.new", path)


def beat(path: str, seconds: float = 60.0) -> None:
    """Say who it is, and go on showing that it runs."""
    say(f"{path}.pid", os.getpid())
    with open(path, "wb", buffering=0) as file:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            file.write(b".")
            time.sleep(0.02)


def hold_the_lock(path: str) -> None:
    """Run in C, with the interpreter locked, for minutes."""
    say(f"{path}.pid", os.getpid())
    sum(itertools.repeat(1, 10**11))


def start_child(path: str) -> int:
    """Start a program, and leave it running."""
    child = subprocess.Popen(["sleep", "1000"])
    say(f"{path}.child", child.pid)
    return child.pid


def start_child_and_beat(path: str) -> None:
    """Start a program, and hang."""
    start_child(path)
    beat(path)


def catch(path: str) -> str:
    """Take whatever the time limit raises."""
    say(f"{path}.pid", os.getpid())
    try:
        for _ in range(1000):
            time.sleep(0.02)
    except BaseException as error:
        say(path, type(error).__name__)
        return "caught"
    return "nothing came"


def nap(seconds: float, value: object = None) -> object:
    """Sleep, and return the value, or else the seconds."""
    time.sleep(seconds)
    return seconds if value is None else value


def note(path: str, text: str) -> None:
    """Append a line."""
    with open(path, "a", encoding="utf-8") as file:
        file.write(f"{text}\n")


def power(base: int, exponent: int) -> int:
    """What ``pow`` does: not every library takes what is built in."""
    return base**exponent


def invert(number: float) -> float:
    """Fail for zero."""
    return 1 / number


def die(code: int = 7) -> None:
    """Leave without a word."""
    time.sleep(0.5)  # others have begun
    os._exit(code)


def die_once(path: str) -> str:
    """Die the first time."""
    if not os.path.exists(path):
        say(path, "")
        os._exit(7)
    return "second try"


def slow(number: int) -> int:
    time.sleep(0.05)
    return number


def pid(_: object = None) -> int:
    return os.getpid()


def slow_pid(_: object = None) -> int:
    time.sleep(0.3)
    return os.getpid()


def environ(name: str) -> str | None:
    return os.environ.get(name)


def keep(megabytes: int) -> int:
    """Leak that much."""
    _kept.append(bytearray(os.urandom(1 << 20)) * megabytes)
    return os.getpid()


def grow(megabytes: int) -> str:
    """Have that much for a while."""
    data = [bytearray(os.urandom(1 << 20)) * 50 for _ in range(megabytes // 50)]
    time.sleep(3)
    return f"{len(data)} pieces, unhindered"


def set_state(value: int) -> None:
    _state[0] = value


def get_state(_: object = None) -> int:
    return _state[0]


def fail_to_initialize() -> None:
    raise LookupError("no ignition")


class Opaque:
    """Pickles only with help."""

    def __init__(self, value: int) -> None:
        self.value = value

    def __reduce__(self) -> str:
        raise TypeError("Opaque does not pickle by itself")


def reduce_opaque(opaque: Opaque) -> tuple[type[Opaque], tuple[int]]:
    """Give the help."""
    return Opaque, (opaque.value,)


def value_of(opaque: Opaque) -> int:
    return opaque.value


# --- what only one library offers -------------------------------------------------------------------------------------


def safepool_worker_id(_: object = None) -> object:
    import safepool

    return safepool.get_worker().id


def safepool_count(_: object = None) -> int:
    import safepool

    state = safepool.get_worker().state
    state.count = getattr(state, "count", 0) + 1
    return int(state.count)


def mpire_worker_id(worker_id: int, _: object = None) -> int:
    return worker_id


def mpire_count(state: dict[str, int], _: object = None) -> int:
    state["count"] = state.get("count", 0) + 1
    return state["count"]


def ray_worker_id(_: object = None) -> object:
    import ray

    return ray.get_runtime_context().get_worker_id()
