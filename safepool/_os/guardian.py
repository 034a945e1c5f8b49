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
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing import spawn

from safepool._os import lifeline, process_exit
from safepool._os.bare import start_bare
from safepool._os.features import why_not
from safepool._os.marker import marker_value, next_worker_marker
from safepool._os.memory_file import new_memory_file
from safepool._os.process_table import read_row
from safepool._os.process_tree import Leader, TreeEnding

__all__ = ["NEEDED", "GuardedEnding", "Guardian", "make_sure", "wait_for_news"]

_START_LIMIT = 30.0  # seconds for a bare interpreter to come up: 15 ms, on a machine that is not beyond its strength
_TOLD_LIMIT = 5.0  # seconds for the news of a death, which follows it by less than one millisecond
_LEAVE_LIMIT = 5.0  # seconds to reap and leave: 1 ms, or what it takes to end those who have outrun a sweep
_DEATH_LIMIT = 5.0  # seconds for one that is killed to die; an uninterruptible sleep has no limit
_LONGEST_NEWS = 256  # bytes
NEEDED = ("proc", "pidfd", "setsig")  # nobody should be strict who sees less than everybody, or ends them later

_PROGRAM = "from safepool._os.guardian_main import main; main{arguments!r}"


class Guardian:
    """A process of ours that has one child to begin with, the worker, and becomes the parent of all that it loses.

    Args:
        command: The worker's command line.
        variables: The worker's environment, all of it.
        pass_fds: What the worker inherits.
        marker: The variable that the worker's descendants carry.

    Attributes:
        leader: The guardian itself.
        worker: The worker's number, pinned until the guardian is to leave, unless it dies before.
        wake_at: The instant (monotonic seconds) at which ``leave`` has something to do even if it has not left.

    Raises:
        OSError: It could not be started, or could not start the worker.
    """

    def __init__(
        self, command: Sequence[str | bytes], variables: Mapping[str, str], pass_fds: Sequence[int], marker: str
    ) -> None:
        self._status: int | None = None
        self._has_told = False
        self._is_to_leave, self._is_killed = False, False
        self.wake_at = 0.0
        self._pid, self._pidfd = 0, -1
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)  # one read is one message
        with theirs:
            ours.setblocking(False)  # also for a program that has set a default timeout
            self._link = ours
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
        lifeline.arm(self._link.fileno(), group)
        if lifeline.has_hung_up(self._link.fileno()):  # which does not fire any more
            raise ChildProcessError(f"the guardian {self.leader.pid} was killed as soon as it had started its worker")

    def disarm(self) -> None:
        """The worker is to be ended in an order of ours: from now on do nothing by the kernel's hand."""
        flags = fcntl.fcntl(self._link, fcntl.F_GETFL)
        fcntl.fcntl(self._link, fcntl.F_SETFL, flags & ~os.O_ASYNC)

    @property
    def is_alive(self) -> bool:
        """True until it is dead, or is to leave: so long the worker, dead or alive, keeps its number."""
        return not self._is_to_leave and not process_exit.has_ended(self._pidfd)

    def has_told(self) -> bool:
        """Return True once it has said how the worker has ended, or cannot do so any more; never waits."""
        if not self._has_told:
            # First: what it said may have come just before its death. Its end of the link closes a moment before that.
            is_over = not self.is_alive or lifeline.has_hung_up(self._link.fileno())
            kind, detail = self._hear(socket.MSG_PEEK)  # left there for every thread that asks, and waits for it
            if kind != "ended":
                return is_over
            self._status = None if detail == "None" else int(detail)
            self._has_told = True
        return True

    def exit_status(self) -> int | None:
        """Return how the worker has ended, as far as the guardian has told."""
        self.has_told()
        return self._status

    def open_news(self) -> int:
        """Have it go on, should a task have stopped it; return a descriptor for ``wait_for_news``."""
        self.rouse()
        return os.dup(self._link.fileno())

    def rouse(self) -> None:
        """Have it go on, should a task have stopped it."""
        process_exit.send_signal(self._pidfd, signal.SIGCONT)

    def leave(self) -> bool:
        """Have it end what is left beneath it, reap all, and leave; never waits.

        Returns:
            False while it is there: ask again when one of ``fds`` is readable, or at ``wake_at``. It is killed if it
            takes too long, and given up if even that does nothing.
        """
        if not self._is_to_leave:
            self._is_to_leave = True
            with contextlib.suppress(OSError):
                self._link.shutdown(socket.SHUT_RDWR)  # its end, whoever has a copy: a fork copies it
            self.rouse()
            self.wake_at = time.monotonic() + _LEAVE_LIMIT
        if process_exit.has_ended(self._pidfd):
            return True
        if time.monotonic() < self.wake_at:
            return False
        if self._is_killed:
            return True
        process_exit.send_signal(self._pidfd, signal.SIGKILL)
        self._is_killed, self.wake_at = True, time.monotonic() + _DEATH_LIMIT
        return False

    @property
    def fds(self) -> list[int]:
        """Descriptors of which one is readable when it has said something, or has left."""
        return [self._pidfd] if self._is_to_leave else [self._pidfd, self._link.fileno()]

    def release(self) -> None:
        """Reap it, and close everything; wait until it has left, if it has not yet."""
        if self._pidfd >= 0:
            while not self.leave():
                process_exit.has_ended(self._pidfd, max(0.0, self.wake_at - time.monotonic()))
        self._link.close()
        if self._pidfd >= 0:
            process_exit.reap(self._pidfd)
            pidfd, self._pidfd = self._pidfd, -1
            os.close(pidfd)
        elif self._pid:  # there was no descriptor to hold it by
            with contextlib.suppress(ChildProcessError):  # with SIGCHLD ignored the kernel itself reaps
                os.waitid(os.P_PID, self._pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)  # the number is still its own
                os.kill(self._pid, signal.SIGKILL)
                os.waitpid(self._pid, 0)

    def _hear_of_start(self, name: str) -> int:
        _wait_until_readable(self._link.fileno(), _START_LIMIT)
        kind, detail = self._hear()
        if kind == "started":
            return int(detail)
        if kind == "failed":
            number, _, call = detail.partition(" ")
            reason = os.strerror(int(number))
            if call == "exec":
                raise OSError(int(number), reason, name)
            raise OSError(int(number), f"a guardian cannot start its worker: {call}: {reason}")
        raise ChildProcessError("a guardian ended, or did not answer, before it had started its worker")

    def _hear(self, flags: int = 0) -> tuple[str, str]:
        """Return the next that it has said, as kind and detail; nothing if there is nothing."""
        try:
            news = self._link.recv(_LONGEST_NEWS, flags)
        except OSError:  # EAGAIN; ECONNRESET: it has ended, and had not read something
            return "", ""
        kind, _, detail = news.decode().partition(" ")
        return kind, detail


class GuardedEnding(TreeEnding):
    """The ending of a worker's tree, and then of the guardian above it, in steps that do not block, either.

    The guardian tells how the worker has ended, is told to leave, and leaves: a millisecond, unless something keeps it,
    such as somebody beneath it whom nobody can end. From then on nothing pins the worker's number.

    Args:
        above: The guardian; whoever made this releases it afterwards, which then waits for nothing.
        leader: The worker.
        marker: As of ``TreeEnding``.
        signal_group: Likewise.
        spares_sessions: Likewise.
    """

    def __init__(
        self,
        above: Guardian,
        leader: Leader,
        marker: bytes,
        signal_group: Callable[[Leader, int], bool],
        *,
        spares_sessions: bool = False,
    ) -> None:
        super().__init__([leader], marker, signal_group, guardian=above.leader, spares_sessions=spares_sessions)
        self._above = above
        self._told_by: float | None = None  # when not to wait any more for what it has to tell; None before

    def advance(self) -> bool:
        """Go on with the tree, and with the guardian when nothing is left of that; return True when all is over."""
        if self._told_by is None:
            if not super().advance():
                return False
            is_dead = not self._held.keys() & self._leaders.keys()  # else there is nothing to be told
            self._told_by = time.monotonic() + (_TOLD_LIMIT if is_dead else 0.0)
            self._above.rouse()
        if not self._above.has_told() and time.monotonic() < self._told_by:
            return False
        return self._above.leave()

    def pidfds(self) -> list[int]:
        """Return what to wait for: as of ``TreeEnding``, and then whatever tells of the guardian."""
        return super().pidfds() if self._told_by is None else self._above.fds

    @property
    def wake_at(self) -> float:
        """The instant (monotonic seconds) at which ``advance`` has something to do even if nothing happens."""
        return super().wake_at if self._told_by is None else self._above.wake_at or self._told_by


def wait_for_news(news: int) -> None:
    """Wait, a short while, until a guardian has said something or is dead; close the descriptor.

    Needs no more than that, so that any thread can wait, whatever becomes of the guardian meanwhile.
    """
    try:
        _wait_until_readable(news, _TOLD_LIMIT)
    finally:
        os.close(news)


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
    variable = f"{marker}={marker_value()}"
    arguments = (os.getpid(), variable, link_fd, program_fd, tuple(pass_fds))
    started = start_bare(_PROGRAM.format(arguments=arguments), (link_fd, program_fd, *pass_fds))
    started.returncode = 0  # we wait for it by pidfd: keep Popen from doing so, and from warning that it did not
    return started.pid


def _wait_until_readable(fd: int, limit: float) -> None:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    poll.poll(limit * 1000)


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
