"""A gate: tasks say that they arrived, and go on when the host lets them.

Two FIFOs. The host holds both ends of each, so that nobody blocks on opening one and a dead task costs nothing.
A gate that was closed lets everybody through: no task outlives its test by waiting for it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import time
from pathlib import Path
from typing import TypeVar

from contract.patience import PATIENCE

T = TypeVar("T")

_LONGEST_STAY = 120.0  # seconds a task waits at most; then the test has failed long ago


class Gate:
    """The host's side."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)
        folder.mkdir()
        self._fds = [_fifo_open_at_both_ends(folder / name) for name in ("arrived", "go")]
        self._unread = b""

    def wait_until_arrived(self, count: int = 1) -> list[int]:
        """Wait for `count` more tasks; return the process ids that they gave."""
        give_up = time.monotonic() + PATIENCE
        while self._unread.count(b"\n") < count:
            remaining = give_up - time.monotonic()
            ready = select.select([self._fds[0]], [], [], max(remaining, 0))[0]
            assert ready, f"of {count} arrivals there came only {self._unread!r}"
            self._unread += os.read(self._fds[0], 4096)
        *lines, self._unread = self._unread.split(b"\n", count)
        return [int(line) for line in lines]

    def nobody_arrived(self) -> bool:
        """Say whether no arrival is left that was not waited for."""
        return not self._unread and not select.select([self._fds[0]], [], [], 0)[0]

    def let_through(self, count: int = 1) -> None:
        """Let `count` tasks through, whether they are here already or come later."""
        os.write(self._fds[1], b"." * count)

    def close(self) -> None:
        """Let everybody through, now and later."""
        fds, self._fds = self._fds, []
        for fd in fds:
            os.close(fd)


def pass_gate(folder: str, value: T) -> T:
    """Be the task: arrive, wait, go on with the value."""
    announce(folder)
    _wait_until_let_through(folder)
    return value


def announce(folder: str, pid: int | None = None) -> None:
    """Tell the host that this process (or `pid`) is there."""
    try:
        fd = os.open(f"{folder}/arrived", os.O_WRONLY | os.O_NONBLOCK)
    except OSError as error:
        if error.errno in {errno.ENXIO, errno.ENOENT}:  # the gate was closed meanwhile
            return
        raise
    try:
        os.write(fd, b"%d\n" % (os.getpid() if pid is None else pid))
    finally:
        os.close(fd)


def _wait_until_let_through(folder: str) -> None:
    # Read first: the end of a FIFO that lost its writer before it was opened is seen by reading, not by select.
    fd = os.open(f"{folder}/go", os.O_RDONLY | os.O_NONBLOCK)
    give_up = time.monotonic() + _LONGEST_STAY
    try:
        while time.monotonic() < give_up:
            with contextlib.suppress(BlockingIOError):
                os.read(fd, 1)  # one byte lets one through; nothing at all means that the gate was closed
                return
            select.select([fd], [], [], max(give_up - time.monotonic(), 0))
    finally:
        os.close(fd)


def _fifo_open_at_both_ends(path: Path) -> int:
    os.mkfifo(path)
    return os.open(path, os.O_RDWR | os.O_NONBLOCK)
