"""The host dies, however it dies, whatever its workers are doing: nothing that a task started is left."""

from __future__ import annotations

import random
import time

import pytest

from support.descendants import KINDS
from support.handles import gone
from support.scenes import STATUS, hang_everywhere, host_dies, strike
from support.tasks import HANGS

pytestmark = [pytest.mark.torture, pytest.mark.timeout(180)]


@pytest.mark.parametrize("kind", HANGS)
def test_sigkilled_host_takes_everything_along_whatever_its_workers_do(make_host, measured, kind):
    measured("gone_ms", host_dies(make_host(max_workers=2), kind, "SIGKILL"))


@pytest.mark.parametrize("death", ["SIGTERM", "SIGHUP", "segfault", "abort", "exit", "exec"])
def test_host_that_dies_takes_everything_along(make_host, measured, death):
    measured("gone_ms", host_dies(make_host(max_workers=2), "loop", death))


@pytest.mark.parametrize(("kind", "timeout"), [("idle", None), ("loop", 4.0), ("deaf", 4.0)])
def test_host_that_fails_ends_with_its_exception_and_leaves_nothing(make_host, kind, timeout):
    """As with the standard library, the interpreter waits for running tasks at its exit; here, to their deadline."""
    host = make_host(max_workers=2)
    canary = host.canary()
    host.open_pool()
    everybody = hang_everywhere(host, kind, timeout=timeout)

    strike(host, "raise")

    assert host.finish() == 1
    gone(everybody)
    host.leaves_nothing()
    assert canary.alive()
    assert host.stderr.count("Traceback") == 1, host.stderr
    assert "nobody handles this" in host.stderr


@pytest.mark.parametrize("seed", range(8))
def test_host_sigkilled_at_any_moment_leaves_nothing(make_host, measured, seed):
    """Between fork and exec, before a worker is armed, while the janitor starts, while tasks spawn: any moment."""
    moment = random.Random(seed)
    for _ in range(5):
        host = make_host(max_workers=2)
        canary = host.canary()
        host.tell("pool")
        for name in ("w0", "w1", "w2"):
            host.submit(name, "work_then_hang", host.rendezvous.path, name, "loop", list(KINDS))
        delay = moment.uniform(0, 0.3)
        time.sleep(delay)  # the moment is the experiment; nothing waits for it

        assert host.process.poll() is None
        strike(host, "SIGKILL")

        assert host.finish() == STATUS["SIGKILL"]
        start = time.monotonic()
        host.leaves_nothing()
        measured(f"gone_after_{delay * 1000:.0f}_ms", round((time.monotonic() - start) * 1000, 1))
        assert canary.alive()
        host.close()
