"""Which processes are ours? An environment variable says so.

Every contained process starts with a variable whose *name* is the marker, and its descendants inherit it. A name,
not a value, so that nested pools add to one another instead of overwriting. It carries no secret, and stands in the
janitor's command line for everybody to read: a random number and a count, which open nothing. Who takes the variable
on can only be ended by its own user, as it could be anyway; one that is older than a worker is not taken for its child.
Where processes that have made a session of their own are to be left alone, there is an "s" behind the host's random
number, so that they do not carry what the others are looked for by.
Its value says who the host is, for whoever comes across the process when the host is gone (``origin``).

Facts: the kernel shows the environment that a process was started with in /proc/PID/environ; ``unsetenv`` inside
the process does not change it, ``env -i``, ``exec -c`` and setproctitle do (proc_pid_environ(5)).
"""

from __future__ import annotations

import itertools
import os
import threading

from safepool._os.process_table import read_row

__all__ = ["host_marker", "is_sparing", "marker_value", "namespaces", "next_worker_marker"]

_SPARING = "s"

_lock = threading.RLock()
_token = ""
_value = ""
_numbers = itertools.count(1)


def host_marker() -> str:
    """Return the prefix that the markers of all workers of this process share; a forked child gets its own."""
    global _token
    with _lock:
        if not _token:
            _token = f"SAFEPOOL_{os.urandom(16).hex()}"
        return _token


def next_worker_marker(*, sparing: bool = False) -> str:
    """Return the marker of one more contained process: the host's, then a number.

    Args:
        sparing: What is beneath it and has made a session of its own is to be left alone.
    """
    return f"{host_marker()}{_SPARING if sparing else ''}_{next(_numbers)}"


def is_sparing(marker: str) -> bool:
    """Return True for the marker of one beneath which those are left alone that have made a session of their own."""
    return marker.rpartition("_")[0].endswith(_SPARING)


def marker_value() -> str:
    """Return what the markers of this process say of it: number, start time, and the namespaces in which these hold."""
    global _value
    if not _value:
        me = read_row(os.getpid())
        start = 0 if me is None else me.start
        _value = ".".join(map(str, (os.getpid(), start, *namespaces())))
    return _value


def namespaces() -> tuple[int, int]:
    """Return what names this process's pid namespace, which numbers processes, and time namespace, which dates them."""
    return _namespace("pid"), _namespace("time")


def _namespace(kind: str) -> int:
    try:
        return os.stat(f"/proc/self/ns/{kind}").st_ino
    except OSError:  # no time namespaces before Linux 5.6: there is one for all
        return 0


def _forget_in_child() -> None:
    global _lock, _token, _value, _numbers
    _lock = threading.RLock()
    _token = ""
    _value = ""
    _numbers = itertools.count(1)


os.register_at_fork(after_in_child=_forget_in_child)
