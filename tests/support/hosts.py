"""Hosts under test: programs in a process, a session and a group of their own, which the test can end at will.

Everything a host starts inherits a marker of the test's own, so that the census does not rest on what the package
under test does.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from support import census
from support.eventually import eventually
from support.handles import Handle, end_all, hold
from support.rendezvous import Gate, Rendezvous

__all__ = ["Host", "Program"]

_HERE = Path(__file__).parent
# Makes the terminal on its standard input the controlling one, then becomes the program.
_ON_TERMINAL = (
    "import fcntl, os, sys, termios\nfcntl.ioctl(0, termios.TIOCSCTTY, 0)\nos.execvp(sys.argv[1], sys.argv[1:])"
)
# Adopts and reaps whatever the program's processes leave behind: an init that is slow at it would let thousands of
# zombies pile up, and the machine run out of numbers. Ends when everything has.
_REAPED = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER
os.posix_spawn(sys.executable, sys.argv[1:], os.environ)
os.close(0)
while True:
    try:
        os.waitpid(-1, 0)
    except ChildProcessError:
        break
"""


class Program:
    """A Python program, run as a script."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.rendezvous = Rendezvous(directory)
        self.mark = f"UNDER_TEST_{secrets.token_hex(8)}"
        self.spared: list[int] = []
        self._closed = False
        self._gates: list[Gate] = []
        self._stack = contextlib.ExitStack()
        self.process: subprocess.Popen[bytes]

    def run_text(self, source: str, *args: str, terminal: int | None = None) -> None:
        """Run a script given as text; its first argument is where to report."""
        path = self.directory / "program.py"
        path.write_text(textwrap.dedent(source))
        self.run([sys.executable, str(path), self.rendezvous.path, *args], terminal=terminal)

    def run(
        self,
        command: list[str],
        *,
        terminal: int | None = None,
        on_screen: bool = False,
        environment: Mapping[str, str] | None = None,
        **variables: str,
    ) -> None:
        """Start a command, on a terminal if one is given; its output goes to files, or ``on_screen``."""
        if terminal is not None:
            command = [sys.executable, "-c", _ON_TERMINAL, *command]
        with open(self.directory / "stdout", "wb") as out, open(self.directory / "stderr", "wb") as err:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE if terminal is None else terminal,
                stdout=terminal if on_screen else out,
                stderr=terminal if on_screen else err,
                env={**self._environment(), **(environment or {}), **variables},
                start_new_session=True,
            )
        self._handle = self._stack.enter_context(Handle(self.process.pid))

    @property
    def stdout(self) -> str:
        return (self.directory / "stdout").read_text(errors="replace")

    @property
    def stderr(self) -> str:
        return (self.directory / "stderr").read_text(errors="replace")

    def gate(self, name: str) -> Gate:
        self._gates.append(Gate(self.directory, name))
        return self._gates[-1]

    def hold(self, pids: Mapping[str, int]) -> dict[str, Handle]:
        """Take hold of processes until the test ends; each must be alive now."""
        return hold(pids, self._stack)

    def hold_reported(self, labels: Iterable[str]) -> dict[str, Handle]:
        """Wait for the reports and take hold of whoever sent them."""
        return hold(self.rendezvous.pids(labels), self._stack)

    def send(self, signum: signal.Signals) -> None:
        self._handle.send(signum)

    def finish(self, *, within: float = 60.0) -> int:
        """Wait for the program's end and give its status."""
        try:
            return self.process.wait(within)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the host did not end within {within:g} s; stderr: {self.stderr}") from None

    def left(self) -> list[census.Seen]:
        """Everything of this program that is alive, but for the program itself and what the test spares."""
        spared = {self.process.pid, *self.spared}
        return [seen for seen in census.carrying(self.mark) if seen.pid not in spared]

    def leaves_nothing(self, *, within: float = 20.0) -> None:
        """Wait until nothing of it is alive: no worker, no descendant, no janitor, no resource tracker."""
        census.nobody(self.left, within=within)

    def close(self) -> None:
        """End what is left, whatever happened; a second time, do nothing."""
        if self._closed:
            return
        self._closed = True
        with contextlib.suppress(OSError):
            if self.process.stdin is not None:
                self.process.stdin.close()
        self.send(signal.SIGKILL)
        end_all(self.mark)
        self.process.wait(30)
        self._stack.close()
        self.rendezvous.close()
        for gate in self._gates:
            gate.close()

    def _environment(self) -> dict[str, str]:
        # The program finds what the test finds, wherever the package was installed.
        path = os.pathsep.join(entry for entry in sys.path if entry)
        return {**os.environ, "PYTHONPATH": path, self.mark: "1"}


class Host(Program):
    """A host that takes commands (``host_program``); with ``reaped``, under a process that reaps all orphans.

    A ``launcher`` is a command that becomes the one that follows it. ``environment`` is the host's, added to ours.
    """

    def __init__(
        self,
        directory: Path,
        *,
        reaped: bool = False,
        launcher: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        **pool: Any,
    ) -> None:
        super().__init__(directory)
        os.chmod(self.rendezvous.path, 0o666)  # the launcher may change the user
        before = [sys.executable, "-c", _REAPED] if reaped else launcher
        program = str(_HERE / "host_program.py")
        command = [*before, sys.executable, program, json.dumps(pool), self.rendezvous.path]
        self.run(command, environment=environment)
        pid = self._wait_for_start()
        if reaped:
            self.spared.append(pid)
            self._handle = self._stack.enter_context(Handle(pid))

    def _wait_for_start(self) -> int:
        try:
            return self.rendezvous.expect("host").pid
        except AssertionError as error:
            self.close()
            raise AssertionError(f"the host did not start: {self.stderr}") from error

    def tell(self, do: str, **details: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"do": do, **details}).encode() + b"\n")
        self.process.stdin.flush()

    def submit(self, label: str, task: str, *args: Any, timeout: float | None = None) -> None:
        self.tell("submit", label=label, task=task, args=args, timeout=timeout)

    def outcome(self, label: str, *, within: float = 60.0) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(self.rendezvous.expect(f"{label}.outcome", within=within).detail)
        return answer

    def canary(self) -> Handle:
        """A process of the host's own group and session, which must survive everything."""
        self.tell("canary")
        pid = int(self.rendezvous.expect("canary").detail)
        self.spared.append(pid)
        return self.hold({"canary": pid})["canary"]

    def open_pool(self) -> str:
        """Make the pool; gives the marker of its workers."""
        self.tell("pool")
        return self.rendezvous.expect("pool").detail

    def stop(self) -> None:
        """Stop the whole host, every thread of it."""
        self.send(signal.SIGSTOP)
        eventually(lambda: (seen := census.look_at(self.process.pid)) and seen.state == "T")

    def resume(self) -> None:
        self.send(signal.SIGCONT)
