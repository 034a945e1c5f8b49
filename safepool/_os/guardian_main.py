"""The guardian: a small process above one strict worker, to which everybody comes whom that worker loses.

Started as ``python -I -S -c ...`` with what stands below, where no control group can be made. It is a *subreaper*: what
loses its parent beneath it becomes its child, whatever it has done to its session and its environment. It starts the
worker, reaps the orphans that die, and keeps the worker's corpse, which pins its number, until the host lets go. When
the host does so or dies, however, the guardian ends what is left beneath it, and leaves.

It carries no marker, so that no sweep takes it for a member. It is deaf to every signal that can be blocked.

Facts:
* The orphans of a subreaper's descendants become its children; neither fork nor exec hands the property on
  (PR_SET_CHILD_SUBREAPER(2const), Linux 3.4).
* What is blocked or ignored stays so over fork and exec (signal(7)): the worker is given the signals that we were.
* A corpse that is kept is found first by every ``waitid`` for any child, and hides those behind it (kernel/exit.c,
  do_wait: children in the order in which they came).
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal

from safepool._os import process_exit

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import NoReturn

__all__ = ["main"]

_PR_SET_CHILD_SUBREAPER = 36
_NOT_STARTED = 127
_WOKEN = 1 << 10  # bytes, one for each signal that came


def main(host: int, marker: str, link_fd: int, program_fd: int, fds: Sequence[int]) -> NoReturn:
    """Start the worker, guard what it loses, end that; never returns.

    Args:
        host: Its number; it has started us.
        marker: The variable that the worker's descendants carry.
        link_fd: A socket to the host, to tell it what becomes of the worker; its end is our order to leave.
        program_fd: A memory file with the worker's command line and environment.
        fds: Descriptors that are the worker's alone.
    """
    os.set_inheritable(link_fd, False)
    give_back_signals = _turn_deaf()
    try:
        _adopt_orphans()
        worker = _start(program_fd, give_back_signals)
    except OSError as error:
        _tell(link_fd, f"failed {error.errno} {error.strerror}")
        os._exit(1)
    pidfd = os.pidfd_open(worker)  # a child that is not reaped: it is there
    _tell(link_fd, f"started {worker}")
    _let_go(fds, link_fd)
    try:
        _guard(worker, pidfd, host, link_fd)
    finally:
        _end_what_is_left(worker, pidfd, marker)
        os._exit(0)


def _turn_deaf() -> Callable[[], None]:
    """Take no signal but SIGCHLD; return what gives them to the worker as they were given to us."""
    mask = signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals() - {signal.SIGCHLD})
    on_child = signal.signal(signal.SIGCHLD, lambda *_: None)  # ignored, the kernel would reap, and tell no status

    def give_back() -> None:
        signal.signal(signal.SIGCHLD, on_child)
        for signum in (signal.SIGPIPE, signal.SIGXFSZ):  # ignored by Python, and no default of anybody else
            signal.signal(signum, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    return give_back


def _adopt_orphans() -> None:
    try:
        import ctypes  # prctl is not in the standard library
    except ImportError as error:
        raise OSError(errno.ENOSYS, "prctl") from error
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")


def _start(program_fd: int, give_back_signals: Callable[[], None]) -> int:
    """Fork, and have the child become the worker; return its number when it has.

    Raises:
        OSError: It has not; in place of a text, the call that failed.
    """
    with open(program_fd, "rb") as file:
        count, *parts = file.read().split(b"\0")
    command, variables = parts[: int(count)], parts[int(count) :]
    environment = dict(variable.split(b"=", 1) for variable in variables)
    try:
        news, failure = os.pipe()  # both close with an exec
        pid = os.fork()
    except OSError as error:
        raise OSError(error.errno, "fork") from error
    if not pid:
        try:
            os.setsid()  # atomic for whoever is told of the worker: we wait for its exec
            give_back_signals()
            os.execvpe(command[0], command, environment)  # noqa: S606  # there is to be no shell
        except OSError as error:
            os.write(failure, str(error.errno).encode())
        finally:
            os._exit(_NOT_STARTED)
    os.close(failure)
    with open(news, "rb") as file:
        number = file.read()
    if number:
        os.waitpid(pid, 0)
        raise OSError(int(number), "exec")
    return pid


def _let_go(fds: Sequence[int], link_fd: int) -> None:
    """Keep nothing of the worker's: nobody is to wait for us who waits for its end, or for the end of its output."""
    for fd in fds:
        os.close(fd)
    for fd in {1, 2} - {link_fd}:  # where the host has closed its own, the link may have been given their number
        os.dup2(0, fd)
    os.chdir("/")


def _guard(worker: int, pidfd: int, host: int, link_fd: int) -> None:
    """Reap the orphans that die, and tell how the worker does, until the host lets go of it or dies."""
    # Now, while the worker is starting, and not when everything may be going down.
    from safepool._os import process_table, process_tree  # noqa: F401

    woken, wake = os.pipe()
    for fd in (woken, wake):
        os.set_blocking(fd, False)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    host_pidfd = process_exit.open_pidfd(host)
    if host_pidfd is None or os.getppid() != host:
        return  # it was gone before we could look
    poll = select.poll()
    for fd in (woken, link_fd, host_pidfd):  # the host never writes; a forked child of its own may hold its end open
        poll.register(fd, select.POLLIN)
    is_told = False
    ready: set[int] = set()
    while not ready & {link_fd, host_pidfd}:
        process_exit.reap_adopted(worker)
        if process_exit.has_ended(pidfd):
            if not is_told:
                _tell(link_fd, f"ended {process_exit.read_exit_status(pidfd)}")
                is_told = True
            _reap_behind(worker)
        ready = {fd for fd, _ in poll.poll()}
        with contextlib.suppress(BlockingIOError):
            os.read(woken, _WOKEN)


def _reap_behind(worker: int) -> None:
    """Reap those that the worker's corpse hides: it may lie here for as long as the host is stopped."""
    from safepool._os.process_table import list_rows

    with contextlib.suppress(OSError):  # no descriptor to read /proc with
        for row in list_rows():
            if row.parent == os.getpid() and row.is_dead and row.pid != worker:
                os.waitpid(row.pid, os.WNOHANG)


def _end_what_is_left(worker: int, pidfd: int, marker: str) -> None:
    """End whoever is alive beneath us: nobody, unless the host has died, or somebody has outrun it."""
    from safepool._os.process_table import read_row
    from safepool._os.process_tree import Leader, TreeEnding

    def signal_group(leader: Leader, signum: int) -> bool:
        if process_exit.send_signal(pidfd, signum, group=True):
            return True
        if not process_exit.is_unreaped_child(pidfd):  # then the kernel has ended the group (``lifeline``)
            return False
        os.killpg(leader.pid, signum)
        return True

    row, me = read_row(worker), read_row(os.getpid())
    if _reap_all() or row is None or me is None:
        return
    leader, guardian = Leader(worker, row.start), Leader(me.pid, me.start)
    TreeEnding([leader], f"{marker}=".encode(), signal_group, guardian=guardian).run()
    _reap_all()


def _reap_all() -> bool:
    """Reap whoever is dead; return True if nobody is left."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return True
    return False


def _tell(link_fd: int, message: str) -> None:
    with contextlib.suppress(OSError):  # it is gone, as we are about to learn
        os.write(link_fd, message.encode())
