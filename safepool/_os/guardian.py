"""The host's side of a guardian: the process through which a strict worker is started where it gets no control group.

One for each worker, so that an orphan which carries no trace is known to be that worker's, and so that the worker has
the host's directory, environment, umask, priority, limits and CPUs by inheritance, as they are at this instant.

Starting one waits until the worker is a program of its own, which takes as long as a bare interpreter does. When the
guardian dies before its worker, as it does only if somebody kills it, the kernel ends the worker's group: our end of
the socket is armed, as a lifeline is (``lifeline``, whose facts hold for a socket, too). What the guardian has to say
fires it, too; but it speaks only when the worker is dead, and then the switch has fired.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import socket
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing import spawn

from safepool._os import lifeline, process_exit
from safepool._os.environment import for_helper
from safepool._os.features import why_not
from safepool._os.janitor import PACKAGE_ROOT
from safepool._os.marker import next_worker_marker
from safepool._os.memory_file import new_memory_file
from safepool._os.process_table import read_row
from safepool._os.process_tree import Leader

__all__ = ["NEEDED", "Guardian", "make_sure"]

_START_LIMIT = 30.0  # seconds for a bare interpreter to come up: 15 ms, on a machine that is not beyond its strength
_TOLD_LIMIT = 5.0  # seconds for the news of a death, which follows it by less than one millisecond
_LEAVE_LIMIT = 5.0  # seconds to reap and leave: 1 ms, or what it takes to end those who have outrun a sweep
_LONGEST_NEWS = 256  # bytes
NEEDED = ("proc", "pidfd", "setsig")  # nobody should be strict who sees less than everybody, or ends them later

_PROGRAM = "import sys; sys.path.append({root!r}); from safepool._os.guardian_main import main; main{arguments!r}"


class Guardian:
    """A process of ours that has one child to begin with, the worker, and becomes the parent of all that it loses.

    Args:
        command: The worker's command line.
        variables: The worker's environment, all of it.
        pass_fds: What the worker inherits.
        marker: The variable that the worker's descendants carry.

    Attributes:
        leader: The guardian itself.
        worker: The worker's number, pinned until ``release`` unless the guardian dies.

    Raises:
        OSError: It could not be started, or could not start the worker.
    """

    def __init__(
        self, command: Sequence[str | bytes], variables: Mapping[str, str], pass_fds: Sequence[int], marker: str
    ) -> None:
        self._status: int | None = None
        self._pid, self._pidfd = 0, -1
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)  # one read is one message
        with theirs:
            self._link_fd = ours.detach()
            lifeline.close_in_forked_children(self._link_fd)
            try:
                with _program(command, variables) as program_fd:
                    self._pid = _start(theirs.fileno(), program_fd, pass_fds, marker)
                theirs.close()
                self._pidfd, self.leader = _hold(self._pid)
                self.worker = self._hear_of_start(os.fsdecode(command[0]))
            except BaseException:
                self.release()
                raise

    def watch(self, group: int) -> None:
        """Have the kernel end the worker's group if the guardian dies.

        Raises:
            ChildProcessError: It is dead already.
        """
        lifeline.arm(self._link_fd, group)
        if lifeline.has_hung_up(self._link_fd):  # which does not fire any more
            raise ChildProcessError(f"the guardian {self.leader.pid} was killed as soon as it had started its worker")

    def disarm(self) -> None:
        """The worker is to be ended in an order of ours: from now on do nothing by the kernel's hand."""
        flags = fcntl.fcntl(self._link_fd, fcntl.F_GETFL)
        fcntl.fcntl(self._link_fd, fcntl.F_SETFL, flags & ~os.O_ASYNC)

    @property
    def is_alive(self) -> bool:
        """True until it is dead: so long the worker, dead or alive, keeps its number."""
        return self._pidfd >= 0 and not process_exit.has_ended(self._pidfd)

    def exit_status(self) -> int | None:
        """Return how the worker, which is dead, has ended; None if the guardian was killed before it could tell."""
        if self._status is None:
            self._rouse()
            kind, detail = self._hear(_TOLD_LIMIT)
            if kind == "ended" and detail != "None":
                self._status = int(detail)
        return self._status

    def release(self) -> None:
        """Let it end what is left beneath it, reap all, and leave; wait for that, and reap it."""
        fd, self._link_fd = self._link_fd, -1
        lifeline.keep_in_forked_children(fd)
        with socket.socket(fileno=fd) as link, contextlib.suppress(OSError):
            link.shutdown(socket.SHUT_RDWR)  # its end, whoever has a copy: a child that was forked in C keeps them all
        if self._pidfd >= 0:
            self._rouse()
            if not process_exit.has_ended(self._pidfd, _LEAVE_LIMIT):
                process_exit.send_signal(self._pidfd, signal.SIGKILL)
                process_exit.has_ended(self._pidfd, _TOLD_LIMIT)
            process_exit.reap(self._pidfd)
            pidfd, self._pidfd = self._pidfd, -1
            os.close(pidfd)
        elif self._pid:  # there was no descriptor to hold it by
            with contextlib.suppress(ChildProcessError):  # with SIGCHLD ignored the kernel itself reaps
                os.waitid(os.P_PID, self._pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)  # the number is still its own
                os.kill(self._pid, signal.SIGKILL)
                os.waitpid(self._pid, 0)

    def _rouse(self) -> None:
        """A task may have stopped it."""
        process_exit.send_signal(self._pidfd, signal.SIGCONT)

    def _hear_of_start(self, name: str) -> int:
        kind, detail = self._hear(_START_LIMIT)
        if kind == "started":
            return int(detail)
        if kind == "failed":
            number, _, call = detail.partition(" ")
            reason = os.strerror(int(number))
            if call == "exec":
                raise OSError(int(number), reason, name)
            raise OSError(int(number), f"a guardian cannot start its worker: {call}: {reason}")
        raise ChildProcessError("a guardian ended, or did not answer, before it had started its worker")

    def _hear(self, limit: float) -> tuple[str, str]:
        """Return the next that it says, as kind and detail; nothing if nothing comes within so many seconds."""
        poll = select.poll()
        poll.register(self._link_fd, select.POLLIN)
        if not poll.poll(limit * 1000):
            return "", ""
        try:
            kind, _, detail = os.read(self._link_fd, _LONGEST_NEWS).decode().partition(" ")
        except ConnectionResetError:  # it has ended, and had not read something
            return "", ""
        return kind, detail


def make_sure() -> None:
    """Find out, once in a process, by doing it: have a guardian start something.

    Raises:
        OSError: That cannot be done.
    """
    global _is_proven
    for name in NEEDED:
        if reason := why_not(name):
            raise OSError(f"a guardian needs {name}: {reason}")
    if not _is_proven:
        Guardian([spawn.get_executable(), "-I", "-S", "-c", ""], {}, (), next_worker_marker()).release()
        _is_proven = True


_is_proven = False


def _start(link_fd: int, program_fd: int, pass_fds: Sequence[int], marker: str) -> int:
    arguments = (os.getpid(), marker, link_fd, program_fd, tuple(pass_fds))
    started = subprocess.Popen(
        [
            os.fsdecode(spawn.get_executable()),
            "-I",
            "-S",
            "-c",
            _PROGRAM.format(root=PACKAGE_ROOT, arguments=arguments),
        ],
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        pass_fds=(link_fd, program_fd, *pass_fds),
        env=for_helper(),
    )
    started.returncode = 0  # we wait for it by pidfd: keep Popen from doing so, and from warning that it did not
    return started.pid


def _hold(pid: int) -> tuple[int, Leader]:
    pidfd = process_exit.open_pidfd(pid)
    try:
        row = None if pidfd is None else read_row(pid)
        if pidfd is None or row is None:
            raise ChildProcessError(  # noqa: TRY301  # the clean-up below is for this, too
                f"the guardian {pid} was reaped by somebody else as soon as it had started"
            )
    except BaseException:
        if pidfd is not None:
            os.close(pidfd)
        raise
    return pidfd, Leader(pid, row.start)


@contextlib.contextmanager
def _program(command: Sequence[str | bytes], variables: Mapping[str, str]) -> Iterator[int]:
    """Write down for the guardian what it is to start; not in its own environment, which Python may have changed."""
    entries = [f"{name}={value}" for name, value in variables.items() if name]  # else no exec is possible
    parts = [os.fsencode(part) for part in (str(len(command)), *command, *entries)]
    if any(b"\0" in part for part in parts):
        raise ValueError("embedded null byte")  # as Popen has it
    fd = new_memory_file("safepool-guardian")
    try:
        with open(fd, "wb", closefd=False) as file:
            file.write(b"\0".join(parts))
        os.lseek(fd, 0, os.SEEK_SET)  # the guardian shares our position
        yield fd
    finally:
        os.close(fd)
