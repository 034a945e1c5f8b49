"""Processes of one test: small programs that say where they are, and that are gone when the test is."""

from __future__ import annotations

import contextlib
import os
import secrets
import select
import signal
import subprocess
import sys
import textwrap
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import safepool
from support import census
from support.eventually import eventually
from support.handles import Handle, end_all
from support.rendezvous import Rendezvous

__all__ = ["PACKAGE_ROOT", "Brood", "forked", "in_forked_child", "is_in_state"]

PACKAGE_ROOT = str(Path(safepool.__file__).parents[1])
_LONGEST = 30.0  # seconds for anything that takes milliseconds

# What every program begins with. Nobody outlives the sleep, whatever the test did wrong.
_PRELUDE = """\
import os, signal, sys, time
sys.path.insert(0, {root!r})

def say(label, detail=""):
    fd = os.open({reports!r}, os.O_WRONLY | os.O_NONBLOCK)
    os.write(fd, f"{{label}} {{os.getpid()}} {{detail}}\\n".encode())
    os.close(fd)

def stay():
    time.sleep(900)
    os._exit(0)

def echo():
    for line in sys.stdin:
        say(line.strip())

"""


class Brood:
    """Starts processes, and ends every one of them."""

    def __init__(self, meeting: Rendezvous) -> None:
        self.meeting = meeting
        self.mark = f"UNDER_TEST_{secrets.token_hex(8)}"
        self._stack = contextlib.ExitStack()

    def start(
        self, command: list[str], *, session: bool = True, env: Mapping[str, str] | None = None, **options: Any
    ) -> subprocess.Popen[bytes]:
        """Start a program; by default the leader of a session of its own."""
        environment = {**os.environ, self.mark: "1", **(env or {})}
        options.setdefault("stdin", subprocess.DEVNULL)
        process = subprocess.Popen(command, start_new_session=session, env=environment, **options)
        self._stack.callback(_bury, process)
        return process

    def sleeper(self, **options: Any) -> subprocess.Popen[bytes]:
        """Start a process that does nothing."""
        return self.start(["sleep", "900"], **options)

    def python(self, source: str, *args: object, **options: Any) -> subprocess.Popen[bytes]:
        """Start a Python program that has ``say``, ``stay`` and ``echo``; to ``ask`` it, give it a pipe to read."""
        return self.start([sys.executable, "-I", "-S", "-c", self.text(source), *map(str, args)], **options)

    def text(self, *sources: str) -> str:
        """Return such a program, for a process of a test to start."""
        parts = [_PRELUDE.format(root=PACKAGE_ROOT, reports=self.meeting.path), *map(textwrap.dedent, sources)]
        return "\n".join(parts)

    def hold(self, *labels: str) -> dict[str, Handle]:
        """Wait for the reports, and take hold of whoever sent them; each must be alive."""
        handles = {label: self.take(pid) for label, pid in self.meeting.pids(labels, within=_LONGEST).items()}
        assert all(handle.alive() for handle in handles.values()), f"the fault never happened: {handles}"
        return handles

    def take(self, pid: int) -> Handle:
        """Take hold of one process until the test ends."""
        handle = self._stack.enter_context(Handle(pid))
        self._stack.callback(handle.send, signal.SIGKILL)
        return handle

    def ask(self, process: subprocess.Popen[bytes], word: str) -> None:
        """Have a program that echoes say this word: it is not only there, it runs."""
        assert process.stdin is not None
        process.stdin.write(f"{word}\n".encode())
        process.stdin.flush()
        assert self.meeting.expect(word, within=_LONGEST).pid == process.pid

    def close(self) -> None:
        self._stack.close()
        end_all(self.mark)


@contextlib.contextmanager
def forked(body: Callable[[], object]) -> Iterator[Handle]:
    """A forked child of the test itself that runs ``body`` and leaves; ended with the block."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # 3.12: a fork with threads, faulthandler's for one
        pid = os.fork()
    if not pid:
        status = 1
        try:
            body()
            status = 0
        finally:
            os._exit(status)  # never back into the test
    with Handle(pid) as handle:
        try:
            yield handle
        finally:
            handle.send(signal.SIGKILL)
            os.waitpid(pid, 0)


def in_forked_child(body: Callable[[], str]) -> str:
    """What ``body`` answers in a forked child of the test."""
    reader, writer = os.pipe()

    def tell() -> None:
        try:
            answer = body()
        except BaseException:
            answer = traceback.format_exc()
        os.write(writer, answer.encode())

    try:
        with forked(tell):
            os.close(writer)
            assert select.select([reader], [], [], _LONGEST)[0], "no answer"
            return os.read(reader, 1 << 12).decode()
    finally:
        os.close(reader)


def is_in_state(pid: int, state: str) -> None:
    """Wait until the kernel shows the process in this state."""
    eventually(lambda: (seen := census.look_at(pid)) is not None and seen.state == state, within=_LONGEST)


def _bury(process: subprocess.Popen[bytes]) -> None:
    with process:
        process.kill()
