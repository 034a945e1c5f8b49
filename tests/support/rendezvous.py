"""How processes of a test meet: through FIFOs with a name, so that nothing has to be inherited.

A report is one line, ``label pid detail``, written at once and far below PIPE_BUF: the kernel never mixes two.
Anything can report, a shell too: ``echo "label $$" > path``.
"""

from __future__ import annotations

import contextlib
import os
import select
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

__all__ = ["Gate", "Rendezvous", "Report", "pass_gate", "report"]

_LONGEST = 3500  # a report must stay below PIPE_BUF (4096) to be atomic


class Report(NamedTuple):
    """What one process said."""

    label: str
    pid: int
    detail: str


def report(path: str, label: str, detail: str = "") -> None:
    """Say something to the test."""
    _say(path, f"{label} {os.getpid()} {detail[:_LONGEST]}\n".encode())


def pass_gate(path: str) -> None:
    """Block until the test opens the gate (or is gone)."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.read(fd, 1)
    finally:
        os.close(fd)


class Rendezvous:
    """The test's end: reports in the order in which they came."""

    def __init__(self, directory: Path, name: str = "reports") -> None:
        self.path = str(directory / name)
        os.mkfifo(self.path)
        # Open for both, so that it has a writer for ever: no end of file, and no reporter ever waits for a reader.
        self._fd = os.open(self.path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        self._partial = b""
        self.reports: list[Report] = []

    def expect(self, label: str, *, within: float = 60.0) -> Report:
        """Wait for one report."""
        return self.expect_all([label], within=within)[label]

    def expect_all(self, labels: Iterable[str], *, within: float = 60.0) -> dict[str, Report]:
        """Wait for the first report of every label."""
        wanted = list(labels)
        deadline = time.monotonic() + within
        while missing := self._missing(wanted):
            left = deadline - time.monotonic()
            if left <= 0:
                raise AssertionError(f"no report of {missing} within {within:g} s; heard: {self.reports}")
            self.listen(left)
        return {label: found for label in wanted if (found := self.find(label)) is not None}

    def _missing(self, wanted: Iterable[str]) -> list[str]:
        """Who has not reported, of one look: what comes between two would be in the list, and be waited for in vain."""
        self.listen(0)
        heard = {report.label for report in self.reports}
        return [label for label in wanted if label not in heard]

    def pids(self, labels: Iterable[str], *, within: float = 60.0) -> dict[str, int]:
        """Wait for every label; who sent it."""
        return {label: report.pid for label, report in self.expect_all(labels, within=within).items()}

    def find(self, label: str) -> Report | None:
        """The first report of that label that has come so far."""
        self.listen(0)
        return next((report for report in self.reports if report.label == label), None)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def listen(self, timeout: float) -> None:
        """Take in what comes within so many seconds; return at the first."""
        if not select.select([self._fd], [], [], timeout)[0]:
            return
        with contextlib.suppress(BlockingIOError):
            *lines, self._partial = (self._partial + os.read(self._fd, 1 << 16)).split(b"\n")
            self.reports.extend(_parse(line.decode()) for line in lines)


class Gate:
    """Holds back whoever passes it, until it is opened."""

    def __init__(self, directory: Path, name: str = "gate") -> None:
        self.path = str(directory / name)
        os.mkfifo(self.path)
        self._fd = os.open(self.path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)

    def open(self, count: int = 64) -> None:
        """Let the next ``count`` pass."""
        os.write(self._fd, b"." * count)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _say(path: str, line: bytes) -> None:
    # Without a reader (the test is over) the opening fails instead of waiting for ever.
    fd = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        os.set_blocking(fd, True)
        os.write(fd, line)
    finally:
        os.close(fd)


def _parse(line: str) -> Report:
    label, pid, *detail = line.split(" ", 2)
    return Report(label, int(pid), detail[0] if detail else "")
