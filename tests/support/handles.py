"""Processes held by pidfd: a handle never means a stranger who got the number later, and death is announced."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Iterable, Mapping
from types import TracebackType

from support import census

__all__ = ["Handle", "end_all", "gone", "hold", "none_alive"]


class Handle:
    """One process, by pidfd."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._pidfd = os.pidfd_open(pid)

    def fileno(self) -> int:
        return self._pidfd

    def alive(self) -> bool:
        """Whether it runs (or is stopped); a zombie does not."""
        return not _ready([self], 0)

    def send(self, signum: signal.Signals) -> None:
        """Signal it; a process that is already gone is left in peace."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, signum)

    def close(self) -> None:
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1

    def __enter__(self) -> Handle:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<{census.look_at(self.pid) or f'pid {self.pid}, gone'}>"


def hold(pids: Mapping[str, int], stack: contextlib.ExitStack) -> dict[str, Handle]:
    """Take hold of every process by name; each must be alive now."""
    handles: dict[str, Handle] = {}
    for name, pid in pids.items():
        try:
            handles[name] = stack.enter_context(Handle(pid))
        except ProcessLookupError as error:
            raise AssertionError(f"the fault never happened: {name} ({pid}) was gone and reaped") from error
    dead = [name for name, handle in handles.items() if not handle.alive()]
    assert not dead, f"the fault never happened: {dead} were not alive"
    return handles


def gone(handles: Mapping[str, Handle], *, within: float = 20.0) -> dict[str, float]:
    """Wait until all are gone; how many milliseconds each took from now."""
    start = time.monotonic()
    latencies: dict[str, float] = {}
    waiting = dict(handles)
    while waiting:
        left = start + within - time.monotonic()
        assert left > 0, f"still alive after {within:g} s: {waiting}"
        ready = _ready(waiting.values(), left)
        now = time.monotonic()
        for name in [name for name, handle in waiting.items() if handle in ready]:
            latencies[name] = round((now - start) * 1000, 1)
            del waiting[name]
    return latencies


def none_alive(handles: Mapping[str, Handle]) -> None:
    """All are gone already: for those who were told so."""
    left = {name: handle for name, handle in handles.items() if handle.alive()}
    assert not left, f"reported as ended, but alive: {left}"


def end_all(marker: str, *, spare: Iterable[int] = ()) -> list[census.Seen]:
    """End everything that carries the marker, and say whom; for cleaning up after a test only."""
    spared = {*spare, os.getpid()}
    ended: dict[int, census.Seen] = {}
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        found = [seen for seen in census.carrying(marker) if seen.pid not in spared]
        if not found:
            break
        for seen in found:
            ended[seen.pid] = seen
            _end(seen.pid, marker)
    return list(ended.values())


def _end(pid: int, marker: str) -> None:
    with contextlib.suppress(ProcessLookupError), Handle(pid) as handle:
        # Look again now that the handle pins the process: the number may have changed hands since the listing.
        if (b"\0" + marker.encode()) in b"\0" + census.environment_of(pid):
            handle.send(signal.SIGKILL)
            _ready([handle], 2)


def _ready(handles: Iterable[Handle], timeout: float) -> list[Handle]:
    by_fd = {handle.fileno(): handle for handle in handles}
    poll = select.poll()
    for fd in by_fd:
        poll.register(fd, select.POLLIN)
    return [by_fd[fd] for fd, _ in poll.poll(timeout * 1000)]
