"""Descendants that multiply, or that are gone before they are found: judged by their own count, not by a list."""

from __future__ import annotations

import signal
import threading

import pytest

from support import census
from support.descendants import MOST_GENERATIONS, SWARM
from support.eventually import eventually
from support.proofs import count_in, new_counter
from support.scenes import strike

pytestmark = [pytest.mark.torture, pytest.mark.timeout(120)]

LIFETIMES = (0.002, 0.01, 0.05)  # seconds that a generation lives
STILL_FOR = 0.5  # seconds in which every chain would have gone on several times


@pytest.mark.parametrize("attempt", range(3))
@pytest.mark.parametrize("end", ["deadline", "death", "host death"])
def test_descendants_do_not_outrun_their_end(make_host, tmp_path, end, attempt):
    host = make_host(max_workers=1, reaped=True)
    canary = host.canary()
    marker = host.open_pool()
    counters = [new_counter(tmp_path, f"chain-{number}") for number in range(len(LIFETIMES))]
    arguments = (host.rendezvous.path, "task", counters, LIFETIMES)
    host.submit("task", "outrun", *arguments, timeout=8.0 if end == "deadline" else None)
    worker = host.hold_reported(["task"])["task"]
    prove_running(counters, marker)

    if end == "death":
        worker.send(signal.SIGKILL)
    elif end == "host death":
        strike(host, "SIGKILL")

    if end == "host death":
        host.leaves_nothing()
    else:
        error = host.outcome("task")["error"]
        assert error == ("TaskTimeoutError" if end == "deadline" else "WorkerDiedError")
        assert not census.carrying(marker), "the future was settled before everybody was gone"
        host.submit("next", "square", 7)
        assert host.outcome("next") == {"value": 49}
    prove_caught(counters)
    assert canary.alive()


def prove_running(counters, marker):
    """Every chain goes on, and the whole swarm is there."""
    eventually(lambda: len([seen for seen in census.carrying(marker) if "os.fork()" in seen.command]) >= SWARM)
    before = [count_in(counter) for counter in counters]
    for counter, count in zip(counters, before, strict=True):
        eventually(lambda counter=counter, count=count: count_in(counter) > count + 2, within=30)


def prove_caught(counters):
    """No chain goes on, and none has come to its end by itself."""
    before = [count_in(counter) for counter in counters]
    threading.Event().wait(STILL_FOR)  # that nothing happens is announced by nobody
    assert [count_in(counter) for counter in counters] == before
    assert max(before) < MOST_GENERATIONS - 1
