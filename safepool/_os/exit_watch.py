"""A descriptor that tells when a process is dead, where the kernel has no pidfds. Used by ``process_exit`` alone.

It is the read end of a pipe. One thread of this process looks every few milliseconds at everybody who is watched, and
writes a byte into the pipes of the dead; it is there only while somebody is watched. A byte, and not the close of the
write end, since a forked child of ours would hold that back with its copy.

What a pidfd has and this has not: it stands for the process. Here a number and a start time do, which are read again
before each signal, and for our own children the fact that we have not reaped them, which pins the number. Between look
and signal a number of no child of ours could change hands, if the process ended and all other numbers were given in
these microseconds. Where there is no /proc either there is no start time, and a number is all there is.

Facts: ``poll`` reports POLLERR for the write end of a pipe when the last read end is closed (poll(2)). ``waitid`` with
WNOWAIT leaves a dead child as it is; it fails with ECHILD once somebody has reaped it. What stands in for an opened
pipe for as long as it is open is its inode: a descriptor's number is soon used again, and anybody may close one.
"""

from __future__ import annotations

import _thread
import contextlib
import errno
import os
import select
import signal

from safepool._os.process_table import read_row
from safepool._plain import NamedTuple

__all__ = ["has_ended", "number_of", "send_signal", "watch"]

_PAUSE = 5  # milliseconds between two looks


class _Watched(NamedTuple):
    pid: int
    start: int  # clock ticks since boot; 0 where that is not known
    is_child: bool
    write_fd: int
    inode: int  # of the pipe

    def is_dead(self) -> bool:
        """Return True once it is; for a child of ours also while nobody has reaped it."""
        if self.is_child:
            try:
                return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
            except ChildProcessError:  # somebody has reaped it
                return True
        row = read_row(self.pid)
        return row is None or row.start != self.start or row.is_dead

    def has_its_number(self) -> bool:
        """Return False if nobody has its number, or somebody else."""
        try:
            row = read_row(self.pid)
        except OSError:  # no descriptor to read /proc with; the number of a child is its own for as long as we let it
            return self.is_child
        return row is not None and row.start == self.start


_lock = _thread.RLock()  # re-entrant, since a signal handler may watch somebody, too
_new: list[_Watched] = []
_is_running = False
_known: dict[int, _Watched] = {}  # by read end; what is stale is told by its inode, and replaced when the number is


def watch(pid: int) -> int | None:
    """Return a descriptor that becomes readable when the process is dead; None if there is no such process.

    Raises:
        OSError: There is no room for a descriptor or a thread, or the process is there and hidden from us.
    """
    row = read_row(pid)
    if row is None:
        if _is_somebody(pid):
            raise PermissionError(errno.EPERM, f"process {pid} is hidden from us")
        return None
    read, write = os.pipe()
    try:
        watched = _Watched(pid, row.start, _is_child(pid), write, os.fstat(read).st_ino)
        _begin(watched)
    except BaseException:
        os.close(read)
        os.close(write)
        raise
    _known[read] = watched
    return read


def has_ended(fd: int) -> bool:
    """Return True if this stands for a process that is known to be dead at this instant."""
    watched = _find(fd)
    try:
        return watched is not None and watched.is_dead()
    except OSError:  # no descriptor to read /proc with
        return False


def number_of(fd: int) -> int:
    """Return the number of a child of ours, dead or alive.

    Raises:
        ChildProcessError: It is none, or not any more.
    """
    watched = _find(fd)
    if watched is not None and watched.is_child and watched.has_its_number():
        return watched.pid
    raise ChildProcessError(errno.ECHILD, os.strerror(errno.ECHILD))


def send_signal(fd: int, signum: int) -> bool:
    """Signal the process; return False if it is gone, or may not be signalled."""
    watched = _find(fd)
    if watched is None or not watched.has_its_number():
        return False
    try:
        os.kill(watched.pid, signum)
    except OSError:  # ESRCH gone, EPERM changed its user
        return False
    return True


def _find(fd: int) -> _Watched | None:
    watched = _known.get(fd)
    return watched if watched is not None and _is_pipe(fd, watched.inode) else None


def _is_pipe(fd: int, inode: int) -> bool:
    try:
        return os.fstat(fd).st_ino == inode
    except OSError:
        return False


def _is_child(pid: int) -> bool:
    try:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def _is_somebody(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _begin(watched: _Watched) -> None:
    global _is_running
    with _lock:
        if not _is_running:
            try:
                _thread.start_new_thread(_run, ())
            except RuntimeError as error:  # which says no more than that
                raise OSError(errno.EAGAIN, str(error)) from error
            _is_running = True
        _new.append(watched)


def _run() -> None:
    global _is_running
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())  # they are for other threads
    poll = select.poll()
    left: dict[int, _Watched] = {}  # by write end
    while True:
        with _lock:
            for watched in _new:
                left[watched.write_fd] = watched
                poll.register(watched.write_fd, 0)
            _new.clear()
            if not left:
                _is_running = False
                return
        over = {watched.write_fd for watched in left.values() if _has_been_told(watched)}
        over |= {fd for fd, _ in poll.poll(0 if over else _PAUSE)}  # nobody has its read end any more
        for fd in over:
            poll.unregister(fd)
            if _is_pipe(fd, left.pop(fd).inode):  # else somebody has closed it behind our back
                with contextlib.suppress(OSError):
                    os.close(fd)


def _has_been_told(watched: _Watched) -> bool:
    """If the process is dead, say so to whoever waits; return True once that is done."""
    try:
        if not watched.is_dead():
            return False
    except OSError:  # no descriptor to read /proc with: soon there may be one
        return False
    if _is_pipe(watched.write_fd, watched.inode):
        with contextlib.suppress(OSError):  # nobody reads any more, or somebody has just closed it behind our back
            os.write(watched.write_fd, b"x")
    return True


def _forget_in_child() -> None:
    """A forked child has no thread that looks, and none of our children."""
    global _lock, _is_running
    _lock = _thread.RLock()
    _is_running = False
    _new.clear()
    _known.clear()


os.register_at_fork(after_in_child=_forget_in_child)
