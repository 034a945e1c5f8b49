"""Somebody whom not even SIGKILL ends, as in a driver that waits: he is given up, told of, and holds up nobody else.

A process that is frozen by a control group of version 1 is just that: it dies when it is thawed, and not before. (One
of version 2 lets SIGKILL through, which strict containment rests on.)
"""

from __future__ import annotations

import secrets
import signal
from pathlib import Path

import pytest

from support import census
from support.eventually import eventually
from support.handles import gone
from support.scenes import hold_janitor, labels_of, strike

pytestmark = [pytest.mark.torture, pytest.mark.timeout(120)]

FREEZER = Path("/sys/fs/cgroup/freezer")
LEFT = ("plain", "setsid")


@pytest.fixture
def freezer():
    """A control group of version 1 that freezes; thawed and removed when the test is over."""
    path = FREEZER / f"under_test_{secrets.token_hex(8)}"
    try:
        path.mkdir()
        (path / "freezer.state").write_text("THAWED")
    except OSError as error:
        pytest.skip(f"no control group of version 1 can freeze here: {error}")
    yield path
    (path / "freezer.state").write_text("THAWED")
    eventually(lambda: not (path / "cgroup.procs").read_text())
    path.rmdir()


def hang_with_frozen(host, freezer, timeout=None):
    """Have a task start somebody who is frozen, and others; hold everybody, the frozen one by himself."""
    arguments = (host.rendezvous.path, "task", str(freezer))
    host.submit("task", "torture.acts:hold_still", *arguments, timeout=timeout)
    frozen = int(host.rendezvous.expect("task.frozen").detail)
    everybody = host.hold_reported(labels_of("task", LEFT))
    eventually(lambda: (freezer / "freezer.state").read_text() == "FROZEN\n")
    return everybody, host.hold({"frozen": frozen})["frozen"]


@pytest.mark.parametrize("end", ["deadline", "death"])
def test_process_that_not_even_sigkill_ends_is_given_up_and_told_of(make_host, freezer, end):
    host = make_host(max_workers=1)
    canary = host.canary()
    host.open_pool()
    everybody, frozen = hang_with_frozen(host, freezer, 5.0 if end == "deadline" else None)
    if end == "death":
        everybody["task"].send(signal.SIGKILL)

    outcome = host.outcome("task")

    assert outcome["error"] == ("TaskTimeoutError" if end == "deadline" else "WorkerDiedError")
    gone(everybody)
    assert frozen.alive()
    assert f"would not die: [{frozen.pid}]" in host.stderr
    host.submit("next", "square", 7)
    assert host.outcome("next") == {"value": 49}
    (freezer / "freezer.state").write_text("THAWED")
    gone({"frozen": frozen})  # the signal has been waiting for it
    assert canary.alive()
    host.tell("return")
    assert host.finish() == 0
    host.leaves_nothing()


def test_host_that_dies_takes_everybody_else_along_and_its_janitor_leaves(make_host, freezer):
    host = make_host(max_workers=1)
    canary = host.canary()
    host.open_pool()
    everybody, frozen = hang_with_frozen(host, freezer)
    janitor = hold_janitor(host)

    strike(host, "SIGKILL")

    gone(everybody)
    assert frozen.alive()
    gone({"janitor": janitor})
    assert [seen.pid for seen in census.carrying(host.mark) if seen.pid != canary.pid] == [frozen.pid]
    (freezer / "freezer.state").write_text("THAWED")
    gone({"frozen": frozen})
    assert canary.alive()
    host.leaves_nothing()
