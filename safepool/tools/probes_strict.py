"""Probes of what strict containment rests on: a control group, which few programs may make, or else a guardian.

The doctor does not complain where one of them is missing, nor both: standard containment needs neither.
"""

from __future__ import annotations

import contextlib
import os

from safepool._os.control_group import house_of_this_process
from safepool._os.features import why_not
from safepool._os.guardian import NEEDED
from safepool.tools.probe import MISSING, OK, STRICT, Finding, Probe
from safepool.tools.staged import Held, Program

__all__ = ["PROBES"]

# Makes the group, and removes it when the one process that is to be in it is gone, whatever happens to the doctor.
_GROUP = """
try:
    os.mkdir({group!r})
except OSError as error:
    say("refusal", error.errno)
    sys.exit()
try:
    say("refusal", 0)
    member = os.fork()
    if not member:
        try:
            say("member", os.getpid())
            stay()
        finally:
            os._exit(0)
    os.waitpid(member, 0)
finally:
    os.rmdir({group!r})
"""

# A host with one worker beneath a guardian, and an orphan beside it that has no trace about it: no session, no
# environment. When the host is gone, so are they; should a guardian not do what it is for, they leave by themselves.
_GUARDED = """
from safepool._os.guardian import Guardian
from safepool._os.marker import next_worker_marker
try:
    guardian = Guardian([sys.executable, "-I", "-S", "-c", {worker!r}], {{}}, (), next_worker_marker())
except OSError as error:
    say("refusal", error.errno or 1)
    sys.exit()
say("refusal", 0)
say("worker", guardian.worker)
stay()
"""
_WORKER = """
import os, signal
signal.alarm(60)
if not os.fork():
    os.setsid()
    if not os.fork():
        signal.alarm(60)
        os.write(1, f"orphan {os.getpid()}\\n".encode())
        signal.pause()
    os._exit(0)
os.wait()
signal.pause()
"""


def _cgroup() -> Finding:
    if reason := why_not("cgroup"):
        return Finding(MISSING, reason)
    own = _own_group()
    if own is None:
        return Finding(MISSING, "there is no control group of version 2 that this process is in")
    group = os.path.join(own, f"safepool-doctor-{os.getpid()}")
    try:
        return _end_by(group, own)
    finally:
        with contextlib.suppress(OSError):  # gone, as a rule; left if Ctrl-C has ended its maker
            os.rmdir(group)


def _end_by(group: str, own: str) -> Finding:
    with Program(_GROUP.format(group=group)) as program:
        if refusal := program.hear("refusal")["refusal"]:
            return Finding(MISSING, f"no group can be made in {own}: {os.strerror(refusal)}")
        member = program.hear("member")["member"]
        try:
            with Held([member]) as held:
                _write(f"{group}/cgroup.procs", str(member))
                _write(f"{group}/cgroup.kill", "1")
                took = held.milliseconds_until_dead()
        finally:
            program.release()
            program.wait()  # until it has removed the group
    if took is None:
        return Finding(MISSING, "a process outlived cgroup.kill of its group")
    return Finding(OK, f"made a group, and ended a process by its cgroup.kill in {took:.1f} ms")


def _guardian() -> Finding:
    for name in NEEDED:
        if reason := why_not(name):
            return Finding(MISSING, f"a guardian needs {name}: {reason}")
    with Program(_GUARDED.format(worker=_WORKER)) as program:
        if refusal := program.hear("refusal")["refusal"]:
            return Finding(MISSING, f"no guardian can be had: {os.strerror(refusal)}")
        said = program.hear("worker", "orphan")
        with Held(said[name] for name in ("worker", "orphan")) as held:
            program.kill()
            took = held.milliseconds_until_dead()
    if took is None:
        return Finding(MISSING, "an orphan outlived the host beneath whose guardian it was")
    return Finding(OK, f"killed a host: its worker, and an orphan without a trace, were gone {took:.1f} ms later")


def _own_group() -> str | None:
    """Return the directory of the control group that this process is in."""
    try:
        return os.path.dirname(house_of_this_process())
    except OSError:
        return None


def _write(path: str, text: str) -> None:
    """Write at once: a file object would swallow what the kernel says."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


PROBES = [
    Probe(
        "cgroup",
        STRICT,
        _cgroup,
        "the kernel's own list of what descends from a worker: a guardian for each worker takes its place (next row),"
        " a process of 5 MB that has to be started first",
        "Linux 5.14 with cgroup v2, and a group of your own: systemd-run --user --scope -p Delegate=yes COMMAND;"
        " Delegate=yes in a unit; docker run --cgroupns=private with /sys/fs/cgroup writable",
    ),
    Probe(
        "guardian",
        STRICT,
        _guardian,
        'where there is no control group (previous row) containment="strict" cannot be had: what has left its session'
        " and its parent and cleared its environment is not ended",
        "a filter of system calls (seccomp) that allows prctl, and a Python with ctypes",
    ),
]
