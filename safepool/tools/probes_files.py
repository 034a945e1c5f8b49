"""Probes of what processes share, and of what can be read about them."""

from __future__ import annotations

import array
import os
import socket

from safepool._os.features import COSTS
from safepool._os.memory import resident_size
from safepool._os.memory_file import new_memory_file
from safepool._os.oom import oom_kill_count
from safepool._os.process_table import environment_of, have_one_memory, memory_share_of, read_row
from safepool.tools.probe import DEGRADED, EVERY_POOL, MISSING, OK, TASKS, Finding, Probe
from safepool.tools.staged import Program

__all__ = ["PROBES"]

_WORD = b"safepool"


def _memfd() -> Finding:
    fd = new_memory_file("safepool-doctor")
    try:
        os.write(fd, _WORD)
        source = f"import mmap; memory = mmap.mmap({fd}, {len(_WORD)}); memory[:] = memory[::-1]; say('done', 1)"
        with Program(source, pass_fds=[fd]) as program:
            program.hear("done")
            read = os.pread(fd, len(_WORD), 0)
    finally:
        os.close(fd)
    if read != _WORD[::-1]:
        return Finding(MISSING, "memory that two processes have mapped is not the same to both")
    return Finding(OK, "two processes wrote to one memory file")


def _fd_passing() -> Finding:
    ours, theirs = socket.socketpair()
    fd = new_memory_file("safepool-doctor")
    try:
        with ours, theirs:
            ours.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))])
            _, ancillary, _, _ = theirs.recvmsg(1, socket.CMSG_SPACE(4), socket.MSG_CMSG_CLOEXEC)
            received = array.array("i", ancillary[0][2][:4])[0] if ancillary else -1
        if received < 0:
            return Finding(DEGRADED, "a descriptor that was sent over a socket did not arrive")
        is_same = os.path.samestat(os.fstat(fd), os.fstat(received))
        os.close(received)
    finally:
        os.close(fd)
    if not is_same:
        return Finding(DEGRADED, "a descriptor that was sent over a socket arrived as another")
    return Finding(OK, "sent a descriptor over a socket")


def _proc() -> Finding:
    with Program("say('here', 1); stay()") as program:
        program.hear("here")
        row = read_row(program.pid)
        if row is None or row.parent != os.getpid() or row.session != program.pid:
            return Finding(MISSING, "/proc does not show a process of this user as it is")
        if not environment_of(program.pid):
            return Finding(DEGRADED, "the environment of another process of this user cannot be read from /proc")
    others = "" if read_row(1) is not None else "; those of other users are hidden (hidepid), which loses nothing"
    return Finding(OK, f"read state and environment of another process{others}")


def _memory() -> Finding:
    me = os.getpid()
    if not resident_size(me):
        return Finding(MISSING, "/proc does not tell how much memory a process holds")
    if memory_share_of(me) is None:
        return Finding(
            DEGRADED, "/proc/PID/smaps_rollup cannot be read: shared pages count in each process that has them"
        )
    if not have_one_memory(me, me):
        return Finding(DEGRADED, "kcmp does not tell whether two processes have one memory")
    return Finding(OK, "read the exact share of a process, and compared two address spaces (kcmp)")


def _oom() -> Finding:
    if oom_kill_count() is None:
        return Finding(DEGRADED, "no control group tells how often the OOM killer was active")
    return Finding(OK, "read how often the OOM killer was active in our control group")


PROBES = [
    Probe(
        "memfd",
        EVERY_POOL,
        _memfd,
        COSTS["memfd"],
        "Linux 3.17; in a container, a seccomp profile that lets memfd_create pass",
        "memfd",
    ),
    Probe(
        "fd-passing",
        EVERY_POOL,
        _fd_passing,
        "large arrays and bytes go through the socket, and take several times as long",
        "a seccomp profile that lets sendmsg pass with SCM_RIGHTS",
    ),
    Probe(
        "proc",
        EVERY_POOL,
        _proc,
        COSTS["proc"],
        "mount -t proc proc /proc (in a container, a /proc of its own); unmasked: docker run --security-opt"
        " systempaths=unconfined",
        "proc",
    ),
    Probe(
        "memory",
        EVERY_POOL,
        _memory,
        "memory_limit counts pages that processes share more than once, or a child between vfork and exec, and may end"
        " a task that is below its limit",
        "Linux 4.14 with CONFIG_KCMP; in a container, a seccomp profile that lets kcmp pass: docker run"
        " --cap-add=SYS_PTRACE",
    ),
    Probe(
        "oom-count",
        TASKS,
        _oom,
        "WorkerDiedError does not say that the OOM killer may have been at work",
        "a control group with the memory controller, visible below /sys/fs/cgroup",
    ),
]
