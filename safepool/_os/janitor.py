"""The host's side of the janitor: one per host process, there before it is needed, replaced when it dies.

Starting it does not wait for it: it comes up beside the first workers. Until it is up, the kernel's own group kill
(``lifeline``) is what ends workers whose host dies; only descendants that left their group depend on the janitor.
Where the kernel does not do that, all rests on the janitor, and nothing is started before it is up (``stand_by``).
"""

from __future__ import annotations

import os
import select
import socket
import subprocess
import threading
import time

from safepool._os import lifeline
from safepool._os.bare import start_bare
from safepool._os.features import has
from safepool._os.marker import host_marker
from safepool._os.process_table import read_row
from safepool._os.process_tree import Leader
from safepool._os.register import Register

__all__ = ["Janitor", "janitor"]

_FIRST_DELAY = 0.1  # seconds between starts of a janitor that does not come up, doubled each time
_LONGEST_DELAY = 30.0  # seconds
_PATIENCE = 10.0  # seconds for a janitor to come up; it takes milliseconds
_LOOK = 50  # milliseconds until the next try, where nothing can be waited for

_PROGRAM = "from safepool._os.janitor_main import main; main{arguments!r}"


class Janitor:
    """The sweeper of this process, as its host sees it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._register = Register()
        self._life_fd = -1
        self._starter: subprocess.Popen[bytes] | None = None
        self._start_at = 0.0  # not before this instant: one that dies before it is up would only do so again
        self._delay = 0.0
        self._is_up = False

    def enter(self, leader: Leader, *, sparing: bool = False) -> int:
        """Put a tree on record, with a janitor there (or on its way) to read it; return the record's slot.

        Args:
            leader: Its first process.
            sparing: Those that have made a session of their own are to be left alone.
        """
        self.ensure()
        return self._register.enter(leader, sparing=sparing)

    def note_house(self, path: str) -> None:
        """Have the control groups of this process ended with it."""
        self._register.note_house(path)

    def strike(self, slot: int) -> None:
        """Take a tree off the record."""
        self._register.strike(slot)

    def ensure(self) -> None:
        """Have a janitor: take note of what it has said, replace it if it is gone. Cheap when there is one."""
        with self._lock:
            if self._life_fd >= 0 and self._is_alive():
                return
            self._forget()
            now = time.monotonic()
            if now >= self._start_at:
                self._delay = min(_LONGEST_DELAY, self._delay * 2 or _FIRST_DELAY)  # back to none once it is up
                self._start_at = now + self._delay
                self._start()

    def stand_by(self) -> None:
        """Be up before anything is started that nobody else would end with the host; the kernel does, as a rule.

        Raises:
            OSError: No janitor comes up.
        """
        if not has("setsig"):
            self.wait_until_up()

    def wait_until_up(self) -> None:
        """Wait for the janitor to be on its own.

        Raises:
            OSError: None comes up.
        """
        give_up = time.monotonic() + _PATIENCE
        self.ensure()
        while not self._is_up:
            if time.monotonic() > give_up:
                raise ChildProcessError("the janitor, which is to end what this process starts, does not come up")
            poll = select.poll()
            if self._life_fd >= 0:
                poll.register(self._life_fd, select.POLLIN)
            poll.poll(_LOOK)
            self.ensure()

    @property
    def life_fd(self) -> int:
        """A descriptor that becomes readable when ``ensure`` has something to do; -1 before the first start."""
        return self._life_fd

    def _is_alive(self) -> bool:
        try:
            while os.read(self._life_fd, 16):  # it says that it is up; what follows may already be its end
                self._reap_starter()
                self._delay = self._start_at = 0.0
                self._is_up = True
        except BlockingIOError:
            return True
        except OSError:
            pass
        return False

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            ours.setblocking(False)
            self._life_fd = ours.detach()
            lifeline.close_in_forked_children(self._life_fd)
            me = read_row(os.getpid())
            if me is None:
                raise ProcessLookupError("/proc does not show this process to itself: no janitor can watch it")
            arguments = (me.pid, me.start, host_marker(), self._register.fd, theirs.fileno())
            self._starter = start_bare(
                _PROGRAM.format(arguments=arguments),
                (self._register.fd, theirs.fileno()),
                subprocess.DEVNULL,  # a caller that reads our output to its end must not wait for the janitor
            )

    def _forget(self) -> None:
        fd, self._life_fd, self._is_up = self._life_fd, -1, False
        if fd >= 0:
            lifeline.keep_in_forked_children(fd)
            os.close(fd)
        self._reap_starter()

    def _reap_starter(self) -> None:
        """The process that forked the janitor has nothing left to do but to exit: this does not wait for long."""
        if self._starter is not None:
            self._starter.wait()
            self._starter = None


_janitor: Janitor | None = None
_janitor_lock = threading.Lock()


def janitor() -> Janitor:
    """Return the janitor of this process; a forked child has its own."""
    global _janitor
    with _janitor_lock:
        if _janitor is None:
            _janitor = Janitor()
        return _janitor


def _forget_in_child() -> None:
    global _janitor, _janitor_lock
    if _janitor is not None and _janitor._starter is not None:
        _janitor._starter.returncode = 0  # not our child: keep Popen from waiting for it
    _janitor = None
    _janitor_lock = threading.Lock()


os.register_at_fork(after_in_child=_forget_in_child)
