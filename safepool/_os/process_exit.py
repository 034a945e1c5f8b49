"""When did a process end, and how? Answered by a pidfd, or where the kernel has none by what stands in for it.

Never by SIGCHLD, by ``waitpid(-1)`` or by the end of a pipe: the first two belong to the program, and a pipe stays
open for as long as any descendant keeps a copy.

Facts:
* A pidfd is readable from the moment the process is dead, even when somebody else reaps it (pidfd_open(2)).
* Asked for the number of a process that is dead and reaped, and that still names a group or session of others,
  pidfd_open answers ESRCH, or EINVAL on older kernels (seen on Linux 6.1).
* With SIGCHLD ignored, or when a foreign ``waitpid(-1)`` came first, ``waitid`` fails with ECHILD. The exit status
  can then be had from the pidfd itself by PIDFD_GET_INFO, where the kernel has it (Linux 6.15; probed by trying).

What stands in for a pidfd (``exit_watch``) is a descriptor, too, and is readable from a few milliseconds after the
death on. All else is asked by number then, right after its start time was read again.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import signal
import struct

from safepool._os.features import has

__all__ = [
    "has_ended",
    "is_unreaped_child",
    "open_pidfd",
    "read_exit_status",
    "read_stop",
    "reap",
    "reap_adopted",
    "send_signal",
]

_LONGEST_POLL = 2**31 - 1  # milliseconds, 24 days: poll takes no more

_PIDFD_GET_INFO = 0xC040FF0B
_INFO_SIZE = 64
_INFO_EXIT = 1 << 3  # request and answer bit in the mask: the exit status is valid
_STATUS_OFFSET = 60
_MOST_ASKS = 100  # of about a microsecond each

_SIGNAL_GROUP = 1 << 2  # PIDFD_SIGNAL_PROCESS_GROUP, Linux 6.9


def open_pidfd(pid: int) -> int | None:
    """Return a close-on-exec pidfd, or what stands in for one; None if there is no such process.

    Raises:
        OSError: There is no descriptor to be had; or there are no pidfds, and the process is hidden from us.
    """
    if not has("pidfd"):
        from safepool._os import exit_watch  # lazily: few need it

        return exit_watch.watch(pid)
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        return None
    except OSError as error:
        if error.errno == errno.EINVAL:
            return None
        raise


def has_ended(pidfd: int, wait: float | None = 0.0) -> bool:
    """Return True once the process is dead, reaped or not; wait for that so many seconds, or without end (None)."""
    if not has("pidfd"):
        from safepool._os import exit_watch

        if exit_watch.has_ended(pidfd):
            return True
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(None if wait is None else min(wait * 1000, _LONGEST_POLL)))


def is_unreaped_child(pidfd: int) -> bool:
    """Return True while the process is a child of ours that nobody has reaped: only then is its number pinned."""
    try:
        os.waitid(*_child(pidfd), os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def read_exit_status(pidfd: int) -> int | None:
    """Return the exit status of an ended process (minus the signal's number if one ended it), without reaping.

    None means that it ended and nobody can say how.
    """
    try:
        end = os.waitid(*_child(pidfd), os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return _exit_status_of_reaped(pidfd)
    if end is None:
        return None
    return end.si_status if end.si_code == os.CLD_EXITED else -end.si_status


def read_stop(pidfd: int) -> int | None:
    """Return the signal by which a child was stopped since this was last asked, if it was."""
    try:
        stop = os.waitid(*_child(pidfd), os.WSTOPPED | os.WNOHANG)
    except ChildProcessError:
        return None
    return None if stop is None else stop.si_status


def reap(pidfd: int) -> None:
    """Free the number of an ended child. From here on it may name a stranger."""
    try:
        os.waitid(*_child(pidfd), os.WEXITED | os.WNOHANG)
    except ChildProcessError:
        pass  # somebody else did


def reap_adopted(own: int) -> None:
    """Reap every child that has ended but this one: orphans of others, which the first process of a container is given.

    Only for a program of ours that has no other children: a host's are its own business.
    """
    try:
        while (end := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) and end.si_pid != own:
            os.waitpid(end.si_pid, os.WNOHANG)
    except ChildProcessError:
        pass  # there is none


def send_signal(pidfd: int, signum: int, *, group: bool = False) -> bool:
    """Signal the process, or its whole group, that the pidfd stands for; never one that reuses the number.

    Returns:
        False if it is gone, may not be signalled, or the kernel cannot signal groups this way.
    """
    if not has("pidfd"):
        from safepool._os import exit_watch

        return not group and exit_watch.send_signal(pidfd, signum)
    if group and not has("pidfd_group"):
        return False
    try:
        signal.pidfd_send_signal(pidfd, signum, None, _SIGNAL_GROUP if group else 0)
    except OSError:  # ESRCH gone, EPERM changed its user, EINVAL no group signal before Linux 6.9
        return False
    return True


def _child(pidfd: int) -> tuple[int, int]:
    """Return what waitid(2) is to wait for.

    Raises:
        ChildProcessError: There are no pidfds, and the process is no child of ours any more.
    """
    if has("pidfd"):
        return os.P_PIDFD, pidfd
    from safepool._os import exit_watch

    return os.P_PID, exit_watch.number_of(pidfd)


def _exit_status_of_reaped(pidfd: int) -> int | None:
    """Ask the pidfd.

    1. Somebody else's wait takes the child: from here on ours fails. 2. The kernel writes the status down. So right
    after the failure there may be none yet. (``test_status_that_is_written_down_a_moment_after_the_reaping_is_read``)
    """
    if not (has("pidfd") and has("pidfd_info")):
        return None
    request = struct.pack("=Q", _INFO_EXIT).ljust(_INFO_SIZE, b"\0")
    for _ in range(_MOST_ASKS):
        try:
            answer = fcntl.ioctl(pidfd, _PIDFD_GET_INFO, request)
        except OSError:  # ENOTTY before Linux 6.13
            return None
        (mask,) = struct.unpack_from("=Q", answer)
        if mask & _INFO_EXIT:
            (status,) = struct.unpack_from("=i", answer, _STATUS_OFFSET)
            return os.waitstatus_to_exitcode(status)
        os.sched_yield()
    return None  # never written down before Linux 6.15
