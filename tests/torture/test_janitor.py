"""The janitor sweeps after its own host and nobody else's, and is not missed where the kernel does the work."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess

import pytest

from support import census
from support.descendants import KINDS
from support.handles import Handle, gone
from support.scenes import hang_everywhere, hold_janitor, strike

pytestmark = [pytest.mark.torture, pytest.mark.timeout(120)]


def test_without_a_janitor_the_kernel_ends_every_group(make_host, measured):
    host = make_host(max_workers=2)
    canary = host.canary()
    host.open_pool()
    everybody = hang_everywhere(host, "c", leave=("plain", "pipeline"))
    janitor = hold_janitor(host)
    host.stop()  # so that it starts no other

    janitor.send(signal.SIGKILL)
    gone({"janitor": janitor})
    strike(host, "SIGKILL")

    measured("gone_ms", gone(everybody))
    host.leaves_nothing()
    assert canary.alive()


def test_killed_janitor_is_replaced_and_the_new_one_sweeps(make_host):
    host = make_host(max_workers=2)
    canary = host.canary()
    host.open_pool()
    everybody = hang_everywhere(host, "loop")
    for _ in range(3):
        janitor = hold_janitor(host)
        janitor.send(signal.SIGKILL)
        gone({"janitor": janitor})
    hold_janitor(host)

    strike(host, "SIGKILL")

    gone(everybody)
    host.leaves_nothing()
    assert canary.alive()


def test_janitor_is_deaf_to_polite_signals(make_host):
    host = make_host(max_workers=1)
    host.open_pool()
    everybody = hang_everywhere(host, "idle", workers=1)
    janitor = hold_janitor(host)

    for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        janitor.send(signum)
    host.submit("next", "square", 7)
    assert host.outcome("next") == {"value": 49}
    assert janitor.alive()

    strike(host, "SIGKILL")
    gone(everybody)
    host.leaves_nothing()


def test_one_janitor_serves_many_pools_and_leaves_after_the_host(make_host):
    host = make_host(max_workers=1)
    for number in range(3):
        host.open_pool()
        host.submit(f"task{number}", "square", number)
        assert host.outcome(f"task{number}") == {"value": number * number}
    janitor = hold_janitor(host)

    host.tell("return")

    assert host.finish() == 0
    gone({"janitor": janitor})
    host.leaves_nothing()


def test_janitor_touches_nobody_elses_processes(make_host):
    """Another host's pool, and a stranger whose marker is that of a host long gone."""
    dying, living = make_host(max_workers=2), make_host(max_workers=2)
    marker = dying.open_pool()
    assert marker != living.open_pool()
    doomed = hang_everywhere(dying, "loop")
    unharmed = hang_everywhere(living, "loop")
    janitor = hold_janitor(living)

    with stranger(carrying=f"SAFEPOOL_{os.urandom(16).hex()}_1") as bystander:
        strike(dying, "SIGKILL")
        gone(doomed)
        dying.leaves_nothing()
        assert bystander.alive()
    assert all(handle.alive() for handle in unharmed.values())
    assert janitor.alive()

    strike(living, "SIGKILL")
    gone(unharmed)
    living.leaves_nothing()


def test_janitor_sweeps_a_process_that_only_its_marker_gives_away(make_host):
    """A daemon started by a task that is long over: neither parent nor group nor session lead to it."""
    host = make_host(max_workers=1)
    host.open_pool()
    everybody = hang_everywhere(host, "idle", workers=1, leave=("daemon",))
    daemon, worker = everybody["w0.daemon"], everybody["w0"]
    assert census.look_at(daemon.pid).sid != worker.pid

    strike(host, "SIGKILL")

    gone(everybody)
    host.leaves_nothing()


@pytest.mark.parametrize("end", ["worker", "host"])
def test_daemon_that_dropped_the_marker_is_spared_and_nothing_else(make_host, end):
    """The documented way out: a session of its own, no parent in the tree, and the marker dropped."""
    host = make_host(max_workers=1)
    host.open_pool()
    everybody = hang_everywhere(host, "loop", workers=1, leave=(*KINDS, "freed"))
    freed = everybody.pop("w0.freed")
    host.spared.append(freed.pid)

    if end == "worker":
        everybody["w0"].send(signal.SIGKILL)
        assert host.outcome("w0")["error"] == "WorkerDiedError"
        gone(everybody)
    strike(host, "SIGKILL")

    gone(everybody)
    host.leaves_nothing()
    assert freed.alive()


@contextlib.contextmanager
def stranger(carrying):
    with (
        subprocess.Popen(["sleep", "900"], env={**os.environ, carrying: "1"}) as process,
        Handle(process.pid) as handle,
    ):
        try:
            yield handle
        finally:
            handle.send(signal.SIGKILL)
