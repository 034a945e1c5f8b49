"""A contained process: started with its lifeline armed, ended with everything that it started.

The one place where the mechanisms of this floor are put together; pool workers, the processes of the multiprocessing
context and the commands of ``safepool run`` are all made here.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal, TypeVar

from safepool._os import process_exit
from safepool._os.control_group import ControlGroup, house_of_this_process, new_group
from safepool._os.environment import for_worker
from safepool._os.guardian import GuardedEnding, Guardian, wait_for_news
from safepool._os.janitor import janitor
from safepool._os.lifeline import ArmedPipe
from safepool._os.marker import is_sparing, marker_value, next_worker_marker
from safepool._os.process_table import is_exiting, list_rows, read_row
from safepool._os.process_tree import Leader, TreeEnding
from safepool._os.tree_members import TreeMembers

__all__ = ["ContainedProcess", "ContainedProgram", "StrictBy", "contain", "spawn"]

_DYING = 0.02  # seconds between the end of a dying process's descriptors and its death; microseconds as a rule

StrictBy = Literal["group", "guardian"]  # what knows a strict worker's descendants: the kernel, or who adopts them


class ContainedProgram:
    """Any program in a group of its own, held by a pidfd; it need not know that it is contained.

    Attributes:
        pid: Its number, pinned until its tree is ended.
        pidfd: Readable once it is dead.
        members: Finds the process and everything beneath it.
    """

    def __init__(
        self,
        leader: Leader,
        pidfd: int,
        lifeline: ArmedPipe,
        marker: str,
        group: ControlGroup | None = None,
        guardian: Guardian | None = None,
    ) -> None:
        self.pid = leader.pid
        self.pidfd = pidfd
        self.marker = marker
        self._spares_sessions = is_sparing(marker)
        self.members = TreeMembers(
            leader,
            f"{marker}=".encode(),
            group,
            guardian.leader if guardian else None,
            spares_sessions=self._spares_sessions,
        )
        self._leader = leader
        self._lifeline = lifeline
        self._group = group
        self._guardian = guardian
        self._lock = threading.Lock()  # between ``release`` and questions from other threads
        self._exit_status: int | None = None
        self._slot = janitor().enter(leader, sparing=self._spares_sessions)  # last: nothing fails after it

    @property
    def control_group(self) -> ControlGroup | None:
        """Where the kernel keeps it and everything beneath it; None if it has no group of its own."""
        return self._group

    def has_ended(self, wait: float = 0.0) -> bool:
        """Return True once the first process is dead, or dies within a (short) wait; its descendants may live."""
        with self._lock:
            return self.pidfd < 0 or process_exit.has_ended(self.pidfd, wait)

    def is_dying(self) -> bool:
        """True once the first process runs no code of its own any more; it may take a while until it is dead.

        Where /proc does not tell, or there is no descriptor to look there with: once it is dead, a moment from now.
        """
        with self._lock:
            if self.pidfd < 0:
                return True
            with contextlib.suppress(OSError):
                if is_exiting(self.pid):
                    return True
            return process_exit.has_ended(self.pidfd, _DYING)

    def wait_until_ended(self, timeout: float | None) -> None:
        """Wait for the death of the first process, or for so many seconds, whatever the owner does meanwhile."""
        with self._lock:
            pidfd = os.dup(self.pidfd) if self.pidfd >= 0 else -1
        if pidfd >= 0:
            try:
                process_exit.has_ended(pidfd, timeout)
            finally:
                os.close(pidfd)

    def exit_status(self) -> int | None:
        """Return how it ended: status, or minus the signal's number; None if that cannot be known."""
        self._await_news()
        with self._lock:
            return self._exit_status if self.pidfd < 0 else self._read_exit_status()

    def send_signal(self, signum: int) -> bool:
        """Signal the first process alone; return False if it is gone."""
        with self._lock:
            return self.pidfd >= 0 and process_exit.send_signal(self.pidfd, signum)

    def signal_group(self, signum: int) -> bool:
        """Signal its whole group; return False if there is no safe way to."""
        return self._signal_group(self._leader, signum)

    def end_tree(self) -> TreeEnding:
        """Freeze the process's group; return what ends it, and everything beneath it, when the caller advances it."""
        marker, spares_sessions = f"{self.marker}=".encode(), self._spares_sessions
        ending: TreeEnding
        if self._guardian is None:
            ending = TreeEnding(
                [self._leader], marker, self._signal_group, group=self._group, spares_sessions=spares_sessions
            )
        else:
            self._guardian.disarm()  # as a switch, and since it speaks of the first death
            ending = GuardedEnding(
                self._guardian, self._leader, marker, self._signal_group, spares_sessions=spares_sessions
            )
        ending.freeze()
        return ending

    def release(self) -> None:
        """Let go of a process whose tree is gone: reap it, close everything, strike it off the register."""
        self._lifeline.close_write()  # fires a last time: nothing is left to be hit, or it should be
        with self._lock:
            self._exit_status = self._read_exit_status()
            process_exit.reap(self.pidfd)
            pidfd, self.pidfd = self.pidfd, -1
            os.close(pidfd)
        self._lifeline.close_read()
        if self._group is not None:
            self._group.remove()
        if self._guardian is not None:
            self._guardian.release()
        janitor().strike(self._slot)

    def _await_news(self) -> None:
        """Let the guardian of a dead worker tell of it, as it does at once; without the lock, for which others wait.

        The owner has waited already when it asks: ``end_tree``.
        """
        with self._lock:
            if self._guardian is None or self.pidfd < 0 or not process_exit.has_ended(self.pidfd):
                return
            if self._guardian.has_told():
                return
            try:
                news = self._guardian.open_news()
            except OSError:  # no descriptor to wait with
                return
        wait_for_news(news)

    def _read_exit_status(self) -> int | None:
        if self._guardian is not None:  # whose child it is, and not ours
            status = self._guardian.exit_status() if process_exit.has_ended(self.pidfd) else None
            if status is not None or self._guardian.is_alive:
                return status
        return process_exit.read_exit_status(self.pidfd)

    def _is_pinned(self) -> bool:
        """Return True while nobody else can be given its number: somebody has it as a child, and has not reaped it."""
        if self._guardian is not None:
            return self._guardian.is_alive
        return process_exit.is_unreaped_child(self.pidfd)

    def _signal_group(self, leader: Leader, signum: int) -> bool:
        if process_exit.send_signal(self.pidfd, signum, group=True):
            return True
        if self._is_pinned():  # the group is ours
            try:
                os.killpg(leader.pid, signum)
            except (ProcessLookupError, PermissionError):
                return False
            return True
        self._lifeline.fire()  # somebody reaped it: only the pipe still knows the group, and only to kill it
        return False


class ContainedProcess(ContainedProgram):
    """A process of ours in its own session, which has adopted its lifeline and keeps the write end of a switch."""

    def __init__(
        self,
        leader: Leader,
        pidfd: int,
        lifeline: ArmedPipe,
        switch: ArmedPipe,
        marker: str,
        group: ControlGroup | None = None,
        guardian: Guardian | None = None,
    ) -> None:
        self._switch = switch
        super().__init__(leader, pidfd, lifeline, marker, group, guardian)

    def read_stack(self) -> bytes:
        """Return what faulthandler has written since the last call."""
        try:
            return os.read(self._switch.read_fd, 1 << 16)
        except BlockingIOError:
            return b""

    @property
    def stack_fd(self) -> int:
        """Where the process's faulthandler writes, after ``request_stack``."""
        return self._switch.read_fd

    def open_group(self) -> list[int]:
        """Return pidfds of whoever is alive in its group, besides itself; the caller closes them."""
        pidfds: list[int] = []
        with contextlib.suppress(OSError):  # no descriptors to be had: those that were found must do
            for row in list_rows(self._leader.start):
                if row.group == self.pid and row.pid != self.pid and not row.is_dead:
                    pidfd = process_exit.open_pidfd(row.pid)
                    if pidfd is not None:
                        pidfds.append(pidfd)
        return pidfds

    def request_stack(self, signum: int) -> bool:
        """Have faulthandler write the stacks of all threads to ``stack_fd``.

        Only for a process that is about to be ended: the signal interrupts system calls, and the switch is off.
        """
        self._switch.disarm()
        if self._guardian is not None:
            self._guardian.disarm()
        os.set_blocking(self._switch.read_fd, False)
        return self.send_signal(signum)

    def end_tree(self) -> TreeEnding:
        """Freeze the process's group; return what ends it, and everything beneath it, when the caller advances it."""
        self._switch.disarm()  # else the first death would take the clean-up processes along
        return super().end_tree()

    def end_descendants(self, spared: Iterable[int]) -> TreeEnding:
        """Return what ends everything beneath the process, but not itself, nor those and what descends from them.

        Nor those that help it: who cleans up after it, and the janitor of what it has contained itself.
        """
        return TreeEnding(
            [self._leader],
            f"{self.marker}=".encode(),
            lambda _leader, _signum: True,  # the group is not signalled: the process goes on
            spared=frozenset({self.pid}),
            spared_trees=frozenset(spared),
            group=self._group,
            guardian=self._guardian.leader if self._guardian else None,
            spares_sessions=self._spares_sessions,
            spares_attendants=True,
        )

    def release(self) -> None:
        """Let go of a process whose tree is gone: reap it, close everything, strike it off the register."""
        super().release()
        self._switch.close()


_Contained = TypeVar("_Contained", bound=ContainedProgram)


def spawn(
    command: Callable[[int, int], Sequence[str | bytes]],
    environment: Mapping[str, str],
    pass_fds: Sequence[int] = (),
    *,
    strict_by: StrictBy | None = None,
    spares_detached: bool = False,
) -> ContainedProcess:
    """Start a contained process.

    Args:
        command: Makes the command line, given the numbers of the descriptors that the process must adopt:
            the lifeline's read end and the switch's write end.
        environment: Variables that are added to ours.
        pass_fds: Further descriptors that it inherits.
        strict_by: Whether it gets a control group, or a guardian, of its own.
        spares_detached: What is beneath it and has made a session of its own is left alone, whatever happens.

    Raises:
        OSError: It could not be started, for want of descriptors, memory, processes, or the executable.
    """
    switch = ArmedPipe()
    group: ControlGroup | None = None
    guardian: Guardian | None = None

    def start(lifeline: ArmedPipe, marker: str) -> int:
        nonlocal group, guardian
        line = command(lifeline.read_fd, switch.write_fd)
        given = (lifeline.read_fd, switch.write_fd, *pass_fds)
        variables = {**for_worker(), **environment, marker: marker_value()}
        if strict_by == "guardian":
            guardian = Guardian(line, variables, given, marker)
            return guardian.worker
        if strict_by == "group":
            janitor().note_house(house_of_this_process())
            group = new_group(marker.rpartition("_")[2])
        started = subprocess.Popen(
            line,
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # atomic, before exec: setpgid from here would come too late (EACCES)
            pass_fds=given,
            env=variables,
        )
        started.returncode = 0  # we wait for it by pidfd: keep Popen from doing so, and from warning that it did not
        return started.pid

    def hold(leader: Leader, pidfd: int, lifeline: ArmedPipe, marker: str) -> ContainedProcess:
        if group is not None:
            group.take_in(leader.pid)  # long before the interpreter in it is up, and can start anything
        if guardian is not None:
            guardian.watch(leader.pid)
        switch.arm(leader.pid)
        return ContainedProcess(leader, pidfd, lifeline, switch, marker, group, guardian)

    try:
        contained = contain(start, hold, spares_detached=spares_detached)
    except BaseException:
        switch.close()
        if group is not None:
            group.kill()  # it may have come to live, and to start others
            group.remove()
        if guardian is not None:
            guardian.release()
        raise
    switch.close_write()
    return contained


def contain(
    start: Callable[[ArmedPipe, str], int],
    hold: Callable[[Leader, int, ArmedPipe, str], _Contained],
    *,
    spares_detached: bool = False,
) -> _Contained:
    """Start something contained.

    Args:
        start: Starts it in a group of its own, given its lifeline and the variable that its environment is to have;
            returns its number.
        hold: Makes what stands for it, from its number and start time, its pidfd, lifeline and variable.
        spares_detached: As of ``spawn``.

    Raises:
        OSError: It could not be started.
    """
    janitor().stand_by()
    lifeline = ArmedPipe()
    pid: int | None = None
    try:
        marker = next_worker_marker(sparing=spares_detached)
        pid = start(lifeline, marker)
        lifeline.arm(pid)
        return _hold(pid, lifeline, marker, hold)
    except BaseException:
        lifeline.close()  # fires: a process that was started half-way goes with it
        if pid is not None:
            with contextlib.suppress(ChildProcessError):  # with SIGCHLD ignored the kernel itself reaps
                os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)  # the number is still its own
                os.kill(pid, signal.SIGKILL)  # where it is the arming that failed, nothing has fired
                os.waitpid(pid, 0)
        raise


def _hold(
    pid: int, lifeline: ArmedPipe, marker: str, hold: Callable[[Leader, int, ArmedPipe, str], _Contained]
) -> _Contained:
    pidfd = process_exit.open_pidfd(pid)
    try:
        row = read_row(pid)
        if pidfd is None or row is None:  # with SIGCHLD ignored the kernel itself reaps
            raise ChildProcessError(  # noqa: TRY301  # the clean-up below is for this, too
                f"process {pid} was reaped by somebody else as soon as it had started"
            )
        return hold(Leader(pid, row.start), pidfd, lifeline, marker)
    except BaseException:
        if pidfd is not None:
            os.close(pidfd)
        raise
