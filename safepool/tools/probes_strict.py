"""Probes of what a strict tier would be built on: one that catches even who has left every trace behind.

It is not in this release. So these say what would be possible here, and none of them makes the doctor complain.
"""

from __future__ import annotations

import os

from safepool.tools.probe import MISSING, OK, STRICT_TIER, Finding, Probe
from safepool.tools.staged import Held, Program

__all__ = ["PROBES"]

_SUBREAPER = """
import ctypes
if ctypes.CDLL(None).prctl(36, 1, 0, 0, 0):  # PR_SET_CHILD_SUBREAPER
    say("adopter", 0)
    sys.exit()
ready, go = os.pipe()
if not os.fork():
    if not os.fork():
        os.close(go)
        os.read(ready, 1)  # until its parent is reaped
        say("adopter", os.getppid())
        os._exit(0)
    os._exit(0)
os.wait()
os.close(go)
os.wait()
"""
# Makes the group, and removes it when the one process that is to be in it is gone, whatever happens to the doctor.
_GROUP = """
try:
    os.mkdir({group!r})
except OSError as error:
    say("refusal", error.errno)
    sys.exit()
say("refusal", 0)
member = os.fork()
if not member:
    say("member", os.getpid())
    stay()
os.waitpid(member, 0)
os.rmdir({group!r})
"""
_NAMESPACE = """
import ctypes
def attempt(name, flags):
    if not os.fork():
        done = not ctypes.CDLL(None).unshare(flags)
        if done and not os.fork():
            say(name, os.getpid())
            os._exit(0)
        if not done:
            say(name, 0)
        os._exit(0)
    os.wait()
attempt("user", 0x30000000)  # CLONE_NEWUSER | CLONE_NEWPID
attempt("pid", 0x20000000)
stay()
"""


def _subreaper() -> Finding:
    with Program(_SUBREAPER) as program:
        adopter = program.hear("adopter")["adopter"]
    if adopter != program.pid:
        return Finding(MISSING, "a process cannot have itself given the orphans among its descendants")
    return Finding(OK, "a process was given the orphans among its descendants")


def _cgroup() -> Finding:
    own = _own_group()
    if own is None:
        return Finding(MISSING, "no cgroup v2 is mounted that this process is in")
    group = os.path.join(own, f"safepool-doctor-{os.getpid()}")
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


def _namespaces() -> Finding:
    with Program(_NAMESPACE) as program:
        said = program.hear("user", "pid")
    if said["user"] == 1:
        return Finding(OK, "made a pid namespace within a user namespace")
    if said["pid"] == 1:
        return Finding(OK, "made a pid namespace, by privilege")
    return Finding(MISSING, "neither a user nor a pid namespace can be made")


def _own_group() -> str | None:
    """Return the directory of the cgroup v2 that this process is in."""
    with open("/proc/self/mountinfo", encoding="utf-8") as file:
        mounts = [line.split(" - ") for line in file]
    points = [place.split()[4] for place, kind in mounts if kind.startswith("cgroup2 ")]
    with open("/proc/self/cgroup", encoding="utf-8") as file:
        paths = [line.rstrip("\n").removeprefix("0::") for line in file if line.startswith("0::")]
    return points[0] + paths[0].rstrip("/") if points and paths else None


def _write(path: str, text: str) -> None:
    """Write at once: a file object would swallow what the kernel says."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


PROBES = [
    Probe(
        "subreaper",
        STRICT_TIER,
        _subreaper,
        "nothing in this release",
        "a seccomp profile that lets prctl(PR_SET_CHILD_SUBREAPER) pass",
    ),
    Probe(
        "cgroup",
        STRICT_TIER,
        _cgroup,
        "nothing in this release",
        "Linux 5.14 with cgroup v2, and a group of your own: systemd-run --user --scope -p Delegate=yes COMMAND;"
        " Delegate=yes in a unit; docker run --cgroupns=private with /sys/fs/cgroup writable",
    ),
    Probe(
        "namespaces",
        STRICT_TIER,
        _namespaces,
        "nothing in this release",
        "sysctl kernel.unprivileged_userns_clone=1 (Debian), kernel.apparmor_restrict_unprivileged_userns=0 (Ubuntu);"
        " in a container, docker run --security-opt seccomp=unconfined",
    ),
]
