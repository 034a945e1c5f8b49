"""Who has the terminal? One process group of the session: it gets its signals, and who else reads from it is stopped.

Facts (tty_ioctl(4), setpgid(2), signal(7)):
* Whoever sets the terminal's group or its modes from another group is stopped by SIGTTOU, unless that is blocked, which
  it is here (``signal_inbox``).
* A group can only be stopped by the terminal's signals while one of its processes has a parent of another group in the
  same session. A command whose parent we are in our session is such a group; in a session of its own it is not.
* A terminal that has hung up answers every question with an error.
"""

from __future__ import annotations

import contextlib
import os
import termios

__all__ = ["Terminal", "find_terminal"]


class Terminal:
    """The controlling terminal of this process."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._modes = termios.tcgetattr(fd)

    def belongs_to(self, group: int) -> bool:
        """Return True if this group is in the foreground."""
        try:
            return os.tcgetpgrp(self._fd) == group
        except OSError:
            return False

    @property
    def is_ours(self) -> bool:
        """True while the group of this process is in the foreground."""
        return self.belongs_to(os.getpgrp())

    def give_to(self, group: int) -> None:
        """Put a group of our session into the foreground."""
        with contextlib.suppress(OSError):  # hung up, or the group is gone
            os.tcsetpgrp(self._fd, group)

    def restore_modes(self) -> None:
        """Undo what somebody who could not do it himself any more has set: no echo, no line editing."""
        with contextlib.suppress(OSError, termios.error):
            termios.tcsetattr(self._fd, termios.TCSANOW, self._modes)


def find_terminal() -> Terminal | None:
    """Return the controlling terminal, or None if there is none."""
    try:
        return Terminal(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC))
    except (OSError, termios.error):
        return None
