"""What tasks look at, and try, where they should find and reach nothing."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from contextlib import suppress
from typing import Any

import safepool
from contract.gate import pass_gate
from support import census
from support.rendezvous import pass_gate as pass_named_gate
from support.rendezvous import report

__all__ = ["DESCRIBE"]

# Run by a child: what it has been given, by number.
DESCRIBE = """
import json, os
found = {}
for name in os.listdir("/proc/self/fd"):
    try:
        found[name] = os.readlink("/proc/self/fd/" + name)
    except OSError:
        pass  # that of the listing
print(json.dumps(found))
"""


def open_files() -> dict[int, str]:
    return census.open_files()


def files_of_popen() -> dict[str, str]:
    """Those of a child that nothing was closed for."""
    command = [sys.executable, "-I", "-S", "-c", DESCRIBE]
    done = subprocess.run(command, close_fds=False, stdout=subprocess.PIPE, check=True)
    found: dict[str, str] = json.loads(done.stdout)
    return found


def files_of_posix_spawn() -> dict[str, str]:
    read, write = os.pipe()
    arguments = [sys.executable, "-I", "-S", "-c", DESCRIBE]
    os.posix_spawn(sys.executable, arguments, os.environ, file_actions=[(os.POSIX_SPAWN_DUP2, write, 1)])
    return _heard(read, write)


def files_of_fork_and_exec() -> dict[str, str]:
    read, write = os.pipe()
    if not _fork():
        os.dup2(write, 1)
        os.execv(sys.executable, [sys.executable, "-I", "-S", "-c", DESCRIBE])
    return _heard(read, write)


def files_of_fork() -> dict[str, str]:
    read, write = os.pipe()
    if not _fork():
        with suppress(BaseException):
            os.write(write, json.dumps(census.open_files()).encode())
        os._exit(0)
    found = _heard(read, write)
    return {name: link for name, link in found.items() if int(name) not in (read, write)}


def _fork() -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # 3.12: fork with threads
        return os.fork()


def _heard(read: int, write: int) -> dict[str, str]:
    os.close(write)
    with open(read, "rb") as answer:
        found: dict[str, str] = json.load(answer)
    os.wait()
    return found


def leave_group(other: int) -> dict[str, str]:
    """Try to get into somebody else's group and session, in person and by a child; tell what came of it."""
    attempts: dict[str, Any] = {
        "new session": os.setsid,
        "own group": lambda: os.setpgid(0, 0),
        "another group": lambda: os.setpgid(0, os.getpgid(other)),
        "its group": lambda: os.setpgid(0, other),
        "child in another group": lambda: _in_child(lambda: os.setpgid(0, os.getpgid(other))),
        "child in its group": lambda: _in_child(lambda: os.setpgid(0, other)),
    }
    return {name: _outcome(attempt) for name, attempt in attempts.items()}


def _outcome(attempt: Any) -> str:
    try:
        attempt()
    except OSError as error:
        return type(error).__name__
    return "done"


def _in_child(attempt: Any) -> None:
    child = _fork()
    if not child:
        os._exit(0 if _outcome(attempt) == "done" else 1)
    if os.waitpid(child, 0)[1]:
        raise PermissionError


def lifeline_fd() -> int:
    """Find the pipe that the kernel watches: its end is in a state that no other pipe is in."""
    for fd, link in census.open_files().items():
        if link.startswith("pipe:") and fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ASYNC:
            return fd
    raise AssertionError("no lifeline")


def turn_lifeline_on(group: int, folder: str) -> None:
    """Have the kernel end another group in place of ours; then wait for the end."""
    fcntl.fcntl(lifeline_fd(), fcntl.F_SETOWN, -group)
    pass_gate(folder, None)
    time.sleep(600)


def cut_lifeline_and_leave(reports: str, label: str, gate: str) -> None:
    """Take the lifeline off, let go of every descriptor, leave a daemon and a process that calls itself a cleaner."""
    fcntl.fcntl(lifeline_fd(), fcntl.F_SETFL, 0)
    for name, word in (("escapee", "x"), ("named", "resource_tracker import main")):
        program = f"import time  # {word}\ntime.sleep(900)"
        child = subprocess.Popen([sys.executable, "-c", program], start_new_session=True, stdin=subprocess.DEVNULL)
        _kept.append(child)
        report(reports, f"{label}.{name}", str(child.pid))
    report(reports, label)
    pass_named_gate(gate)
    time.sleep(600)


def give_large(size: int) -> bytes:
    return bytes(size)


def start_process() -> int | None:
    """Start a process as our context does, and return how it ended."""
    process = safepool.get_context().Process(target=abs, args=(-3,))
    process.start()
    process.join()
    return process.exitcode


def raise_it(error: BaseException) -> None:
    raise error


_kept: list[subprocess.Popen[bytes]] = []  # a Popen that is collected while its child runs would warn


def flood_stacks_at_sigterm() -> None:
    """When the end is near, write without end to where stacks are written."""
    from safepool._worker import boot

    def flood() -> None:
        with suppress(OSError):
            while True:
                os.write(boot._switch_fd, b"x" * 4096)

    def on_sigterm(_signum: int, _frame: Any) -> None:
        threading.Thread(target=flood, daemon=True).start()
        time.sleep(600)

    signal.signal(signal.SIGTERM, on_sigterm)
    time.sleep(600)
