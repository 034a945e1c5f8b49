"""A person at a terminal: types, reads the screen, and waits for the shell to ask for more."""

from __future__ import annotations

import os
import select
import shlex
import time
from collections.abc import Sequence

from support.hosts import Program

__all__ = ["CTRL_C", "CTRL_D", "CTRL_Z", "Person"]

CTRL_C, CTRL_D, CTRL_Z = b"\x03", b"\x04", b"\x1a"
_PROMPT = "what-now? "
_SHELLS = {"bash": ["bash", "--norc", "--noediting", "-i"], "dash": ["dash", "-i"]}


class Person:
    """Somebody in front of an interactive shell.

    Args:
        program: What the shell is to be run as.
        terminal: Both ends of the terminal.
        shell: Which one.
    """

    def __init__(self, program: Program, terminal: dict[str, int], shell: str) -> None:
        self.program = program
        self.shell = _SHELLS[shell]
        self._fd = terminal["ours"]
        self._unread = b""
        program.run(self.shell, terminal=terminal["theirs"], on_screen=True, environment={"PS1": _PROMPT})
        self.sees(_PROMPT)

    def types(self, *words: str) -> None:
        """Type a line, as it is."""
        os.write(self._fd, f"{' '.join(words)}\n".encode())

    def runs(self, command: Sequence[str], after: str = "") -> None:
        """Type a command, quoted; ``after`` is shell, unquoted."""
        self.types(shlex.join(command), after)

    def presses(self, key: bytes) -> None:
        os.write(self._fd, key)

    def sees(self, text: str, *, within: float = 30.0) -> str:
        """Wait until the screen shows a text; return what came until then, since the last time."""
        deadline = time.monotonic() + within
        while text.encode() not in self._unread:
            left = deadline - time.monotonic()
            assert left > 0, f"{text!r} did not come within {within:g} s; on the screen: {self._unread.decode()!r}"
            if select.select([self._fd], [], [], left)[0]:
                self._unread += os.read(self._fd, 1 << 16)
        seen, _, self._unread = self._unread.partition(text.encode())
        return seen.decode()

    def is_asked(self, *, within: float = 30.0) -> str:
        """Wait until the shell asks for the next command; return what was on the screen until then."""
        return self.sees(_PROMPT, within=within)

    def status(self) -> int:
        """Ask the shell how the last command has ended."""
        self.types('echo it-w""as.$?.')  # what is typed is on the screen, too
        self.sees("it-was.")
        status = int(self.sees("."))
        self.is_asked()
        return status
