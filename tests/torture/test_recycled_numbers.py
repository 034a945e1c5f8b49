"""The number of a dead worker belongs to a stranger now: nothing that ends trees touches it.

As long as nobody reaps a worker, its number is pinned. With SIGCHLD ignored the kernel reaps, at once, also while the
host is stopped: then the number can be had by asking for it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from support import census
from support.eventually import eventually
from support.handles import Handle, gone
from support.scenes import hang_everywhere, strike

LAST_NUMBER = Path("/proc/sys/kernel/ns_last_pid")

pytestmark = [
    pytest.mark.torture,
    pytest.mark.timeout(180),
    pytest.mark.skipif(not os.access(LAST_NUMBER, os.W_OK), reason="chooses the number of a process, which needs root"),
]

ELSEWHERE = ("setsid", "daemon")  # in sessions of their own: whoever stays in the worker's pins its number
# Once told to, leads a session and a group under its number, with another member.
_IMPOSTOR = """
import os, sys
sys.stdin.readline()
os.setsid()
if os.fork() == 0:
    os.execvp("sleep", ["sleep", "900"])
os.execvp("sleep", ["sleep", "900"])
"""


def take_number(number, stack):
    """Start processes until one is given this number; it leads a session, a group, and a child."""
    for _ in range(2000):
        LAST_NUMBER.write_text(str(number - 1))
        process = subprocess.Popen([sys.executable, "-I", "-S", "-c", _IMPOSTOR], stdin=subprocess.PIPE)
        if process.pid == number:
            stack.callback(end, process)
            process.stdin.write(b"\n")
            process.stdin.close()
            return process
        process.kill()
        process.wait()
        process.stdin.close()
    raise AssertionError(f"somebody else was always faster than us to get the number {number}")


def end(process):
    for member in census.in_session(process.pid):
        with Handle(member.pid) as handle:
            handle.send(signal.SIGKILL)
    process.wait()


@pytest.mark.parametrize("end_of", ["worker", "pool", "host"])
def test_stranger_with_the_number_of_a_dead_worker_survives_every_end(make_host, stack, end_of):
    host = make_host(max_workers=1)
    host.tell("ignore_children")
    canary = host.canary()
    host.open_pool()
    everybody = hang_everywhere(host, "loop", workers=1, leave=ELSEWHERE)
    number = everybody["w0"].pid
    host.stop()  # it must not notice before the number has changed hands
    everybody["w0"].send(signal.SIGKILL)
    gone({"w0": everybody["w0"]})
    assert not census.in_session(number)
    impostor = take_number(number, stack)
    eventually(lambda: len(census.in_session(number)) == 2)
    members = [stack.enter_context(Handle(seen.pid)) for seen in census.in_session(number)]
    assert number in [member.pid for member in members]

    if end_of == "host":
        strike(host, "SIGKILL")
    else:
        if end_of == "pool":
            host.tell("shutdown", kill=True)
        host.resume()
        assert host.outcome("w0")["error"] in ("WorkerDiedError", "TaskKilledError")

    gone(everybody)
    if end_of == "worker":
        host.submit("next", "square", 7)
        assert host.outcome("next") == {"value": 49}
        host.tell("return")
        host.finish()
    elif end_of == "pool":
        host.rendezvous.expect("shutdown")
        host.tell("return")
        host.finish()
    host.leaves_nothing()
    assert all(member.alive() for member in members)
    assert impostor.poll() is None
    assert canary.alive()
