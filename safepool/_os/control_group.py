"""Control groups: the kernel's own list of what descends from a worker, which nothing that it runs can leave.

Used where ``containment="strict"`` is asked for. The host has one directory below the control group that it is in
itself (the *house*), and each worker one below that. A process is born into its parent's, whatever it does to its
session, its parents and its environment; to move to another takes the right to write to that other one.

Facts (cgroups(7), the kernel's cgroup-v2.rst): writing to ``cgroup.kill`` (Linux 5.14) kills everybody in a group and
in those below it, atomically against fork. ``cgroup.freeze`` stops them likewise, and whoever is killed then dies.
A directory can be removed when no process is left in it, zombies not counted. Without the delegation of the group,
nobody but root may make one (EACCES, EROFS).

Limits are the business of *controllers*, whose files are in a group only if the one above it hands them on
(``controllers``). ``memory.max``: who would get above it makes the kernel look for what can be taken back (the content
of files, above all), and if that is not enough, kill; with ``memory.oom.group`` (Linux 4.19) everybody in the group,
and nobody else. What is swapped out does not count, so there is to be none. ``memory.events`` counts for a group and
all below it, ``memory.events.local`` (Linux 5.2) for the group whose limit it was.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable

from safepool._os.features import is_shortage, why_not
from safepool._os.marker import host_marker

__all__ = [
    "ControlGroup",
    "NoControlGroupError",
    "end_house",
    "hand_on_from_house",
    "house_of_this_process",
    "keep_in_house",
    "make_sure",
    "new_group",
]

_TRIES = 10  # to make a directory below one that somebody may be removing
_PATIENCE = 5.0  # seconds for killed processes to die
_PAUSE = 0.002  # seconds between two looks whether they have
_PERIOD = 100_000  # microseconds in which a share of a CPU is to be used up; the kernel's own choice


class NoControlGroupError(OSError):
    """No control group can be made here, or nobody put into it."""


class ControlGroup:
    """One directory, and everything below it.

    Attributes:
        path: Where it is.
    """

    def __init__(self, path: str) -> None:
        self.path = path

    def take_in(self, pid: int) -> None:
        """Have a process live here, and all that it starts from now on.

        Raises:
            OSError: It may not be moved, or is gone.
        """
        _write(f"{self.path}/cgroup.procs", str(pid))

    def pids(self) -> set[int]:
        """Return who is here, at any depth."""
        found: set[int] = set()
        for folder, _, _ in os.walk(self.path):
            with contextlib.suppress(OSError), open(f"{folder}/cgroup.procs", encoding="ascii") as file:
                found.update(map(int, file))
        return found

    def freeze(self, *, on: bool = True) -> None:
        """Stop everybody, or let them go on; that is done an instant later."""
        with contextlib.suppress(OSError):
            _write(f"{self.path}/cgroup.freeze", "1" if on else "0")

    def kill(self) -> None:
        """Kill everybody."""
        with contextlib.suppress(OSError):
            _write(f"{self.path}/cgroup.kill", "1")

    @property
    def is_populated(self) -> bool:
        """True while somebody is here who is not dead."""
        try:
            with open(f"{self.path}/cgroup.events", encoding="ascii") as file:
                return "populated 1" in file.read()
        except OSError:  # it is gone
            return False

    def limit_memory(self, limit: int | None) -> bool:
        """Let all that are here hold so many bytes together and not one more; None for any number.

        Above it, the kernel ends everybody here. Not waiting for what would have to be taken back or killed at once,
        where the kernel can do without (O_NONBLOCK, Linux 6.16): that happens when somebody asks for more.

        Returns:
            False where the kernel does not do it, or no descriptor is left to tell it with: they may hold as much as
            before, be it less than they are to have now.
        """
        try:
            _write(f"{self.path}/memory.oom.group", "1")
            if limit is not None:  # first: what is swapped out would not count
                with contextlib.suppress(FileNotFoundError):  # a kernel without swap
                    _write(f"{self.path}/memory.swap.max", "0")
            _write(f"{self.path}/memory.max", "max" if limit is None else str(limit), os.O_NONBLOCK)
        except OSError:
            return False
        if limit is None:  # last: as long as there is a limit, nothing is to be swapped out
            with contextlib.suppress(OSError):
                _write(f"{self.path}/memory.swap.max", "max")
        return True

    def limit_cpu(self, cpus: float) -> None:
        """Let all that are here use so many CPUs' time together; who has used it up waits for the next period.

        Raises:
            OSError: The kernel does not do it.
        """
        _write(f"{self.path}/cpu.max", f"{round(cpus * _PERIOD)} {_PERIOD}")

    @property
    def is_exhausted(self) -> bool:
        """True if the kernel has killed here because the limit of this very group was reached, and not one above it."""
        everybody = self._memory_events("memory.events")
        own = self._memory_events("memory.events.local") or everybody
        return own.get("oom", 0) > 0 and everybody.get("oom_kill", 0) > 0

    def _memory_events(self, name: str) -> dict[str, int]:
        try:
            with open(f"{self.path}/{name}", encoding="ascii") as file:
                return {word: int(count) for word, count in map(str.split, file)}
        except (OSError, ValueError):
            return {}

    def remove(self) -> None:
        """Remove it, if nobody is here; and its house, if it was the last one there."""
        for folder, _, _ in os.walk(self.path, topdown=False):
            with contextlib.suppress(OSError):
                os.rmdir(folder)
        for folder in (self.path, os.path.dirname(self.path)):  # the former once more: to list it takes a descriptor
            with contextlib.suppress(OSError):
                os.rmdir(folder)


def new_group(name: str) -> ControlGroup:
    """Make a group below the house of this process.

    Raises:
        NoControlGroupError: It cannot be made.
    """
    house = house_of_this_process()
    path = f"{house}/{name}"
    for tries_left in reversed(range(_TRIES)):
        try:
            with contextlib.suppress(FileExistsError):
                os.mkdir(house)
            for controller in tuple(_handed_on.get(host_marker(), ())):  # another thread may add one
                _hand_on(house, controller)
            os.mkdir(path)
        except FileNotFoundError as error:  # the house was just removed with its last group
            if not tries_left:
                raise NoControlGroupError(str(error)) from error
        except OSError as error:
            raise NoControlGroupError(f"{path} cannot be made: {error.strerror}") from error
        else:
            break
    return ControlGroup(path)


def house_of_this_process() -> str:
    """Return where the groups of this process are, whether it is there or not.

    Raises:
        NoControlGroupError: This process is in no control group of version 2 that can be seen from here.
        OSError: That cannot be found out just now, for want of descriptors or memory.
    """
    token = host_marker()
    path = _houses.get(token)
    if path is None:
        path = _houses[token] = f"{_find_base()}/{token.lower()}"
    return path


def hand_on_from_house(controller: str) -> None:
    """Have the groups below the house made with this controller from now on, and those that are there have it, too."""
    _handed_on.setdefault(host_marker(), set()).add(controller)
    _hand_on(house_of_this_process(), controller)


def keep_in_house(controller: str) -> None:
    """Take back ``hand_on_from_house``, as far as no group there goes by it."""
    _handed_on.get(host_marker(), set()).discard(controller)
    with contextlib.suppress(OSError):
        _write(f"{house_of_this_process()}/cgroup.subtree_control", f"-{controller}")


def make_sure() -> None:
    """Find out, once in a process, by doing it: make a group, put a process into it, kill that, remove the group.

    Raises:
        NoControlGroupError: One of these cannot be done; the message says which, and why.
        OSError: That cannot be found out just now, for want of descriptors, memory or processes.
    """
    if host_marker() in _proven:
        return
    group = new_group(f"probe-{threading.get_ident()}")
    try:
        _prove(group)
    finally:
        group.kill()
        _wait_until(lambda: not group.is_populated)
        group.remove()
    _proven.add(host_marker())


def end_house(path: str) -> None:
    """In the janitor: kill whatever is left in the groups of a host that is gone, and remove them."""
    house = ControlGroup(path)
    house.kill()
    _wait_until(lambda: not house.is_populated)
    for folder, _, _ in os.walk(path, topdown=False):
        with contextlib.suppress(OSError):
            os.rmdir(folder)


_houses: dict[str, str] = {}  # by the host's marker, since a forked child has one of its own
_proven: set[str] = set()  # likewise
_handed_on: dict[str, set[str]] = {}  # likewise: controllers that the groups of workers are to have


def _hand_on(house: str, controller: str) -> None:
    """Where that fails, or there is no house yet, the groups below it have no such limits, as will be seen then."""
    with contextlib.suppress(OSError):
        _write(f"{house}/cgroup.subtree_control", f"+{controller}")


def _prove(group: ControlGroup) -> None:
    if not os.path.exists(f"{group.path}/cgroup.kill"):
        raise NoControlGroupError("this kernel has no cgroup.kill, which came with Linux 5.14")
    import subprocess  # lazily: the janitor has no use for it

    with subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", "import sys; sys.stdin.read()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            group.take_in(process.pid)
        except OSError as error:
            process.kill()
            if is_shortage(error):
                raise
            raise NoControlGroupError(f"no process can be moved to {group.path}: {error.strerror}") from error
        group.kill()


def _find_base() -> str:
    """Return the directory of the control group that this process is in."""
    if reason := why_not("cgroup"):
        raise NoControlGroupError(reason)
    try:
        mounts = _mounts_of_version_2()
        with open("/proc/self/cgroup", encoding="utf-8", errors="surrogateescape") as file:
            ours = next((line.rstrip("\n")[3:] for line in file if line.startswith("0::")), None)
    except OSError as error:
        if is_shortage(error):
            raise
        raise NoControlGroupError(f"/proc does not tell: {error.strerror}") from error
    if ours is None or not mounts:
        raise NoControlGroupError("there is no hierarchy of version 2 here")
    for root, where in mounts:
        top = root.rstrip("/")
        if ours == root or ours.startswith(f"{top}/"):
            return os.path.normpath(where + ours[len(top) :]) if ours != root else where
    raise NoControlGroupError("the group of this process lies outside of what is mounted here")


def _mounts_of_version_2() -> list[tuple[str, str]]:
    """Return (root, mount point) of each hierarchy of version 2; fields as in proc_pid_mountinfo(5)."""
    mounts = []
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            fields, _, rest = line.partition(" - ")
            if rest.startswith("cgroup2 "):
                _, _, _, root, where, *_ = fields.split(" ")
                mounts.append((_unescape(root), _unescape(where)))
    return mounts


def _unescape(path: str) -> str:
    for octal, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        path = path.replace(octal, character)
    return path


def _wait_until(is_so: Callable[[], bool]) -> None:
    give_up = time.monotonic() + _PATIENCE
    while not is_so() and time.monotonic() < give_up:
        time.sleep(_PAUSE)


def _write(path: str, content: str, flags: int = 0) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC | flags)
    try:
        os.write(fd, content.encode())  # one write: what follows would be another order
    finally:
        os.close(fd)
