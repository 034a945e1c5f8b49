"""End this process group when the host is gone, by a thread of our own: the second line, where the kernel has no first.

Two things tell of it, and either is enough:
* The lifeline has ended, or something was written to it (*pipe watch*). A child that the host forked in C holds it open
  with its copy, for as long as it lives.
* Our parent is not the one that started us (*parent watch*); looked at ten times a second. It is compared with the
  number that we were told, and never with 1: a host that is the first process of a container has that number, and
  who adopts orphans may be a subreaper. The parent is told and not asked for, since it could be gone already.

What this cannot do is run while a C extension holds the interpreter lock, or while we are stopped: then the janitor is
what ends the group.

Facts: a signal that is sent to a process is given to its main thread, unless that blocks it (kernel/signal.c,
complete_signal); here all are blocked, so that no other can be interrupted in place of a task. getppid(2) is 0 for a
parent in another pid namespace, and then always so.
"""

from __future__ import annotations

import _thread
import os
import select
import signal

from safepool._os.features import has

__all__ = ["watch_host"]

_PAUSE = 100  # milliseconds between two looks at the parent


def watch_host(read_fd: int, host: int) -> None:
    """From now on, end our group when the lifeline ends or the host is not our parent any more."""
    if has("pipe_watch") or has("parent_watch"):
        # Looked at here: when the thread comes to run, a task may have put another file under that number.
        _thread.start_new_thread(_watch, (read_fd, os.fstat(read_fd), host if os.getppid() else 0))


def _watch(read_fd: int, pipe: os.stat_result, host: int) -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    poll = select.poll()
    if has("pipe_watch"):
        poll.register(read_fd, select.POLLIN)
    while not (has("parent_watch") and os.getppid() != host):
        if not poll.poll(_PAUSE if has("parent_watch") else None):
            continue
        if _is_open(read_fd, pipe):
            break
        poll.unregister(read_fd)  # a task has closed it; what has its number now is none of ours
        if not has("parent_watch"):
            return
    if has("group_kill"):
        os.killpg(0, signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)


def _is_open(fd: int, pipe: os.stat_result) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), pipe)
    except OSError:
        return False
