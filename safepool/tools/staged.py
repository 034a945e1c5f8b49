"""Programs that the doctor's probes start, and how their ends are seen.

Each says who is who on its standard output, and what waits there waits for the end of its standard input: whatever
happens to a probe, or to the doctor itself, they leave.
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from types import TracebackType

from safepool._os import process_exit
from safepool._os.bare import PACKAGE_ROOT

__all__ = ["LIMIT", "Held", "Program"]

LIMIT = 10.0  # seconds for what takes milliseconds: a machine that needs longer does not keep the promise

_PRELUDE = f"""
import os, signal, sys
sys.path.append({PACKAGE_ROOT!r})
def say(name, value):
    os.write(1, f"{{name}} {{value}}\\n".encode())
def stay():
    os.read(0, 1)
    os._exit(0)
"""


class Program:
    """A small program, the first of a session of its own; a context, at whose end it is ended and reaped.

    Args:
        source: What it does; ``say`` and ``stay`` are at hand.
        pass_fds: Descriptors that it inherits.
        needs_packages: Have it find installed packages, which takes longer.
    """

    def __init__(self, source: str, *, pass_fds: Sequence[int] = (), needs_packages: bool = False) -> None:
        options = [] if needs_packages else ["-I", "-S"]
        self._process = subprocess.Popen(
            [sys.executable, *options, "-c", _PRELUDE + source],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            pass_fds=tuple(pass_fds),
        )
        self.pid = self._process.pid
        self._heard = b""

    def __enter__(self) -> Program:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.release()
        self.kill()
        self.wait()
        for stream in (self._process.stdout, self._process.stderr):
            assert stream is not None
            stream.close()

    def hear(self, *names: str) -> dict[str, int]:
        """Wait until these have been said; return the numbers that were said with them.

        Raises:
            TimeoutError: They were not, within the limit or before everybody had closed the output.
        """
        assert self._process.stdout is not None
        deadline = time.monotonic() + LIMIT
        while True:
            words = [line.split() for line in self._heard.decode().split("\n")[:-1]]
            said = {name: int(value) for name, value in words}
            missing = [name for name in names if name not in said]
            if not missing:
                return said
            ready, _, _ = select.select([self._process.stdout], [], [], max(0.0, deadline - time.monotonic()))
            piece = os.read(self._process.stdout.fileno(), 4096) if ready else b""
            if not piece:
                raise TimeoutError(
                    self._complaint() or f"a process that was started for it never came to {missing[0]!r}"
                )
            self._heard += piece

    def release(self) -> None:
        """Have those leave that wait."""
        assert self._process.stdin is not None
        self._process.stdin.close()

    def kill(self) -> None:
        """End the program itself by SIGKILL, and nobody else."""
        self._process.kill()

    def wait(self) -> int:
        """Wait for its end, and reap it; return its exit status.

        Raises:
            TimeoutError: It did not come.
        """
        try:
            return self._process.wait(LIMIT)
        except subprocess.TimeoutExpired as error:
            raise TimeoutError(f"process {self.pid}, which was started for it, did not end") from error

    def _complaint(self) -> str:
        """Return the last line of what it has written to standard error."""
        assert self._process.stderr is not None
        os.set_blocking(self._process.stderr.fileno(), False)
        lines = (self._process.stderr.read() or b"").decode(errors="replace").split("\n")
        last = next((line for line in reversed(lines) if line.strip()), "")
        return last.strip()


class Held:
    """Processes held by pidfd, to see them die; a context, at whose end the living are ended."""

    def __init__(self, pids: Iterable[int]) -> None:
        self._pidfds: list[int] = []
        try:
            for pid in pids:
                pidfd = process_exit.open_pidfd(pid)
                if pidfd is None:
                    raise ChildProcessError(f"process {pid}, which was started for it, had gone too early")  # noqa: TRY301
                self._pidfds.append(pidfd)
        except BaseException:
            self._close()
            raise

    def __enter__(self) -> Held:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._close()

    def milliseconds_until_dead(self) -> float | None:
        """Wait for the death of all; return how long that took, or None if one outlives the limit."""
        start = time.monotonic()
        for pidfd in self._pidfds:
            if not process_exit.has_ended(pidfd, max(0.0, start + LIMIT - time.monotonic())):
                return None
        return (time.monotonic() - start) * 1000

    def _close(self) -> None:
        for pidfd in self._pidfds:
            process_exit.send_signal(pidfd, 9)
            os.close(pidfd)
