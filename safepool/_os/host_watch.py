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

__all__ = ["HostWatch"]

_PAUSE = 100  # milliseconds between two looks at the parent
_LAST_LOOK = 50  # milliseconds; a dying host closes its files one after the other


class HostWatch:
    """Ends our group when the lifeline ends, or the host is not our parent any more.

    Args:
        read_fd: The lifeline.
        host: The number of who started us.
    """

    def __init__(self, read_fd: int, host: int) -> None:
        self._fd = read_fd
        self._pipe = os.fstat(read_fd)  # a task may close it, and what has its number then is none of ours
        self._host = host if os.getppid() else 0

    def start(self) -> None:
        """Watch from now on."""
        if has("pipe_watch") or has("parent_watch"):
            _thread.start_new_thread(self._run, ())

    def look_once_more(self) -> None:
        """Before we leave by ourselves: perhaps we do because the host is gone.

        1. The host is killed, and the kernel closes its files. 2. Its worker sees the end of its channel, and leaves,
        with its watch. 3. The lifeline is closed, and nobody ends the group.
        (``test_worker_that_can_run_a_thread_outlives_neither_host_nor_janitor``)
        """
        if not self._is_there(_LAST_LOOK):
            _end()

    def _run(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        while self._is_there(_PAUSE):
            pass
        _end()

    def _is_there(self, wait: int) -> bool:
        """Return False if the host is gone, or is within so many milliseconds; else True after that time."""
        poll = select.poll()
        if has("pipe_watch") and self._is_open():
            poll.register(self._fd, select.POLLIN)
        if poll.poll(wait) and self._is_open():
            return False
        return not has("parent_watch") or os.getppid() == self._host

    def _is_open(self) -> bool:
        try:
            return os.path.samestat(os.fstat(self._fd), self._pipe)
        except OSError:
            return False


def _end() -> None:
    if has("group_kill"):
        os.killpg(0, signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)
