"""Become any program, contained: not one of ours, so that it is armed before it is what it is, and adopts nothing.

By a fork rather than ``subprocess``: between fork and exec the child arms its own group, and looks whether we still
live (``lifeline.adopt_lifeline``), so that there is no instant at which it runs and would be left behind. That is sound
in a process with one thread, which a program of ours is, and a host is not.

The read end of the lifeline is ours alone after the exec, and has the lower number, which is what makes it fire at our
death (see ``lifeline``). The janitor is started first, and finds by the register and the marker who is left.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Sequence

from safepool._os import features, lifeline
from safepool._os.contained import ContainedProgram, contain
from safepool._os.control_group import ControlGroup, house_of_this_process, new_group
from safepool._os.environment import inherited
from safepool._os.janitor import janitor
from safepool._os.lifeline import ArmedPipe
from safepool._os.marker import marker_value
from safepool._os.process_tree import Leader
from safepool._os.signal_inbox import SignalInbox
from safepool._os.terminal import Terminal

__all__ = ["start_program"]

_LOST = 125  # something else than an error has ended the child before it was the program


def start_program(
    command: Sequence[str],
    inbox: SignalInbox,
    on_error: Callable[[OSError, bool], int],
    *,
    new_session: bool,
    terminal: Terminal | None = None,
    in_group: bool = False,
) -> ContainedProgram:
    """Start a program with our descriptors, directory, environment and signals.

    Args:
        command: The program, looked for on PATH, and its arguments.
        inbox: Knows which signals it is to have.
        on_error: Called in the child, if that does not become the program, with why, and whether it was the exec that
            failed; returns the status to exit with.
        new_session: It gets a session of its own, and no terminal; otherwise a group in ours.
        terminal: What it is in the foreground of before it runs, if given.
        in_group: It gets a control group of its own, in which it is before it runs.

    Raises:
        OSError: There is no room for a process or a descriptor, or no control group to be had.
    """
    features.announce()
    janitor().ensure()
    group: ControlGroup | None = None

    def start(pipe: ArmedPipe, marker: str) -> int:
        nonlocal group
        environment = {**inherited(), marker: marker_value()}
        if in_group:
            janitor().note_house(house_of_this_process())
            group = new_group(marker.rpartition("_")[2])
        pid = os.fork()
        if not pid:
            status, is_ready = _LOST, False
            try:
                _leave_group(new_session, terminal)
                lifeline.adopt_lifeline(pipe.read_fd)
                if group is not None:
                    group.take_in(os.getpid())
                inbox.restore()
                is_ready = True
                os.execvpe(command[0], list(command), environment)  # noqa: S606  # there is to be no shell
            except (OSError, ValueError) as error:  # the latter of a name that is empty, or has a zero byte in it
                status = on_error(error if isinstance(error, OSError) else OSError(errno.ENOENT, str(error)), is_ready)
            finally:
                os._exit(status)
        if not new_session:
            with contextlib.suppress(OSError):  # it was quicker
                os.setpgid(pid, pid)  # so that a signal which comes now finds the group
        return pid

    def hold(leader: Leader, pidfd: int, pipe: ArmedPipe, marker: str) -> ContainedProgram:
        return ContainedProgram(leader, pidfd, pipe, marker, group)

    try:
        return contain(start, hold)
    except BaseException:
        if group is not None:
            group.kill()  # it may have come to live, and to start others
            group.remove()
        raise


def _leave_group(new_session: bool, terminal: Terminal | None) -> None:
    if new_session:
        os.setsid()
    else:
        os.setpgid(0, 0)
        if terminal is not None:
            terminal.give_to(os.getpid())
