"""What the workers run in the tests of features beyond the standard library's."""

from __future__ import annotations

import ctypes
import gc
import itertools
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

from contract.gate import pass_gate
from safepool import SoftTimeoutError


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


def hang_in_c() -> int:
    return sum(itertools.repeat(1, 2**42))


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


def catch_soft_timeout(kind: str) -> tuple[float, float]:
    """Hang until the soft timeout; return its limit, and when it came."""
    try:
        _hang(kind)
    except SoftTimeoutError as warning:
        return warning.timeout, warning.elapsed
    raise AssertionError("the hang ended by itself")


def hang_through_soft_timeout(path: str) -> None:
    """Note each soft timeout in a file, and hang on."""
    while True:
        try:
            _hang("asleep")
        except SoftTimeoutError:
            note(path, "warned")


def _hang(kind: str) -> None:
    if kind == "asleep":
        time.sleep(600)
    elif kind == "looping":
        end = time.monotonic() + 600
        while time.monotonic() < end:
            pass
    elif kind == "reading":
        os.read(os.pipe()[0], 1)
    elif kind == "waiting":
        subprocess.run(["sleep", "600"], check=True)


def wait_for_child(folder: str) -> str:
    """Tell the pid of a child, and wait for it until the soft timeout."""
    try:
        subprocess.run(["sh", "-c", 'echo $$ > "$1"; exec sleep 600', "sh", f"{folder}/arrived"], check=True)
    except SoftTimeoutError:
        return "warned"
    raise AssertionError("the child ended by itself")


def serve(folder: str) -> None:
    """As an initializer: start a program that starts children, without end, and counts those that were killed."""
    program = """
import os, subprocess, sys
killed = 0
while True:
    child = subprocess.Popen(["sleep", "0.02"], stdin=subprocess.DEVNULL)
    killed += child.wait() != 0
    with open(sys.argv[1] + ".new", "w") as file:
        file.write(str(killed))
    os.rename(sys.argv[1] + ".new", sys.argv[1])
"""
    left.append(subprocess.Popen([sys.executable, "-I", "-S", "-c", program, f"{folder}/killed"]))
    while not Path(folder, "killed").exists():
        pass


def grow(mebibytes: int) -> int:
    """Take memory bit by bit, and hold it; return how much."""
    hoarded.extend(bytearray(b"x" * (1 << 20)) for _ in range(mebibytes))
    return len(hoarded)


def grow_and_stay(mebibytes: int) -> None:
    """Take memory, and hold it until the end comes."""
    held = grow(mebibytes)
    time.sleep(600)
    raise AssertionError(f"{held} MiB were held for so long")


def grow_beneath(mebibytes: int) -> int:
    """Have a process in a session of its own take memory."""
    program = f"from features import acts; acts.grow_and_stay({mebibytes})"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", program]
    return subprocess.run(command, check=False, env=environment, start_new_session=True).returncode


def hold_for_a_moment(mebibytes: int) -> int:
    """Take memory, and give it back before any look; return how much."""
    return len(b"x" * (mebibytes << 20))


def make_undumpable() -> int:
    """Have the kernel give the files of this process in /proc to root."""
    return ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)  # type: ignore[no-any-return]  # PR_SET_DUMPABLE


def hold_and_raise(mebibytes: int) -> None:
    """Take memory, give it back, and fail."""
    raise LookupError(hold_for_a_moment(mebibytes))


def hold_at_gate(folder: str, mebibytes: int) -> int:
    """Take memory, and hold it until the gate opens."""
    return len(pass_gate(folder, b"x" * (mebibytes << 20)))


def hold_beneath(folder: str, mebibytes: int) -> int:
    """Have a process in a session of its own hold memory until the gate opens."""
    program = f"from features import acts; acts.hold_at_gate({folder!r}, {mebibytes})"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run(
        [sys.executable, "-c", program], check=True, env=environment, start_new_session=True
    ).returncode


def share(folder: str, mebibytes: int, children: int) -> int:
    """Take memory, share it with forked children, and hold it until the gate opens."""
    held = bytearray(b"x" * (mebibytes << 20))
    read, write = os.pipe()
    for _ in range(children):
        if not os.fork():
            os.close(write)
            os.read(read, 1)  # until the parent lets go
            os._exit(0)
    pass_gate(folder, None)
    os.close(write)
    for _ in range(children):
        os.wait()
    return len(held)


def let_go(mebibytes: int) -> int:
    """Take memory, and let it go; return the worker's pid."""
    assert bytearray(b"x" * (mebibytes << 20))
    return os.getpid()


def hoard(mebibytes: int) -> int:
    """Keep memory after the task; return the worker's pid."""
    hoarded.append(bytearray(b"x" * (mebibytes << 20)))
    return os.getpid()


hoarded: list[bytearray] = []


def leave_behind(new_session: bool, how: str = "return") -> int:
    """Leave a process running; return or raise its pid."""
    left.append(subprocess.Popen(["sleep", "900"], stdin=subprocess.DEVNULL, start_new_session=new_session))
    while not Path(f"/proc/{left[-1].pid}/cmdline").read_bytes():
        pass  # an exec shows no command line for an instant
    if how == "raise":
        raise ValueError(left[-1].pid)
    return left[-1].pid


def leave_named(words: str) -> int:
    """Leave a process running that has these words in its command line; return its pid."""
    command = [sys.executable, "-I", "-S", "-c", f"# {words}\nprint(flush=True)\nimport time\ntime.sleep(900)"]
    left.append(subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, start_new_session=True))
    assert left[-1].stdout is not None
    left[-1].stdout.readline()  # it is what it is to be
    return left[-1].pid


def leave_orphan(name: str, reap: bool) -> int:
    """Leave a process in a session of its own that has this variable, and whose parent is dead; return its pid."""
    script = "setsid sleep 900 >/dev/null & echo $!"
    parent = subprocess.Popen(
        ["sh", "-c", script], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, env={**os.environ, name: "1"}
    )
    left.append(parent)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    os.waitid(os.P_PID, parent.pid, os.WEXITED | (0 if reap else os.WNOWAIT))
    while not Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"sleep"):
        pass  # its exec is not over
    return pid


def leave_daemon() -> None:
    """Leave a process running whose parent is gone a moment later, if not yet."""
    subprocess.run(["sh", "-c", "setsid sleep 900 &"], check=True, stdin=subprocess.DEVNULL)


def leave_holding(size: int) -> int:
    """Leave a process running whose last descriptor frees so many bytes; return its pid."""
    held = os.memfd_create("held")
    piece = memoryview(bytes(1 << 20))
    while size > 0:
        size -= os.write(held, piece[:size])
    left.append(subprocess.Popen(["sleep", "900"], stdin=subprocess.DEVNULL, pass_fds=(held,)))
    os.close(held)
    return left[-1].pid


def leave_one_that_starts_a_named(folder: str, words: str) -> int:
    """Leave a process running that passes the gate, and then leaves another one with these words; return its pid."""
    program = """
import os, subprocess, sys
from contract.gate import announce, pass_gate
pass_gate(sys.argv[1], None)
command = [sys.executable, "-I", "-S", "-c", os.environ["NAMED"]]  # these words are not to stand in our own
named = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
announce(sys.argv[1], named.pid)
named.wait()
"""
    named = f"# {words}\nimport time\ntime.sleep(900)"
    command = [sys.executable, "-c", program, folder]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "NAMED": named}
    left.append(subprocess.Popen(command, stdin=subprocess.DEVNULL, env=environment))
    return left[-1].pid


left: list[subprocess.Popen[bytes]] = []  # a Popen that is collected while its child runs would warn


def leave_and_tell(folder: str) -> None:
    """Start a process that starts another one, and tell their pids; for initializers."""
    script = 'sleep 900 & echo $! > "$1"; echo $$ > "$1"; wait'
    left.append(subprocess.Popen(["sh", "-c", script, "sh", f"{folder}/arrived"], stdin=subprocess.DEVNULL))


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


def spoil_ring() -> None:
    """Write what no answer begins with to where answers are left, as wild code might."""
    ring = next(thing for thing in gc.get_objects() if type(thing).__name__ == "AnswerRing")
    ring._data[:64] = b"x" * 64
    ring._written[0] += 64


def steal_tickets(size: int) -> None:
    """Read from every socket there is, as a library might that closes or drains descriptors by number."""
    for name in os.listdir("/proc/self/fd"):
        try:
            with socket.socket(fileno=os.dup(int(name))) as stolen:
                stolen.recv(size, socket.MSG_DONTWAIT)
        except OSError:
            pass


def give_back(value: object) -> object:
    return value


class Marked:
    """Something whose end can be seen."""


def tell_type(value: object) -> str:
    return type(value).__name__


finalized: list[str] = []  # the names of the threads in which one of those below has gone


class Finalized:
    """Says where it is let go of, if that is in the process that the test runs in."""

    def __del__(self) -> None:
        finalized.append(threading.current_thread().name)


def make_finalized_or_pass_gate(number: int, waiting: int, folder: str) -> Finalized | int:
    return pass_gate(folder, number) if number == waiting else Finalized()
