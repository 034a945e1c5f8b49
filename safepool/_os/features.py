"""Which of the mechanisms that containment can rest on does this process have?

What a kernel lacks or a sandbox refuses is found out by trying it, once in a process, when it is first asked for.
``SAFEPOOL_DISABLE`` takes some away, by their names with commas between them: for whoever wants to see what his pool is
worth without them. It is read once, and children (workers, the janitor) inherit it with the environment.

Each mechanism has something that stands in for it, with less (``COSTS``); the module that uses it knows what.

Facts:
* A call that the kernel does not know is ENOSYS, also under a seccomp profile of newer containers; older ones answer
  EPERM. Want of descriptors, memory or processes (EMFILE, ENFILE, ENOMEM, EAGAIN) tells nothing of the kernel, and is
  told to the caller.
* /proc/self is the reader's number in the namespace that /proc was mounted in. Where that is another one, every number
  that is found there means somebody else here (pid_namespaces(7)).
"""

from __future__ import annotations

import errno
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["COSTS", "VARIABLE", "announce", "disabled", "has", "is_shortage", "why_not"]

VARIABLE = "SAFEPOOL_DISABLE"

# What does not hold without each. All are there unless this says that they are missing.
COSTS = {
    "setsig": "when the host dies, its janitor ends the workers, not the kernel: nothing does if both die at once and a"
    " worker cannot run a thread of its own",
    "pidfd": "ends are noticed up to 5 ms later, and processes are signalled by number, right after their start time"
    " was read again",
    "pidfd_group": "the group of a worker that somebody else has reaped cannot be frozen before it is ended",
    "pidfd_info": "how a worker ended that somebody else has reaped is not known",
    "proc": "whatever leaves its worker's process group is not found, and stays behind; memory is not limited",
    "memfd": "large data go through the socket, and files without a name in the folder of temporary files stand in for"
    " memory files",
    "cgroup": "strict containment is kept by guardians, and the kernel holds nobody to limits of memory and CPU time",
    "pipe_watch": "a worker does not end its group by itself when its lifeline closes",
    "parent_watch": "a worker does not end its group by itself when its parent changes",
    "group_kill": "a worker that sees its host's end by itself ends itself alone, not its group",
}
_TOLD = ("setsig", "pidfd", "proc", "memfd")  # said at once; the others matter to few, who can ask the doctor
_SHORTAGES = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN}

_disabled: frozenset[str] | None = None
_missing: dict[str, str] = {}  # why, by name; nothing for what is there
_is_announced = False


def disabled() -> frozenset[str]:
    """Return what the environment takes away.

    Raises:
        ValueError: It names something that there is not.
    """
    global _disabled
    if _disabled is None:
        names = {name.strip() for name in os.environ.get(VARIABLE, "").split(",")} - {""}
        if unknown := sorted(names - COSTS.keys()):
            raise ValueError(
                f"{VARIABLE} must name mechanisms ({', '.join(COSTS)}), with commas between, not {', '.join(unknown)!r}"
            )
        _disabled = frozenset(names)
    return _disabled


def has(name: str) -> bool:
    """Return True if this process has the mechanism.

    Raises:
        OSError: That cannot be found out just now, for want of descriptors or memory.
        ValueError: The environment takes away something that there is not.
    """
    return not why_not(name)


def why_not(name: str) -> str:
    """Return why this process does not have the mechanism; nothing if it has. Raises as ``has`` does."""
    reason = _missing.get(name)
    if reason is None:
        reason = _missing[name] = f"disabled by {VARIABLE}" if name in disabled() else _try(name)
    return reason


def is_shortage(error: OSError) -> bool:
    """Return True if this says that there is not enough of something just now, and nothing of what can be had here."""
    return error.errno in _SHORTAGES


def announce() -> None:
    """At the first pool: refuse a variable that makes no sense, and say in the log what is missing, once in a process.

    What the kernel lacks is a warning; what somebody took away himself is for those who want to know.

    Raises:
        ValueError: The environment takes away something that there is not.
    """
    global _is_announced
    if _is_announced:
        return
    chosen = disabled()
    try:
        missing = [(name, why_not(name)) for name in _TOLD]
    except OSError:  # no descriptors just now: the next pool says it
        return
    _is_announced = True
    for name, reason in missing:
        if reason:
            import logging  # lazily: a worker that is no host has no use for it

            level = logging.INFO if name in chosen else logging.WARNING
            logging.getLogger("safepool").log(level, "no %s here (%s): %s", name, reason, COSTS[name])


def _try(name: str) -> str:
    try:
        _PROBES.get(name, _always)()
    except (OSError, AttributeError) as error:  # an interpreter may lack a call, too
        if isinstance(error, OSError) and is_shortage(error):
            raise
        return str(error)
    return ""


def _always() -> None:
    """Whoever uses it asks the kernel each time anyway, or it needs none."""


def _pidfd() -> None:
    import signal

    pidfd = os.pidfd_open(os.getpid())
    try:
        signal.pidfd_send_signal(pidfd, 0)
        os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG)
    except ChildProcessError:  # as it should be: we are no child of ours
        pass
    finally:
        os.close(pidfd)


def _setsig() -> None:
    import fcntl
    import signal

    read, write = os.pipe()
    try:
        fcntl.fcntl(read, fcntl.F_SETSIG, signal.SIGKILL)  # without O_ASYNC and an owner it does nothing
    finally:
        os.close(read)
        os.close(write)


def _memfd() -> None:
    os.close(os.memfd_create("safepool-probe", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING))


def _proc() -> None:
    shown, number = os.readlink("/proc/self"), os.getpid()
    if shown != str(number):
        raise FileNotFoundError(errno.ENOENT, f"/proc is of another namespace: there this is process {shown}")
    with open("/proc/self/stat", "rb", buffering=0) as file:
        file.read(1)


_PROBES: dict[str, Callable[[], None]] = {"pidfd": _pidfd, "setsig": _setsig, "memfd": _memfd, "proc": _proc}
