"""Threads of the host come and go; its workers stay."""

from __future__ import annotations

import threading

import pytest

from support import tasks
from support.handles import hold

pytestmark = pytest.mark.timeout(60)


def in_a_thread(call, *args):
    """Run in a thread that is gone afterwards."""
    answers = []
    thread = threading.Thread(target=lambda: answers.append(call(*args)))
    thread.start()
    thread.join()
    return answers[0]


def test_workers_outlive_the_threads_that_made_and_used_the_pool(make_pool, meeting, make_gate, stack):
    """A worker bound to the thread that started it (as the parent death signal is) would go with that thread."""
    gate = make_gate()
    pool = in_a_thread(make_pool, 2)
    running = in_a_thread(pool.submit, tasks.work_then_wait, meeting.path, "w0", gate.path, ("plain",))
    everybody = hold(meeting.pids(["w0", "w0.plain"]), stack)
    assert in_a_thread(pool.submit, tasks.square, 7).result(60) == 49

    gate.open()

    assert running.result(60) == everybody["w0"].pid
    assert all(handle.alive() for handle in everybody.values())
