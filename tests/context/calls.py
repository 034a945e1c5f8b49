"""What the processes of these tests run."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import time
from typing import Any, NoReturn

from contract.gate import announce, pass_gate
from safepool import get_context

_LONGEST_HANG = 120.0

_left_running: list[subprocess.Popen[bytes]] = []


def square(number: int) -> int:
    return number * number


def nothing() -> None:
    pass


def exit_with(status: int) -> NoReturn:
    raise SystemExit(status)


def fail() -> NoReturn:
    raise ValueError("this traceback in the output is expected")


def arrive_and_hang(folder: str) -> None:
    announce(folder)
    time.sleep(_LONGEST_HANG)


def ignore_sigterm_and_hang(folder: str) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    arrive_and_hang(folder)


def leave_sleeping(folder: str) -> None:
    """Start a plain ``sleep`` and one in a session of its own, and tell their ids."""
    for new_session in (False, True):
        _left_running.append(
            subprocess.Popen(["sleep", "900"], stdin=subprocess.DEVNULL, start_new_session=new_session)
        )
        announce(folder, _left_running[-1].pid)


def leave_sleeping_and_hang(folder: str) -> None:
    leave_sleeping(folder)
    time.sleep(_LONGEST_HANG)


def leave_sleeping_and_die(folder: str, how: str) -> NoReturn:
    leave_sleeping(folder)
    pass_gate(folder, None)
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    os._exit(3)


def send_twice(number: int, queue: Any) -> None:
    queue.put(2 * number)


def answer_over_pipe(connection: Any) -> None:
    connection.send(connection.recv() + 1)
    connection.close()


def wait_then_set(first: Any, second: Any) -> None:
    assert first.wait(60)
    second.set()


def try_lock(lock: Any, queue: Any) -> None:
    got = lock.acquire(block=False)
    if got:
        lock.release()
    queue.put(got)


def add_to_value(value: Any) -> None:
    with value.get_lock():
        value.value += 1


def describe_self(queue: Any) -> None:
    me = multiprocessing.current_process()
    queue.put((os.getpid(), me.name, me.daemon))


_prepared: list[int] = []


def prepare(number: int) -> None:
    _prepared.append(number)


def prepared_number(_: int) -> int:
    return _prepared[0]


def start_process_of_the_context(number: int) -> tuple[bool, int | None]:
    """Say whether this process is a daemon, and how a process that it started ended."""
    process = get_context().Process(target=exit_with, args=(number,))  # type: ignore[attr-defined]
    process.start()
    process.join(60)
    code: int | None = process.exitcode
    process.close()
    return multiprocessing.current_process().daemon, code


def worker_id(_: int = 0) -> int:
    return os.getpid()
