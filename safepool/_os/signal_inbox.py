"""Signals as messages: blocked, and taken one by one, with who has sent each.

For a program of ours that stands in another's place; never for a host, whose signals are its own. A handler would not
be told whether it was the terminal that sent a signal, to a whole group, or a process, to us alone.

Facts:
* A signal that is blocked is queued even if it is ignored (kernel/signal.c, sig_ignored). So all can be taken with
  their actions left alone, and the command ignores what we were told to ignore (``nohup``), unless it has other ideas.
* What is ignored stays so over an exec, what has a handler goes back to its default (execve(2)). Python ignores SIGPIPE
  and SIGXFSZ.
* SIGCONT discards pending stops, and a stop pending SIGCONTs (signal(7)).
* The first process of a pid namespace cannot end itself by a signal.
"""

from __future__ import annotations

import fcntl
import os
import resource
import signal

__all__ = ["SignalInbox", "Signalled", "die_of", "is_from_kernel"]

Signalled = signal.struct_siginfo

_SI_KERNEL = 0x80
# What tells of ourselves, not of what somebody wants.
_NEVER_TAKEN = {
    signal.SIGKILL,
    signal.SIGSTOP,
    signal.SIGABRT,
    signal.SIGBUS,
    signal.SIGFPE,
    signal.SIGILL,
    signal.SIGPIPE,
    signal.SIGSEGV,
    signal.SIGSYS,
    signal.SIGTRAP,
    signal.SIGXCPU,
    signal.SIGXFSZ,
}
_IGNORED_BY_PYTHON = (signal.SIGPIPE, signal.SIGXFSZ)


class SignalInbox:
    """From here on, the signals of this process."""

    def __init__(self) -> None:
        self._taken = signal.valid_signals() - _NEVER_TAKEN
        self._mask = signal.pthread_sigmask(signal.SIG_BLOCK, self._taken)
        self._child_action = signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # else the kernel might reap the command

    def next(self, wait: float) -> Signalled | None:
        """Wait so many seconds for a signal; return it, or None."""
        return signal.sigtimedwait(self._taken, max(0.0, wait))

    def announce(self, fd: int) -> None:
        """Have SIGIO come when a socket or pipe can be read."""
        fcntl.fcntl(fd, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_ASYNC)

    def stop_ourselves(self, signum: int, *, with_group: bool) -> bool:
        """Be stopped by this signal as if it had never been blocked; return when continued.

        Returns:
            False if we were not stopped, since nobody could continue us: SIGTSTP does nothing to an orphaned group.
        """
        os.kill(0 if with_group else os.getpid(), signum)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signum})
        signal.pthread_sigmask(signal.SIG_BLOCK, {signum})
        return signal.sigtimedwait({signal.SIGCONT}, 0) is not None

    def restore(self) -> None:
        """In a child, right before its exec: let it have every signal as we were given it."""
        for signum in _IGNORED_BY_PYTHON:
            signal.signal(signum, signal.SIG_DFL)
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # one that is pending shall end it, not be noted by Python
        signal.signal(signal.SIGCHLD, self._child_action)
        signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)


def is_from_kernel(sent: Signalled) -> bool:
    """Return True for what a terminal sends to its foreground group; False for what a process has sent."""
    return sent.si_code == _SI_KERNEL


def die_of(signum: int) -> None:
    """End this process by a signal, without a core of its own; return only where that is not possible."""
    _, most = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, most))
    if signum not in (signal.SIGKILL, signal.SIGSTOP):
        signal.signal(signum, signal.SIG_DFL)
    os.kill(os.getpid(), signum)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signum})
