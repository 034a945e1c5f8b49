"""End this process group when a pipe closes, by the kernel's own hand.

Two pipes per contained process:

* The **lifeline**: the write end lives in the host alone, the read end is armed on the worker's group. When the
  host dies, however, the kernel closes the write end and SIGKILLs the group.
* The **switch**: the write end lives in the worker alone, the read end (kept by the host) is armed on the same
  group. When the worker dies while the host is too busy or stopped to notice, its group goes with it. The worker's
  faulthandler writes stacks into the same pipe, for which the host disarms it first.

Facts (fcntl(2), fs/pipe.c; each shown by ``tests/unit/test_lifeline.py``):
* With F_SETOWN set to minus a group, F_SETSIG to SIGKILL and O_ASYNC on, the kernel signals the group when data
  comes or the last writer goes. It needs no thread, no GIL and no cooperation, and reaches stopped processes.
* The kernel holds a reference to the group, not its number: a recycled number is never hit.
* These settings belong to the open file, which host and worker share: either can arm, and one arming serves both.
* Arming does not fire for what happened before: arm first, then look whether the pipe has hung up.
* If the worker has closed all of its descriptors, the host's copy of the read end is the only one left that can fire.
  At the host's exit it does so if its number is lower than that of the write end, and not if it is higher (tried;
  files are let go of after their numbers, the last one first, it seems).

Where the kernel cannot do it (no F_SETSIG: ``features``), nothing is armed. Then a thread of the worker watches the
lifeline (``host_watch``), the janitor ends the groups on the register when the host dies, and the host, or after it
the janitor, that of a worker that dies.

A copy of the write end in a forked child of its holder would keep the pipe open: it is closed by an at-fork hook.
A fork in C that never returns to Python is not covered by that; the janitor is.
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
import struct
import threading

from safepool._os.features import has

__all__ = [
    "ArmedPipe",
    "adopt_lifeline",
    "adopt_switch",
    "arm",
    "close_in_forked_children",
    "has_hung_up",
    "keep_in_forked_children",
]

# Not F_GETOWN: it gives a group as a negative number, which Python takes for a failure.
_F_GETOWN_EX = 16
_F_OWNER_PGRP = 2
_OWNER = struct.Struct("=ii")

# Held around a fork, so that no child is born between a pipe and its registration; re-entrant, since a signal handler
# may fork.
_guard = threading.RLock()
_write_ends: set[int] = set()


class ArmedPipe:
    """A pipe whose read end, once armed, ends a process group at the first byte or at the last close."""

    def __init__(self) -> None:
        with _guard:
            read, write = _ordered_pipe()
            _write_ends.add(write)
        self.read_fd, self.write_fd = read, write
        self._group = 0

    def arm(self, group: int) -> None:
        """From now on, end this group when something is written or the last writer closes; if the kernel can."""
        if arm(self.read_fd, group):
            self._group = group

    def disarm(self) -> None:
        """From now on, do nothing of the kind."""
        flags = fcntl.fcntl(self.read_fd, fcntl.F_GETFL)
        fcntl.fcntl(self.read_fd, fcntl.F_SETFL, flags & ~os.O_ASYNC)

    def fire(self) -> None:
        """End the group now. Unlike ``killpg`` this cannot hit a group that has taken over the number."""
        self._disarm_if_turned()
        try:
            os.write(self.write_fd, b"x")
        except OSError:
            pass  # nobody reads any more: the group holds no copy, and ours is closed

    def close_write(self) -> None:
        """Close the write end in this process."""
        write, self.write_fd = self.write_fd, -1
        if write >= 0:
            self._disarm_if_turned()
            with _guard:  # a child that is forked in between would keep its copy
                _write_ends.discard(write)
                os.close(write)

    def _disarm_if_turned(self) -> None:
        """Whoever has a copy of the read end can turn it on another group; that is not to be done by our hand."""
        if not self._group:
            return
        kind, owner = _OWNER.unpack(fcntl.fcntl(self.read_fd, _F_GETOWN_EX, bytes(_OWNER.size)))
        if owner and (kind, owner) != (_F_OWNER_PGRP, self._group):  # zero for a group of which nobody is left
            self.disarm()

    def close_read(self) -> None:
        """Close the read end in this process."""
        read, self.read_fd = self.read_fd, -1
        if read >= 0:
            os.close(read)

    def close(self) -> None:
        """Close both ends in this process; the write end first, while the read end can still fire."""
        self.close_write()
        self.close_read()


def arm(read_fd: int, group: int) -> bool:
    """Have the kernel SIGKILL the group when something is written to the pipe or its last writer closes.

    Returns:
        False if it cannot.
    """
    if not has("setsig"):
        return False
    fcntl.fcntl(read_fd, fcntl.F_SETOWN, -group)
    fcntl.fcntl(read_fd, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(read_fd, fcntl.F_SETFL, fcntl.fcntl(read_fd, fcntl.F_GETFL) | os.O_ASYNC)
    return True


def adopt_lifeline(read_fd: int) -> None:
    """In the worker: arm the lifeline once more, and end at once if the host is already gone.

    1. The host dies between the spawn and its own arming: nobody has armed the pipe.
    2. The worker arms it, too late for the hang-up, which does not fire.
    3. The worker asks the pipe, sees the hang-up, and ends itself.
    (``test_worker_whose_host_died_before_arming_ends_itself``)
    """
    os.set_inheritable(read_fd, False)
    arm(read_fd, os.getpgrp())
    if has_hung_up(read_fd):
        os.killpg(0, signal.SIGKILL)


def adopt_switch(write_fd: int) -> None:
    """In the worker: keep the switch to ourselves, so that our death alone decides."""
    os.set_inheritable(write_fd, False)
    close_in_forked_children(write_fd)


def has_hung_up(read_fd: int) -> bool:
    """Return True if no writer is left."""
    poll = select.poll()
    poll.register(read_fd, select.POLLIN)
    return any(event & (select.POLLHUP | select.POLLERR) for _, event in poll.poll(0))


def close_in_forked_children(fd: int) -> None:
    """Have this descriptor closed in every child that is forked from now on."""
    with _guard:
        _write_ends.add(fd)


def keep_in_forked_children(fd: int) -> None:
    """Take back ``close_in_forked_children``; call it before the descriptor is closed."""
    _write_ends.discard(fd)


def _ordered_pipe() -> tuple[int, int]:
    read, write = os.pipe()
    if read < write:  # always, unless another thread freed a lower number between the two
        return read, write
    try:
        higher = fcntl.fcntl(write, fcntl.F_DUPFD_CLOEXEC, read + 1)
    except OSError:
        os.close(read)
        raise
    finally:
        os.close(write)
    return read, higher


def _close_in_child() -> None:
    for fd in _write_ends:
        try:
            os.close(fd)
        except OSError:
            pass
    _write_ends.clear()
    _guard.release()


os.register_at_fork(before=_guard.acquire, after_in_parent=_guard.release, after_in_child=_close_in_child)
