"""Can the kernel hold workers to limits of memory and CPU time? It can where their groups have the controllers.

A group has those controllers that the one above it hands on (``cgroup.subtree_control``), which can be those only that
it has itself: the host's own group (the *base*) must have them, and hand them on to the house, and the house to each
worker's group.

Facts (the kernel's cgroup-v2.rst, "No Internal Process Constraint"): a group in which there are processes cannot hand
on a controller (EBUSY), nor can a process enter one that does; the root of all is exempt. "cpu" is threaded: there it
is no error, and the group becomes one of threads, below which no group of processes can be. The host is in the base. So
where nobody is there but the host and what it has started, as in a scope or a container of its own, they all move into
a group beside the house (*aside*), and nothing else changes for them. Others are never moved: they are somebody else's.

The rejected alternative: a house beside the base, which has the controllers already. Workers would leave the limits
that somebody has set for the host's group, and outlive its ``cgroup.kill``.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
import time
from collections.abc import Iterator

from safepool._os.command_line import host_of_janitor
from safepool._os.control_group import (
    ControlGroup,
    NoControlGroupError,
    hand_on_from_house,
    house_of_this_process,
    keep_in_house,
)
from safepool._os.features import is_shortage
from safepool._os.marker import host_marker
from safepool._os.process_table import command_of, environment_of, has_variable, list_rows, with_descendants

__all__ = ["controller_for_a_while", "have_controller", "step_back"]

_lock = threading.Lock()
_TRIES = 10  # to move everybody: somebody may fork meanwhile
_LEAVING = 1.0  # seconds for a host that is dying to leave its group; it takes less than a millisecond
_PAUSE = 0.002  # seconds between two looks whether it has
_MOST_SHOWN = 3  # strangers that a message names


def have_controller(name: str) -> None:
    """Have the groups of workers made with a controller: "memory", "cpu".

    Raises:
        NoControlGroupError: It cannot be had; the message says why. Nothing has changed.
        OSError: That cannot be found out just now, for want of descriptors or memory.
    """
    house = house_of_this_process()
    base = os.path.dirname(house)
    with _lock:  # two that move everybody would undo each other's moves
        try:
            is_there = name in _words_of(f"{base}/cgroup.controllers")
            if is_there and name not in _words_of(f"{base}/cgroup.subtree_control"):
                _have_handed_on(base, name, _aside(house))
        except NoControlGroupError:
            raise
        except OSError as error:
            if is_shortage(error):
                raise
            raise NoControlGroupError(
                f"{base} cannot hand on the kernel's {name!r} controller: {error.strerror}"
            ) from error
        if not is_there:
            raise NoControlGroupError(f"{base} does not have the kernel's {name!r} controller")
        hand_on_from_house(name)


@contextlib.contextmanager
def controller_for_a_while(name: str) -> Iterator[None]:
    """Have a controller within a block, in which the groups that want it are made and removed again.

    Where everybody has to move aside for it, the janitor undoes that (``step_back``), and not the end of the block.

    Raises:
        NoControlGroupError: As of ``have_controller``.
    """
    house = house_of_this_process()
    base = os.path.dirname(house)
    was_handed_on = name in _words_of(f"{base}/cgroup.subtree_control")
    have_controller(name)
    try:
        yield
    finally:
        if not was_handed_on and not os.path.isdir(_aside(house)):
            keep_in_house(name)  # first: a group cannot take back what one beneath it hands on
            with contextlib.suppress(OSError):  # another group there has come to hand it on
                _order(base, f"-{name}")


def step_back(house: str) -> None:
    """In the janitor, at last, when host and house are gone: remove the group that the host had moved into.

    The janitor was moved along, or born there, so it goes back to the base, which has to be free of controllers for
    that. Who else of the host's lives on there stays, and the group with him. The host itself is waited for: 1. Its
    descriptors are closed. 2. The janitor hears of that. 3. The host leaves its group (kernel/exit.c, do_exit).
    """
    aside, base = _aside(house), os.path.dirname(house)
    if os.path.isdir(aside):
        with contextlib.suppress(OSError):
            for name in _words_of(f"{base}/cgroup.subtree_control"):
                with contextlib.suppress(OSError):  # another group there, not of ours, hands it on itself
                    _order(base, f"-{name}")
            ControlGroup(base).take_in(os.getpid())
            give_up = time.monotonic() + _LEAVING
            while ControlGroup(aside).is_populated and time.monotonic() < give_up:
                time.sleep(_PAUSE)
            os.rmdir(aside)


def _have_handed_on(base: str, name: str, aside: str) -> None:
    """Not by trying first: a base with processes may hand on "cpu", and is one of threads from then on."""
    is_root = not os.path.exists(f"{base}/cgroup.type")
    if is_root or not _members_of(base):
        _order(base, f"+{name}")
    else:
        _step_aside(base, name, aside)


def _step_aside(base: str, name: str, aside: str) -> None:
    """Empty the base, and have it hand on the controller; where that fails, go back.

    1. Everybody in the base is moved. 2. One of them, not yet moved, forks. 3. The child is in the base: once more.
    """
    strangers = _strangers_in(base)
    if strangers:
        shown = ", ".join(f"{command_of(pid) or '?'} (pid {pid})" for pid in sorted(strangers)[:_MOST_SHOWN])
        raise NoControlGroupError(
            f"{base} cannot hand on the kernel's {name!r} controller as long as processes are in it that are not this "
            f"program's, such as {shown}"
        )
    with contextlib.suppress(FileExistsError):
        os.mkdir(aside)
    for tries_left in reversed(range(_TRIES)):
        try:
            _move_all(base, aside)
            _order(base, f"+{name}")
        except OSError as error:
            if error.errno == errno.EBUSY and tries_left:
                continue
            _move_all(aside, base)
            with contextlib.suppress(OSError):
                os.rmdir(aside)
            raise
        return


def _strangers_in(base: str) -> set[int]:
    """Return who is there without being of this program: no descendant, nobody with its marker, no janitor of those."""
    rows = list(list_rows())
    descendants = with_descendants([os.getpid()], rows)
    starts = {row.pid: row.start for row in rows}
    marker = host_marker().encode()

    def is_ours(pid: int) -> bool:
        return pid in descendants or has_variable(environment_of(pid), marker)

    def is_janitor_of_ours(pid: int) -> bool:  # it is nobody's child, and carries no marker
        host, start = host_of_janitor(command_of(pid)) or (0, 0)
        return starts.get(host) == start and is_ours(host)

    return {pid for pid in _members_of(base) if not is_ours(pid) and not is_janitor_of_ours(pid)}


def _move_all(source: str, target: str) -> None:
    for pid in _members_of(source):
        with contextlib.suppress(ProcessLookupError):  # it has ended
            ControlGroup(target).take_in(pid)


def _members_of(path: str) -> set[int]:
    return set(map(int, _words_of(f"{path}/cgroup.procs")))


def _words_of(path: str) -> list[str]:
    with open(path, encoding="ascii") as file:
        return file.read().split()


def _order(group: str, words: str) -> None:
    fd = os.open(f"{group}/cgroup.subtree_control", os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, words.encode())
    finally:
        os.close(fd)


def _aside(house: str) -> str:
    return f"{house}_host"


def _renew_lock() -> None:
    """In a forked child: another thread may have held it."""
    global _lock
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_renew_lock)
