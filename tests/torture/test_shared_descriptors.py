"""Descriptors that others hold, children that others reap: nothing rests on either."""

from __future__ import annotations

import os
import signal

import pytest

from support import census
from support.descendants import KINDS
from support.eventually import eventually
from support.handles import gone
from support.scenes import hang_everywhere, strike

pytestmark = [pytest.mark.torture, pytest.mark.timeout(180)]

TELLS_EXIT_STATUS = tuple(map(int, os.uname().release.split(".")[:2])) >= (6, 15)  # pidfd, after somebody else reaped


@pytest.mark.parametrize("holding", [False, True], ids=["forked", "holding everything"])
@pytest.mark.parametrize("kind", ["loop", "deaf", "c"])
def test_children_of_the_host_with_copies_of_its_descriptors_save_nobody(make_host, measured, kind, holding):
    """The write ends of all lifelines live on in a helper that the host forked; it is the host's own and stays."""
    host = make_host(max_workers=2)
    host.open_pool()
    everybody = hang_everywhere(host, kind)
    host.tell("fork", label="helper", holding=holding)
    name = "helper.keeper_exec" if holding else "helper"
    helper = host.hold_reported([name])[name]
    host.spared.append(helper.pid)
    assert len(census.open_files(helper.pid)) > 5

    strike(host, "SIGKILL")

    measured("gone_ms", gone(everybody))
    assert helper.alive()
    # The standard library's resource tracker rightly waits for the last one who holds its pipe.
    helper.send(signal.SIGKILL)
    host.leaves_nothing()


@pytest.mark.parametrize("kind", ["idle", "loop", "deaf", "c"])
def test_host_whose_children_are_killed_before_it_leaves_nothing(make_host, measured, kind):
    """Ray's way: SIGCHLD ignored, every direct child of the worker process SIGKILLed, then the process itself."""
    host = make_host(max_workers=2)
    host.tell("ignore_children")
    host.open_pool()
    everybody = hang_everywhere(host, kind)
    host.stop()  # it gets no chance to notice
    children = census.children_of(host.process.pid)
    assert {handle.pid for name, handle in everybody.items() if "." not in name} <= {seen.pid for seen in children}

    for name, handle in host.hold({str(seen): seen.pid for seen in children}).items():
        handle.send(signal.SIGKILL)
        gone({name: handle})
    strike(host, "SIGKILL")

    measured("gone_ms", gone(everybody))
    host.leaves_nothing()


@pytest.mark.parametrize("reaping", ["ignore_children", "reap_everything", "reap_in_a_handler"])
@pytest.mark.parametrize(("how", "status"), [("exit", 3), ("kill", -signal.SIGKILL), ("segfault", -signal.SIGSEGV)])
def test_exit_status_is_true_whoever_reaps(make_host, reaping, how, status):
    host = make_host(max_workers=1)
    gate = host.gate("gate")
    host.tell(reaping)
    host.open_pool()
    for label in ("first", "second"):
        host.submit(label, "work_then_die", host.rendezvous.path, label, gate.path, how, list(KINDS))
        everybody = host.hold_reported([label, *(f"{label}.{kind}" for kind in KINDS)])
        gate.open(1)
        outcome = host.outcome(label)
        assert outcome["error"] == "WorkerDiedError"
        assert outcome["pid"] == everybody[label].pid
        assert outcome["exitcode"] == status or (outcome["exitcode"] is None and not TELLS_EXIT_STATUS)
        gone(everybody)
    host.submit("next", "square", 7)
    assert host.outcome("next") == {"value": 49}
    host.tell("shutdown")
    host.rendezvous.expect("shutdown")


@pytest.mark.parametrize("reaping", ["ignore_children", "reap_everything", "reap_in_a_handler"])
def test_deadlines_hold_whoever_reaps(make_host, reaping):
    host = make_host(max_workers=2)
    host.tell(reaping)
    host.open_pool()
    everybody = hang_everywhere(host, "deaf", timeout=4.0)
    for name in ("w0", "w1"):
        assert host.outcome(name)["error"] == "TaskTimeoutError"
    gone(everybody)
    host.submit("next", "square", 7)
    assert host.outcome("next") == {"value": 49}
    host.tell("return")
    assert host.finish() == 0
    host.leaves_nothing()


@pytest.mark.parametrize("host_lives", [True, False])
def test_worker_that_closed_every_descriptor_is_not_lost(make_host, host_lives):
    """It has closed its lifeline and its channel: then the host ends it, or whoever comes after the host."""
    host = make_host(max_workers=2)
    gate = host.gate("gate")
    canary = host.canary()
    host.open_pool()
    host.submit("closing", "close_everything", host.rendezvous.path, "closing", gate.path)
    worker = host.hold_reported(["closing"])
    if not host_lives:
        host.stop()

    gate.open()

    if host_lives:
        assert host.outcome("closing")["error"] == "WorkerDiedError"
        host.submit("next", "square", 7)
        assert host.outcome("next") == {"value": 49}
    else:
        eventually(lambda: not set(census.open_files(worker["closing"].pid)) - {0, 1, 2})
        strike(host, "SIGKILL")
        host.leaves_nothing()
        assert canary.alive()
    gone(worker)
