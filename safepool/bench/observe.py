"""What processes are there, what do they hold, and when do they go? Seen from outside, through /proc and pidfds.

Processes of one measurement carry a variable in their environment whose name is the measurement's, wherever they went.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import select
import tempfile
import time
from collections.abc import Iterable, Iterator
from types import TracebackType

from safepool._os.process_exit import open_pidfd
from safepool._os.process_table import environment_of, list_rows, memory_share_of, resident_pages_of, with_descendants

__all__ = [
    "Reports",
    "Watch",
    "host_memory",
    "members",
    "my_marker",
    "new_marker",
    "pss",
    "rss",
    "threads_of",
    "voluntary_switches",
    "wait_at_gate",
]

_PREFIX = "BENCH_OF_SAFEPOOL_"  # not SAFEPOOL_, which the pool keeps from its own helpers


def new_marker() -> str:
    """Return a name that no other measurement has."""
    return _PREFIX + secrets.token_hex(8)


def my_marker() -> str:
    """Return the marker of the measurement that this process is part of."""
    return next(name for name in os.environ if name.startswith(_PREFIX))


def members(marker: str, session: int | None = None) -> set[int]:
    """Return living processes that carry the marker, are in the session, or descend from such."""
    rows = [row for row in list_rows() if not row.is_dead]
    needle = b"\0" + marker.encode() + b"="
    known = {row.pid for row in rows if row.session == session or needle in b"\0" + environment_of(row.pid)}
    return with_descendants(known, rows)


def rss(pid: int) -> int:
    """Return the bytes that a process has resident, shared ones included."""
    return resident_pages_of(pid) * os.sysconf("SC_PAGE_SIZE")


def pss(pid: int) -> int:
    """Return the bytes that are a process's own, and its share of the others; 0 if it is gone."""
    return memory_share_of(pid) or 0


def host_memory() -> int:
    """Return the bytes that this process has resident and alone; files that it maps do not count."""
    with open("/proc/self/statm", encoding="ascii") as file:
        _, resident, shared, *_ = map(int, file.read().split())
    return (resident - shared) * os.sysconf("SC_PAGE_SIZE")


def threads_of(pid: int) -> list[str]:
    """Return the folders of a process's threads."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return [f"/proc/{pid}/task/{tid}" for tid in os.listdir(f"/proc/{pid}/task")]
    return []


def voluntary_switches(pids: Iterable[int], without: Iterable[str] = ()) -> int:
    """Return how often all threads of these processes have gone to sleep so far, but for some threads."""
    folders = {folder for pid in pids for folder in threads_of(pid)} - set(without)
    return sum(_status_number(folder, "voluntary_ctxt_switches:") for folder in folders)


def _status_number(folder: str, field: str) -> int:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError), open(f"{folder}/status", encoding="ascii") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(field))
    return 0


class Reports:
    """A named pipe that tasks of any worker write lines of numbers into."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="safepool-bench-")
        self.path = os.path.join(self._folder.name, "reports")
        os.mkfifo(self.path)
        os.mkfifo(_gate_of(self.path))
        self._fd = os.open(self.path, os.O_RDWR | os.O_NONBLOCK)  # a writer of our own: never an end of file
        self._text = b""
        self._writer = -1

    @contextlib.contextmanager
    def of(self, pid: int) -> Iterator[None]:
        """Say whose tasks report here, for as long as that is so: when it has ended, nothing more is waited for."""
        self._writer = os.pidfd_open(pid)
        try:
            yield
        finally:
            os.close(self._writer)
            self._writer = -1

    def lines(self, count: int, within: float) -> list[list[float]]:
        """Wait for so many lines; return the numbers in them."""
        return [self._line(time.monotonic() + within) for _ in range(count)]

    def _line(self, until: float) -> list[float]:
        while b"\n" not in self._text:
            ready = _readable([fd for fd in (self._fd, self._writer) if fd >= 0], until)
            if not ready:
                raise TimeoutError("a task has not reported")
            if self._fd not in ready:
                raise ChildProcessError("the host ended before its tasks reported")
            self._text += os.read(self._fd, 65536)
        line, _, self._text = self._text.partition(b"\n")
        return [float(word) for word in line.split()]

    def open_gate(self) -> None:
        """Let one process go on that waits at the gate, as soon as it is there."""
        with open(_gate_of(self.path), "w", encoding="ascii"):
            pass

    def close(self) -> None:
        """Remove the pipe."""
        os.close(self._fd)
        self._folder.cleanup()

    def __enter__(self) -> Reports:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def wait_at_gate(reports: str) -> None:
    """Wait, in a process that has the name of the pipe, until it may go on."""
    with open(_gate_of(reports), encoding="ascii") as gate:
        gate.read()


def _gate_of(reports: str) -> str:
    return f"{reports}.gate"


class Watch:
    """Processes, each held by a pidfd while it is alive, and the instant at which each was seen to be gone."""

    def __init__(self, pids: Iterable[int]) -> None:
        self.pidfds: dict[int, int] = {}
        self.gone_at: dict[int, float] = {}
        for pid in pids:
            if (pidfd := open_pidfd(pid)) is None:
                self.gone_at[pid] = time.monotonic()
            else:
                self.pidfds[pid] = pidfd

    def wait(self, within: float) -> set[int]:
        """Wait until all are gone; return who is not."""
        until = time.monotonic() + within
        left = {pidfd: pid for pid, pidfd in self.pidfds.items() if pid not in self.gone_at}
        while left and (ready := _readable(left, until)):
            now = time.monotonic()
            for pidfd in ready:
                self.gone_at[left.pop(pidfd)] = now
        return set(left.values())

    def close(self) -> None:
        """Let go of all."""
        for pidfd in self.pidfds.values():
            os.close(pidfd)
        self.pidfds.clear()

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def _readable(fds: Iterable[int], until: float) -> list[int]:
    """Wait for at least one of them; nothing means that the time is up."""
    poll = select.poll()
    for fd in fds:
        poll.register(fd, select.POLLIN)
    return [fd for fd, _ in poll.poll(max(0.0, until - time.monotonic()) * 1000)]
