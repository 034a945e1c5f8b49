"""Descendants that multiply, or that are gone before they are found: judged by their own count, not by a list."""

from __future__ import annotations

import contextlib
import mmap
import signal
import struct
import threading
import time

import pytest

from safepool import ContainmentError, SafeProcessPoolExecutor
from support import census
from support.descendants import MOST_GENERATIONS, SWARM
from support.eventually import eventually
from support.handles import gone
from support.proofs import count_in, new_counter
from support.scenes import labels_of, strike

pytestmark = [pytest.mark.torture, pytest.mark.timeout(120)]

LIFETIMES = (0.002, 0.01, 0.05)  # seconds that a generation lives
FLEETING = 3  # chains of which each link lives for as long as a fork takes: half a millisecond on an idle machine
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


@pytest.fixture
def fleeting(tmp_path):
    """What each of the chains counts in, and is told to stop by; what got away stops when the test is over."""
    with contextlib.ExitStack() as stack:
        chains = []
        for number in range(FLEETING):
            path = tmp_path / f"fleeting-{number}"
            path.write_bytes(bytes(16))
            file = stack.enter_context(open(path, "r+b"))
            chains.append((str(path), stack.enter_context(mmap.mmap(file.fileno(), 16))))
        stack.callback(lambda: [stop(memory) for _, memory in chains])
        yield dict(chains)


def stop(memory):
    memory[8] = 1


def generations(fleeting):
    return [struct.unpack("q", memory[:8])[0] for memory in fleeting.values()]


def start_fleeting(host, fleeting, end, before=()):
    """Have a task start the chains, by this command, and others; prove that every chain goes on."""
    arguments = (host.rendezvous.path, "task", list(fleeting), list(before))
    host.submit("task", "torture.acts:start_fleeting", *arguments, timeout=6.0 if end == "deadline" else None)
    everybody = host.hold_reported(labels_of("task"))
    eventually(lambda: min(generations(fleeting)) > 100)
    return everybody


def lives(fleeting):
    """For how many milliseconds each link lives, on the average of a moment."""
    before, start = sum(generations(fleeting)), time.monotonic()
    threading.Event().wait(0.2)  # what is measured
    return round((time.monotonic() - start) * 1000 * FLEETING / (sum(generations(fleeting)) - before), 2)


def end_task(host, everybody, end):
    """End the task in this way; return what became of it."""
    if end == "death":
        everybody["task"].send(signal.SIGKILL)
    elif end == "host death":
        strike(host, "SIGKILL")
        return
    error = host.outcome("task")["error"]
    assert error == ("TaskTimeoutError" if end == "deadline" else "WorkerDiedError")


ENDS = pytest.mark.parametrize("end", ["deadline", "death", "host death"])


@ENDS
def test_links_that_leave_at_once_hold_up_nothing_and_harm_nobody(make_host, measured, fleeting, end):
    """Some chains may get away, as is documented; everybody else is ended, and the end comes."""
    host = make_host(max_workers=2, reaped=True)
    canary, gate = host.canary(), host.gate("gate")
    marker = host.open_pool()
    host.submit("neighbour", "work_then_wait", host.rendezvous.path, "neighbour", gate.path)
    neighbour = host.hold_reported(["neighbour"])["neighbour"]
    everybody = start_fleeting(host, fleeting, end)
    measured("life_ms", lives(fleeting))

    end_task(host, everybody, end)

    gone(everybody)
    if end != "host death":
        assert neighbour.alive()
        gate.open()
        assert host.outcome("neighbour") == {"value": neighbour.pid}
        host.submit("next", "square", 7)
        assert host.outcome("next") == {"value": 49}
    before = generations(fleeting)
    threading.Event().wait(STILL_FOR)  # that nothing happens is announced by nobody
    away = [count for count, then in zip(generations(fleeting), before, strict=True) if count > then]
    measured("chains_that_got_away", f"{len(away)} of {FLEETING}")
    strangers = [seen for seen in census.carrying(marker) if "os.setsid()" not in seen.command and seen.command]
    assert end != "host death" or not strangers, "only links of the chains may be left"
    assert canary.alive()
    for memory in fleeting.values():
        stop(memory)
    if end != "host death":
        host.tell("return")
    host.leaves_nothing()


@ENDS
def test_links_that_leave_at_once_do_not_outrun_strict_containment(make_host, fleeting, end):
    """Without an environment, and with a parent that is gone, nothing but the control group tells whose they are."""
    try:
        SafeProcessPoolExecutor(1, containment="strict").shutdown()
    except ContainmentError as error:
        pytest.skip(str(error))
    host = make_host(max_workers=1, reaped=True, containment="strict")
    canary = host.canary()
    host.open_pool()
    everybody = start_fleeting(host, fleeting, end, before=["env", "-i"])

    end_task(host, everybody, end)

    gone(everybody)
    if end == "host death":
        host.leaves_nothing()
    before = generations(fleeting)
    threading.Event().wait(STILL_FOR)  # that nothing happens is announced by nobody
    assert generations(fleeting) == before
    assert canary.alive()
