"""Pools in the workers of pools, every bottom worker holding the GIL: each level goes with the one above."""

from __future__ import annotations

import signal

import pytest

from support.handles import gone
from support.scenes import labels_of, strike

pytestmark = [pytest.mark.torture, pytest.mark.timeout(120)]

LEAVE = ("setsid", "daemon")
# The task of the host's pool, the two below it, the four below those.
TASKS = ["w", "w0", "w1", "w00", "w01", "w10", "w11"]


def nest(host, timeout=None):
    host.open_pool()
    host.submit("w", "nest", host.rendezvous.path, "w", 2, list(LEAVE), timeout=timeout)
    return host.hold_reported(label for name in TASKS for label in labels_of(name, LEAVE))


def test_every_level_dies_with_the_host(make_host, measured):
    host = make_host(max_workers=1)
    canary = host.canary()
    everybody = nest(host)

    strike(host, "SIGKILL")

    measured("gone_ms", max(gone(everybody).values()))
    host.leaves_nothing()
    assert canary.alive()


@pytest.mark.parametrize("end", ["killed", "deadline"])
def test_every_level_dies_with_the_outermost_worker(make_host, end):
    host = make_host(max_workers=1)
    everybody = nest(host, timeout=20.0 if end == "deadline" else None)

    if end == "killed":
        everybody["w"].send(signal.SIGKILL)

    assert host.outcome("w")["error"] == ("WorkerDiedError" if end == "killed" else "TaskTimeoutError")
    gone(everybody)
    host.submit("next", "square", 7)
    assert host.outcome("next") == {"value": 49}
    host.tell("return")
    assert host.finish() == 0
    host.leaves_nothing()


def test_inner_worker_takes_its_levels_along_and_no_others(make_host):
    host = make_host(max_workers=1)
    everybody = nest(host)
    below = {name: handle for name, handle in everybody.items() if name.startswith("w1")}
    others = {name: handle for name, handle in everybody.items() if name not in below}

    below["w1"].send(signal.SIGKILL)

    gone(below)
    assert all(handle.alive() for handle in others.values())
    strike(host, "SIGKILL")
    gone(others)
    host.leaves_nothing()
