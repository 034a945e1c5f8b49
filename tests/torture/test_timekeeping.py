"""A deadline is a deadline, whatever the user's code does in the host, and however long the host was stopped."""

from __future__ import annotations

import logging
import signal
import threading
import time

import pytest

from safepool import TaskTimeoutError, TransferError
from support import tasks
from support.handles import gone, hold
from support.rendezvous import pass_gate

pytestmark = [pytest.mark.torture, pytest.mark.timeout(180)]

LIMIT = 2.0  # seconds; all of this has to leave a busy machine time to get there first
CALLBACK_TAKES = 8.0
LIMIT_WHEN_STOPPED = 6.0
STOPPED_FOR = 8.0
LATER_LIMIT = 14.0


@pytest.fixture
def pool(make_pool):
    return make_pool(2)


def hang(pool, meeting, stack):
    hung = pool.submit(tasks.work_then_hang, meeting.path, "hung", "deaf", task_timeout=LIMIT)
    return hung, hold(meeting.pids(["hung"]), stack)


def call_back(pool, gate, callback):
    """Have the pool, not this thread, run the callback: the task ends only after it has been added."""
    pool.submit(pass_gate, gate.path).add_done_callback(callback)
    gate.open(1)


def test_callback_that_blocks_does_not_postpone_a_deadline(pool, meeting, make_gate, stack):
    blocking, release = threading.Event(), threading.Event()

    def block(_):
        blocking.set()
        release.wait(60)

    try:
        call_back(pool, make_gate(), block)
        assert blocking.wait(60)
        hung, worker = hang(pool, meeting, stack)
        gone(worker)
    finally:
        release.set()
    assert isinstance(hung.exception(60), TaskTimeoutError)


def test_callback_that_sleeps_does_not_postpone_a_deadline(pool, meeting, make_gate, stack):
    slept = threading.Event()

    def sleep(_):
        time.sleep(CALLBACK_TAKES)
        slept.set()

    hung, worker = hang(pool, meeting, stack)
    call_back(pool, make_gate(), sleep)
    gone(worker)
    assert not slept.is_set(), "the deadline waited for the callback"
    assert isinstance(hung.exception(60), TaskTimeoutError)
    assert slept.wait(60)


def test_callback_that_raises_harms_nobody(pool, meeting, stack, caplog):
    with caplog.at_level(logging.CRITICAL, logger="concurrent.futures"):
        for number in range(5):
            future = pool.submit(tasks.square, number)
            future.add_done_callback(raise_lookup_error)
            assert future.result(60) == number * number
    hung, worker = hang(pool, meeting, stack)
    assert isinstance(hung.exception(60), TaskTimeoutError)
    gone(worker)


def raise_lookup_error(_):
    raise LookupError("a callback's own fault")


def test_result_that_is_slow_to_unpickle_does_not_postpone_a_deadline(pool, meeting, stack):
    tasks.allowed.clear()
    tasks.rebuilding.clear()
    try:
        slow = pool.submit(tasks.make_slow)
        assert tasks.rebuilding.wait(60)
        hung, worker = hang(pool, meeting, stack)
        gone(worker)
        assert not slow.done()
    finally:
        tasks.allowed.set()
    assert slow.result(60) == "rebuilt"
    assert isinstance(hung.exception(60), TaskTimeoutError)


def test_result_that_cannot_be_unpickled_does_not_postpone_a_deadline(pool, meeting, stack):
    hung, worker = hang(pool, meeting, stack)
    assert isinstance(pool.submit(tasks.make_unreadable, 1).exception(60), TransferError)
    gone(worker)
    assert isinstance(hung.exception(60), TaskTimeoutError)
    assert pool.submit(tasks.square, 7).result(60) == 49


def test_stopped_host_expires_nobody_who_had_no_chance(make_host, measured):
    """Ctrl-Z beyond everybody's limit: who finishes meanwhile or right after is not cut short."""
    host = make_host(max_workers=3)
    during, after = host.gate("during"), host.gate("after")
    host.open_pool()
    host.submit("during", "work_then_wait", host.rendezvous.path, "during", during.path, timeout=LIMIT_WHEN_STOPPED)
    host.submit("after", "work_then_wait", host.rendezvous.path, "after", after.path, timeout=LIMIT_WHEN_STOPPED)
    host.submit("hung", "work_then_hang", host.rendezvous.path, "hung", "deaf", timeout=LIMIT_WHEN_STOPPED)
    workers = host.hold_reported(["during", "after", "hung"])

    host.stop()
    start = time.monotonic()
    during.open()
    time.sleep(STOPPED_FOR)  # being stopped that long is the fault
    assert all(worker.alive() for worker in workers.values())
    host.resume()

    assert host.outcome("during") == {"value": workers["during"].pid}
    after.open()  # only now, when the host has long looked at its deadlines
    assert host.outcome("after") == {"value": workers["after"].pid}
    outcome = host.outcome("hung")
    measured("late_s", time.monotonic() - start - STOPPED_FOR)
    assert (outcome["error"], outcome["timeout"]) == ("TaskTimeoutError", LIMIT_WHEN_STOPPED)
    assert outcome["elapsed"] >= STOPPED_FOR
    gone({"hung": workers["hung"]})


def test_stop_of_the_host_makes_no_later_deadline_late(make_host, measured):
    """One deadline passes during the stop, another comes after it; the second has nothing to do with the stop."""
    host = make_host(max_workers=2)
    host.open_pool()
    host.submit("early", "work_then_hang", host.rendezvous.path, "early", "deaf", timeout=1.0)
    host.submit("late", "work_then_hang", host.rendezvous.path, "late", "deaf", timeout=LATER_LIMIT)
    workers = host.hold_reported(["early", "late"])

    host.stop()
    time.sleep(STOPPED_FOR)  # being stopped that long is the fault
    assert workers["early"].alive()
    host.resume()

    outcome = host.outcome("late")
    measured("late_s", outcome["elapsed"] - LATER_LIMIT)
    assert outcome["error"] == "TaskTimeoutError"
    # Moved by the stop it would come 7 s late; nearer to 0 than to that.
    assert LATER_LIMIT <= outcome["elapsed"] < LATER_LIMIT + (STOPPED_FOR - 1.0) / 2
    assert host.outcome("early")["error"] == "TaskTimeoutError"
    gone(workers)


def test_task_that_was_stopped_with_its_host_is_given_its_time(make_host):
    """As in a container that is paused: nobody runs, and the clock goes on past the deadline."""
    host = make_host(max_workers=1)
    gate = host.gate("gate")
    host.open_pool()
    host.submit("task", "work_then_wait", host.rendezvous.path, "task", gate.path, timeout=LIMIT_WHEN_STOPPED)
    worker = host.hold_reported(["task"])["task"]

    host.stop()
    worker.send(signal.SIGSTOP)
    time.sleep(STOPPED_FOR)  # being stopped that long is the fault
    worker.send(signal.SIGCONT)
    host.resume()
    time.sleep(1.0)  # the host looks at its deadlines within milliseconds; the task must outlive that
    assert worker.alive()
    gate.open()

    assert host.outcome("task") == {"value": worker.pid}
