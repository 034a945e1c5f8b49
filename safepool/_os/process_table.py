"""What processes are there, and how are they related? Read from /proc, one file per process.

Without /proc (``features``) a process can still be asked for by its number; nobody can be listed, and all else that is
asked about one is not known.

Never signals. A process that has vanished, or may not be read, is simply not there. Want of descriptors is an OSError:
it must not be taken for the absence of processes.

Facts (proc_pid_stat(5)): the command name stands in parentheses and may itself contain parentheses and blanks, so
fields are counted from the *last* one; the start time is in clock ticks since boot and, with the pid, names a
process for as long as the machine is up.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator

from safepool._os.features import has
from safepool._plain import NamedTuple

__all__ = [
    "ProcessRow",
    "command_of",
    "environment_of",
    "has_program",
    "has_variable",
    "have_one_memory",
    "highest_size_of",
    "is_alive",
    "is_being_started",
    "is_exiting",
    "list_pids",
    "list_rows",
    "memory_share_of",
    "read_row",
    "resident_pages_of",
    "with_descendants",
]

_ABSENT = (FileNotFoundError, ProcessLookupError, PermissionError)
_KCMP_VM = 1
_PF_EXITING = 0x4  # include/linux/sched.h: set before a process gives up its descriptors (kernel/exit.c, do_exit)
_STAT_SIZE = 1024  # the longest line is about 400 bytes; one read is one consistent snapshot of it
_PIECE = 1 << 16  # bytes per read
_LARGEST_ENVIRONMENT = 1 << 23  # bytes; an exec takes 6 MiB at most, but a process may say that it has any more


class ProcessRow(NamedTuple):
    """One process at one moment."""

    pid: int
    state: str
    parent: int
    group: int
    session: int
    start: int
    threads: int

    @property
    def is_dead(self) -> bool:
        """True for a zombie: it runs no code and holds nothing but its number.

        A process whose first thread has ended while others run shows as a zombie, too: its threads tell.
        """
        return self.state in "ZX" and self.threads <= 1


def read_row(pid: int) -> ProcessRow | None:
    """Return the process with this number as it is now, or None if there is none."""
    if not has("proc"):
        return _ask_for(pid)
    stat = _read(f"/proc/{pid}/stat", _STAT_SIZE)
    if not stat:
        return None
    fields = stat[stat.rindex(b")") + 2 :].split()
    parent, group, session = map(int, fields[1:4])
    return ProcessRow(pid, fields[0].decode(), parent, group, session, start=int(fields[19]), threads=int(fields[17]))


def list_pids(known: Iterable[int] = ()) -> set[int]:
    """Return the number of every process; much quicker than what they are. Without /proc, those that are ``known``."""
    if not has("proc"):
        return set(known)
    return {int(name) for name in os.listdir("/proc") if name.isdigit()}


def list_rows(since: int = 0) -> Iterator[ProcessRow]:
    """Yield every process that started at ``since`` (clock ticks) or later."""
    for pid in list_pids():
        row = read_row(pid)
        if row is not None and row.start >= since:
            yield row


def is_alive(pid: int) -> bool:
    """Return True if there is a process with this number that has not ended."""
    row = read_row(pid)
    return row is not None and not row.is_dead


def is_exiting(pid: int) -> bool:
    """Return True if no thread of the process runs code of its own any more; it may take a while until it is dead.

    With its last descriptor it may give up a gigabyte of shared memory, or what a driver has done for it; on a busy
    machine it waits for its turn. False if there is none, or /proc cannot be read.

    Raises:
        OSError: There is no descriptor to look with.
    """
    if not has("proc"):
        return False
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except _ABSENT:
        return False
    stats = [_read(f"/proc/{pid}/task/{thread}/stat", _STAT_SIZE) for thread in threads]
    flags = [int(stat[stat.rindex(b")") + 2 :].split()[6]) for stat in stats if stat]  # without threads that are gone
    return bool(flags) and all(flag & _PF_EXITING for flag in flags)


def has_program(pid: int) -> bool:
    """Return True unless this is a thread of the kernel, or nobody we may look at."""
    if not has("proc"):
        return False
    try:
        os.readlink(f"/proc/{pid}/exe")
    except OSError:
        return False
    return True


def is_being_started(row: ProcessRow) -> bool:
    """Return True for a process between its birth and the end of its exec: its command line says nothing as yet.

    A child that shares its parent's memory (vfork) shows its parent's command line; from then on, for an instant, none.
    Ask this first: it does not come back.

    Raises:
        OSError: There is no descriptor to look with.
    """
    if have_one_memory(row.pid, row.parent):
        return True
    return not command_of(row.pid) and not environment_of(row.pid) and has_program(row.pid)


def with_descendants(pids: Iterable[int], rows: Collection[ProcessRow]) -> set[int]:
    """Return these processes, and those that descend from them as far as parents tell."""
    ours = set(pids)
    while children := {row.pid for row in rows if row.parent in ours and row.pid not in ours}:
        ours |= children
    return ours


def environment_of(pid: int) -> bytes:
    """Return the environment that the process was started with, or nothing if it may not be read."""
    return _read_all(f"/proc/{pid}/environ", _LARGEST_ENVIRONMENT)


def has_variable(environment: bytes, beginning: bytes) -> bool:
    """Return True if a variable begins so. One whose value has this in it is a stranger's, that was told of ours."""
    return environment.startswith(beginning) or b"\0" + beginning in environment


def command_of(pid: int) -> str:
    """Return the command line, for people; empty for a zombie or a process that may not be read."""
    return _read(f"/proc/{pid}/cmdline", 4096).rstrip(b"\0").replace(b"\0", b" ").decode(errors="replace")


def resident_pages_of(pid: int) -> int:
    """Return how many pages of memory the process has resident, shared ones included; 0 if it is gone."""
    statm = _read(f"/proc/{pid}/statm", _STAT_SIZE)
    return int(statm.split()[1]) if statm else 0


def highest_size_of(pid: int) -> int:
    """Return the bytes that the process had resident at its highest; 0 if it is gone, or has no memory any more."""
    for line in _read_all(f"/proc/{pid}/status", _PIECE).splitlines():
        if line.startswith(b"VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def memory_share_of(pid: int) -> int | None:
    """Return the bytes that are the process's own plus its share of the others, swapped or not; None if unknown."""
    lines = [line.split() for line in _read_all(f"/proc/{pid}/smaps_rollup", _PIECE).splitlines()]
    shares = [int(line[1]) for line in lines if line[0] in (b"Pss:", b"SwapPss:")]
    return sum(shares) * 1024 if shares else None


def have_one_memory(pid: int, other: int) -> bool:
    """Return True if two processes run in one address space (vfork, clone); False where the kernel does not tell.

    Asked by kcmp(2), which has no number in the standard library.
    """
    number = {"x86_64": 312, "aarch64": 272, "riscv64": 272}.get(os.uname().machine)
    if number is None:
        return False
    import ctypes  # lazily: only a task above its limit needs it

    return bool(ctypes.CDLL(None).syscall(number, pid, other, _KCMP_VM, 0, 0) == 0)


def _ask_for(pid: int) -> ProcessRow | None:
    """Return what system calls tell: its parent only of ourselves and our children, its start time of nobody."""
    try:
        group, session = os.getpgid(pid), os.getsid(pid)
    except OSError:  # ESRCH there is none, EPERM another session's on some systems
        return None
    state, parent = "R", 0
    if pid == os.getpid():
        parent = os.getppid()
    else:
        try:
            end = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            pass
        else:
            state, parent = "R" if end is None else "Z", os.getpid()
    return ProcessRow(pid, state, parent, group, session, start=0, threads=1)


def _read(path: str, size: int) -> bytes:
    if not has("proc"):
        return b""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except _ABSENT:
        return b""
    try:
        return os.read(fd, size)
    except _ABSENT:  # it ended between the open and the read
        return b""
    finally:
        os.close(fd)


def _read_all(path: str, most: int) -> bytes:
    if not has("proc"):
        return b""
    pieces: list[bytes] = []
    try:
        with open(path, "rb", buffering=0) as file:
            while most > 0 and (piece := file.read(_PIECE)):
                pieces.append(piece)
                most -= len(piece)
    except _ABSENT:
        return b""
    return b"".join(pieces)
