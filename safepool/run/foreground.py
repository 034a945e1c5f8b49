"""At the terminal: the command takes our place in the foreground, and comes to a stop with us.

The command has a group of its own in our session, so it keeps the terminal, and a shell above sees nothing but us. It
is put into the foreground

* at once, if we are alone there, as when we were typed in by ourselves: it then has Ctrl-C, Ctrl-Z and the keyboard to
  itself, and looks like a command in the foreground to those that ask (``wget``, ``git``);
* otherwise when it wants something of the terminal, and is stopped for that. In ``safepool run -- find / | less`` the
  terminal belongs to ``less``, and a script that runs us is to have its Ctrl-C; what comes to our group is passed on.

When the command is stopped, so are we, for the shell to see; when the shell continues us, the command goes on, in the
foreground again if we are.
"""

from __future__ import annotations

import os
import signal
import time

from safepool._os.contained import ContainedProgram
from safepool._os.process_table import list_rows
from safepool._os.signal_inbox import SignalInbox
from safepool._os.terminal import Terminal

__all__ = ["Foreground", "is_alone_in_foreground"]

_WANTS_TERMINAL = (signal.SIGTTIN, signal.SIGTTOU)


def is_alone_in_foreground(terminal: Terminal) -> bool:
    """Return True if our group is in the foreground and has nobody but us."""
    group, itself = os.getpgrp(), os.getpid()
    return terminal.is_ours and not any(
        row.group == group and row.pid != itself and not row.is_dead for row in list_rows()
    )


class Foreground:
    """Whose the terminal is: ours, or the command's.

    Args:
        terminal: Which one.
        command: Of our session.
        inbox: Through which we are stopped.
        is_taken: The command was given the terminal when it was started.
    """

    def __init__(self, terminal: Terminal, command: ContainedProgram, inbox: SignalInbox, *, is_taken: bool) -> None:
        self._terminal = terminal
        self._command = command
        self._inbox = inbox
        self._is_wanted = is_taken
        self._is_lent = is_taken

    def on_stop(self, signum: int) -> float:
        """Do what is to be done when the command was stopped; return how many seconds we were stopped for that."""
        if signum in _WANTS_TERMINAL:
            self._is_wanted = True
            if self._terminal.is_ours:
                self.on_continue()
                return 0.0
        was_lent = self._is_lent  # then the signal went to its group, and ours is to have it, too
        self._take_back()
        began = time.monotonic()
        was_stopped = self._inbox.stop_ourselves(signal.SIGTSTP, with_group=was_lent)
        if was_stopped or signum != signal.SIGSTOP:  # which stops a command wherever it is
            self.on_continue()
        return time.monotonic() - began

    def on_continue(self) -> None:
        """Have the command go on, in the foreground if that is ours to give."""
        if self._is_wanted and self._terminal.is_ours:
            self._terminal.give_to(self._command.pid)
        self._is_lent = self._terminal.belongs_to(self._command.pid)  # else somebody has continued us in the background
        self._command.signal_group(signal.SIGCONT)

    def leave(self, *, was_ended: bool) -> None:
        """Take the place that we had; after a command that was ended, in the state that we found it in."""
        if self._is_lent:
            self._take_back()
            if was_ended:
                self._terminal.restore_modes()

    def _take_back(self) -> None:
        if self._is_lent:
            self._terminal.give_to(os.getpgrp())
            self._is_lent = False
