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
"""

from __future__ import annotations

# What ``signal`` wraps: its enums take as long to load as all else that comes before the worker.
import _signal  # type: ignore[import-not-found]  # private, and unknown to typeshed
import errno
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import NoReturn

__all__ = ["main", "tell"]

_PR_SET_CHILD_SUBREAPER = 36
_NOT_STARTED = 127


def main(host: int, variable: str, link_fd: int, program_fd: int, fds: Sequence[int]) -> NoReturn:
    """Start the worker, guard what it loses (``guarding``), end that; never returns.

    Args:
        host: Its number; it has started us.
        variable: What the worker's descendants carry, name and value: also for those who find us stopped.
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
        tell(link_fd, f"failed {error.errno} {error.strerror}")
        os._exit(1)
    tell(link_fd, f"started {worker}")
    _let_go(fds, link_fd)
    # What this needs is loaded only now, beside the start of the worker, for which the host waits; and not any later,
    # when everything may be going down.
    from safepool._os.guarding import guard

    guard(worker, variable.partition("=")[0], host, link_fd)


def _turn_deaf() -> Callable[[], None]:
    """Take no signal but SIGCHLD; return what gives them to the worker as they were given to us."""
    mask = _signal.pthread_sigmask(_signal.SIG_SETMASK, _signal.valid_signals() - {_signal.SIGCHLD})
    on_child = _signal.signal(_signal.SIGCHLD, lambda *_: None)  # ignored, the kernel would reap, and tell no status

    def give_back() -> None:
        _signal.signal(_signal.SIGCHLD, on_child)
        for signum in (_signal.SIGPIPE, _signal.SIGXFSZ):  # ignored by Python, and no default of anybody else
            _signal.signal(signum, _signal.SIG_DFL)
        _signal.pthread_sigmask(_signal.SIG_SETMASK, mask)

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
    for fd in set(fds):  # the same one may be given twice
        os.close(fd)
    for fd in {1, 2} - {link_fd}:  # where the host has closed its own, the link may have been given their number
        os.dup2(0, fd)
    os.chdir("/")


def tell(link_fd: int, message: str) -> None:
    """Say something to the host."""
    try:
        os.write(link_fd, message.encode())
    except OSError:
        pass  # it is gone, as we are about to learn
