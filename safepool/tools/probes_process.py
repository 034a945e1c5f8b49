"""Probes of how processes are seen to end, and are ended."""

from __future__ import annotations

import os
import select
import signal
import time

from safepool._os import process_exit
from safepool._os.features import COSTS
from safepool._os.lifeline import ArmedPipe
from safepool._os.process_table import read_row
from safepool.tools.probe import DEGRADED, EVERY_POOL, MISSING, OK, Finding, Probe
from safepool.tools.staged import LIMIT, Held, Program

__all__ = ["PROBES"]

_STATUS = 7
_REAPING = 5.0  # seconds for an init to take an orphan's status; most do it in one millisecond
_LOOK = 5  # milliseconds between looks, since nothing tells of a reaping

# The one is in a call into the kernel, the other blocks every signal that can be blocked.
_GROUP = """
if not os.fork():
    say("child", os.getpid())
    stay()
if not os.fork():
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    say("deaf", os.getpid())
    stay()
say("leader", os.getpid())
stay()
"""
_ORPHAN = """
if not os.fork():
    say("orphan", os.getpid())
    stay()
"""
# A host, whose worker leaves a daemon. That ends by itself after a while, should nobody end it.
_HOST = """
from safepool._os.contained import spawn
from safepool._os.janitor import janitor
worker = '''
import os, signal
def say(name):
    os.write(1, f"{name} {os.getpid()}\\\\n".encode())
signal.alarm(60)
if not os.fork():
    os.setsid()
    if os.fork():
        os._exit(0)
    signal.alarm(60)
    say("escapee")
    signal.pause()
os.wait()
say("worker")
signal.pause()
'''
contained = spawn(lambda lifeline, switch: [sys.executable, "-I", "-S", "-c", worker], {})
janitor().wait_until_up()
say("janitor", 1)
stay()
"""


def _pidfd() -> Finding:
    with Program("stay()") as program, Held([program.pid]) as held:
        pidfd = process_exit.open_pidfd(program.pid)
        assert pidfd is not None  # it is a child of ours, and unreaped
        try:
            if process_exit.has_ended(pidfd):
                return Finding(MISSING, "the pidfd of a process that lives can be read from")
            if not process_exit.send_signal(pidfd, signal.SIGKILL):
                return Finding(MISSING, "a process cannot be signalled through its pidfd")
            took = held.milliseconds_until_dead()
            if took is None:
                return Finding(MISSING, "the pidfd of a process that was killed does not tell of it")
            if process_exit.read_exit_status(pidfd) != -signal.SIGKILL:
                return Finding(MISSING, "a child's exit status cannot be had by its pidfd (waitid)")
        finally:
            os.close(pidfd)
    return Finding(OK, f"killed a process by its pidfd, and saw it die after {took:.1f} ms")


def _exit_status() -> Finding:
    with Program(f"os._exit({_STATUS})") as program, Held([program.pid]) as held:
        pidfd = process_exit.open_pidfd(program.pid)
        assert pidfd is not None
        try:
            held.milliseconds_until_dead()
            program.wait()
            status = process_exit.read_exit_status(pidfd)
        finally:
            os.close(pidfd)
    if status == _STATUS:
        return Finding(OK, "read the status of a process that somebody else had reaped")
    return Finding(DEGRADED, "the kernel does not tell how a process ended that somebody else has reaped")


def _group_signal() -> Finding:
    with Program(_GROUP) as program:
        said = program.hear("leader", "child", "deaf")
        with Held(said.values()) as held:
            pidfd = process_exit.open_pidfd(said["leader"])
            assert pidfd is not None
            try:
                if not process_exit.send_signal(pidfd, signal.SIGKILL, group=True):
                    return Finding(DEGRADED, "the kernel does not signal a group through its leader's pidfd")
            finally:
                os.close(pidfd)
            took = held.milliseconds_until_dead()
    if took is None:
        return Finding(DEGRADED, f"a group that was signalled through its leader's pidfd was alive {LIMIT:.0f} s later")
    return Finding(OK, f"killed a group of 3 through its leader's pidfd in {took:.1f} ms")


def _lifeline() -> Finding:
    with Program(_GROUP) as program:
        said = program.hear("leader", "child", "deaf")
        with Held(said.values()) as held:
            pipe = ArmedPipe()
            try:
                pipe.arm(said["leader"])
                pipe.close_write()
                took = held.milliseconds_until_dead()
            finally:
                pipe.close()
    if took is None:
        return Finding(MISSING, f"a group was alive {LIMIT:.0f} s after its pipe had been closed")
    return Finding(OK, f"a group of 3, one deaf to signals, died {took:.1f} ms after its pipe was closed")


def _janitor() -> Finding:
    with Program(_HOST) as host:
        said = host.hear("worker", "escapee")
        with Held([said["worker"], said["escapee"]]) as held:
            host.hear("janitor")
            host.kill()
            took = held.milliseconds_until_dead()
    if took is None:
        return Finding(MISSING, f"a daemon from a worker was alive {LIMIT:.0f} s after the host had been killed")
    return Finding(OK, f"killed a host: its worker, and a daemon from it, were gone {took:.1f} ms later")


def _init() -> Finding:
    with Program(_ORPHAN) as program:
        orphan = program.hear("orphan")["orphan"]
        with Held([orphan]) as held:
            program.wait()
            row = read_row(orphan)
            program.release()
            held.milliseconds_until_dead()
            took = _milliseconds_until_reaped(orphan)
    adopter = 0 if row is None else row.parent
    if took is not None:
        return Finding(OK, f"an orphan was reaped {took:.0f} ms after its end, by process {adopter}")
    if adopter == os.getpid():
        return Finding(DEGRADED, "orphans become children of this very process, which does not reap them")
    return Finding(
        DEGRADED, f"process {adopter}, which inherits orphans, had not reaped one {_REAPING:.0f} s after its end"
    )


def _milliseconds_until_reaped(pid: int) -> float | None:
    before = read_row(pid)
    start = time.monotonic()
    while (now := read_row(pid)) is not None and before is not None and now.start == before.start:
        if time.monotonic() > start + _REAPING:
            if now.parent == os.getpid():
                os.waitpid(pid, 0)
            return None
        select.select([], [], [], _LOOK / 1000)
    return (time.monotonic() - start) * 1000


PROBES = [
    Probe(
        "pidfd",
        EVERY_POOL,
        _pidfd,
        COSTS["pidfd"],
        "Linux 5.4; in a container, a seccomp profile that lets pidfd_open and pidfd_send_signal pass: Docker 20.10 or"
        " later, or --security-opt seccomp=unconfined",
        "pidfd",
    ),
    Probe(
        "exit-status",
        EVERY_POOL,
        _exit_status,
        "a program that ignores SIGCHLD, or reaps every child, gets WorkerDiedError with exitcode None",
        "Linux 6.15; or have the program leave SIGCHLD and its children alone",
        "pidfd_info",
    ),
    Probe(
        "group-signal",
        EVERY_POOL,
        _group_signal,
        "where somebody else has reaped a worker, its group cannot be frozen before it is ended: a task that forks all"
        " the time is then caught by listing alone",
        "Linux 6.9; or have the program leave SIGCHLD and its children alone",
        "pidfd_group",
    ),
    Probe(
        "lifeline",
        EVERY_POOL,
        _lifeline,
        COSTS["setsig"],
        "a Linux kernel of its own: emulations such as gVisor (docker run --runtime=runc) and WSL 1 (wsl --set-version"
        " DISTRO 2) may lack F_SETSIG on pipes",
        "setsig",
    ),
    Probe(
        "janitor",
        EVERY_POOL,
        _janitor,
        "when the host is killed, descendants that left their worker's session stay behind",
        "what the row proc wants; and nothing that ends the host's descendants one by one, such as a"
        " wrapper that kills a process tree",
    ),
    Probe(
        "init",
        EVERY_POOL,
        _init,
        "processes that were ended stay as zombies and keep their numbers, until there are none left to start anything",
        "docker run --init, podman run --init, tini or dumb-init as the first process; in Kubernetes"
        " shareProcessNamespace: true",
    ),
]
