"""What the workers run: hangs, deaths, and tasks that start processes.

Every hang that can be bounded ends by itself after two minutes, and its result then fails the test.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from types import FrameType
from typing import Any, NoReturn

from contract.gate import announce, pass_gate

_LONGEST_HANG = 120.0

_left_running: list[subprocess.Popen[bytes]] = []  # a Popen that is collected while its child runs would warn


def square(number: int) -> int:
    return number * number


def hang(folder: str | None = None) -> str:
    """Hang in Python, where every signal gets through."""
    if folder is not None:
        announce(folder)
    hang_in_a_python_loop()
    return "the hang ended by itself"


def hang_in_a_python_loop() -> None:
    end = time.monotonic() + _LONGEST_HANG
    while time.monotonic() < end:
        pass


def hang_holding_the_gil() -> int:
    """Hang in C, where no thread of Python gets its turn."""
    return sum(itertools.repeat(1, 2**42))


def hang_asleep() -> None:
    time.sleep(_LONGEST_HANG)


def hang_stopped() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)
    hang_asleep()


def hang_deaf() -> None:
    """Hang with every signal blocked that can be."""
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    hang_in_a_python_loop()


def hang_with_children(folder: str) -> NoReturn:
    """Start a plain ``sleep`` and one in a session of its own, tell their ids, and hang."""
    for new_session in (False, True):
        announce(folder, leave_sleeping(new_session=new_session))
    hang_in_a_python_loop()
    raise AssertionError("the hang ended by itself")


def leave_sleeping(*, new_session: bool = False) -> int:
    """Start a process that goes on after the task."""
    _left_running.append(subprocess.Popen(["sleep", "900"], stdin=subprocess.DEVNULL, start_new_session=new_session))
    return _left_running[-1].pid


def leave_sleeping_and_die(folder: str) -> NoReturn:
    for new_session in (False, True):
        announce(folder, leave_sleeping(new_session=new_session))
    die_by(signal.SIGKILL)


def hang_with_farewell(folder: str, path: str) -> None:
    """Hang with a SIGTERM handler that writes a last word and leaves."""

    def say_farewell(signum: int, frame: FrameType | None) -> NoReturn:
        with open(path, "w", encoding="ascii") as file:
            file.write("farewell")
        raise SystemExit(0)

    signal.signal(signal.SIGTERM, say_farewell)
    hang(folder)


def hang_with_farewell_of_a_child(folder: str, path: str) -> None:
    """Have a shell in the worker's group write the last word, which takes it a second; the worker just dies."""
    script = 'trap "sleep 1; echo farewell > $1; exit" TERM; echo $$ > $2; while :; do sleep 1; done'
    _left_running.append(subprocess.Popen(["sh", "-c", script, "sh", path, f"{folder}/arrived"]))
    hang_in_a_python_loop()


def hang_with_farewell_after_a_child(folder: str, path: str) -> None:
    """Have a SIGTERM handler that waits for such a child."""

    def wait_for_the_child(signum: int, frame: FrameType | None) -> NoReturn:
        _left_running[-1].wait(60)
        raise SystemExit(0)

    signal.signal(signal.SIGTERM, wait_for_the_child)
    hang_with_farewell_of_a_child(folder, path)


def hang_ignoring_sigterm(folder: str) -> str:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    return hang(folder)


def take_longer_than(seconds: float) -> str:
    """Run for so long; the time itself is what the test is about."""
    time.sleep(seconds)
    return "took its time"


def die_by(signum: int) -> NoReturn:
    without_core_dump()
    if signum == signal.SIGSEGV:
        ctypes.string_at(0)
    elif signum == signal.SIGABRT:
        os.abort()
    os.kill(os.getpid(), signum)
    hang_asleep()
    raise AssertionError("still alive")


def exit_with(status: int) -> NoReturn:
    os._exit(status)


def pass_gate_and_die(folder: str) -> NoReturn:
    pass_gate(folder, None)
    die_by(signal.SIGKILL)


def without_core_dump() -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def call_sys_exit(status: object) -> NoReturn:
    sys.exit(status)  # type: ignore[arg-type]


def raise_own_timeout() -> NoReturn:
    raise TimeoutError("the task's own")


def raise_value_error(text: str = "raised") -> NoReturn:
    raise ValueError(text)


def square_unless(refused: int, number: int) -> int:
    if number == refused:
        raise ValueError(f"{number} is refused")
    return number * number


def hang_or_square(number: int) -> int:
    if number < 0:
        hang_in_a_python_loop()
    return number * number


def die_holding_memory_in_a_file(size: int) -> NoReturn:
    """Die by SIGKILL with so many bytes that only a descriptor keeps."""
    fd = os.memfd_create("held")
    piece = bytes(1 << 20)
    for _ in range(0, size, len(piece)):
        os.write(fd, piece)
    die_by(signal.SIGKILL)


def close_every_socket_and_hang() -> NoReturn:
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # the descriptor of the listing itself
            if os.readlink(f"/proc/self/fd/{name}").startswith("socket:"):
                os.close(int(name))
    hang_asleep()
    raise AssertionError("still alive")


def die_or_square(number: int) -> int:
    if number < 0:
        die_by(signal.SIGKILL)
    return number * number


def keywords(**given: Any) -> dict[str, Any]:
    return given


def variable(name: str) -> str | None:
    return os.environ.get(name)


def variable_of_a_child(name: str) -> str:
    script = f"import os; print(os.environ.get({name!r}))"
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.strip()


def exit_in_initializer(status: int) -> NoReturn:
    os._exit(status)


def fail_in_first_workers(folder: str, failures: int) -> None:
    """Serve as initializer: fail in so many workers, counted by files."""
    for number in range(failures):
        with contextlib.suppress(FileExistsError):
            os.close(os.open(f"{folder}/{number}", os.O_CREAT | os.O_EXCL))
            raise ValueError(f"failure {number}")


def map_by_pool_of_multiprocessing(numbers: list[int]) -> list[int]:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.map(square, numbers)


def run_process_and_return_its_exitcode(status: int, method: str) -> int | None:
    process = multiprocessing.get_context(method).Process(target=exit_with, args=(status,))  # type: ignore[attr-defined]
    process.start()
    process.join(60)
    code: int | None = process.exitcode
    process.close()
    return code


def is_daemon() -> bool:
    return multiprocessing.current_process().daemon


def fork_and_return_in_both() -> str:
    """Fork; the child too comes back through the task's end."""
    return "parent" if os.fork() else "child"


def fork_and_wait_for_the_child_that_returns() -> tuple[str, bool]:
    child = os.fork()
    if child == 0:
        return "child", False
    return "parent", _ended_within(child, 60)


def fork_and_raise_in_the_child() -> str:
    if os.fork() == 0:
        raise ValueError("from the child")
    return "parent"


def _ended_within(child: int, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if os.waitpid(child, os.WNOHANG)[0]:
            return True
        time.sleep(0.01)
    return False


def write_junk_into_every_descriptor() -> int:
    """Write into everything but the standard streams; say into how many it went."""
    written = 0
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            if int(name) > 2:
                os.set_blocking(int(name), False)
                written += os.write(int(name), b"\x00\xffjunk\n" * 8) > 0
    return written


class Shy:
    """An object that refuses to be pickled."""

    def __reduce__(self) -> NoReturn:
        raise LookupError("too shy to be pickled")


class Brittle:
    """An object that can be pickled and breaks when it is rebuilt."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return raise_value_error, ("broken in transit",)


class ExitsWhenRebuilt:
    """An object whose rebuilding ends the process."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return exit_with, (5,)


class BreaksIn:
    """An object that can be pickled, and breaks when the process with this id rebuilds it."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return rebuild_unless_in, (self.pid,)


def rebuild_unless_in(pid: int) -> BreaksIn:
    if os.getpid() == pid:
        raise ValueError("broken on arrival")
    return BreaksIn(pid)


class KeywordError(Exception):
    """An exception that cannot be rebuilt from its arguments."""

    def __init__(self, *, code: int) -> None:
        super().__init__(f"the code is {code}")


def raise_keyword_error(code: int) -> NoReturn:
    raise KeywordError(code=code)


class LockedError(Exception):
    """An exception that cannot be pickled."""


def raise_error_that_cannot_be_pickled() -> NoReturn:
    import threading

    raise LockedError("held by", threading.Lock())


def return_lock() -> Any:
    import threading

    return threading.Lock()
