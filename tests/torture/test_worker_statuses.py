"""However a worker ends, its task's error says how, and the rest goes on."""

from __future__ import annotations

import signal

import pytest

from safepool import WorkerDiedError
from support import tasks
from support.descendants import KINDS
from support.handles import hold, none_alive
from support.scenes import labels_of
from torture import acts

pytestmark = [pytest.mark.torture, pytest.mark.timeout(120)]

ENDS = {
    "exit 0": ("exit_with", (0,), 0),
    "exit 255": ("exit_with", (255,), 255),
    "stack overflow": ("overflow_the_stack", (), -signal.SIGSEGV),
    "processor time": ("use_up_the_processor", (), -signal.SIGXCPU),
    "realtime signal": ("take_a_realtime_signal", (), -(signal.SIGRTMIN + 3)),
}


@pytest.mark.parametrize("end", ENDS)
def test_worker_that_ends_tells_how_and_takes_its_descendants_along(make_pool, meeting, make_gate, stack, end):
    how, arguments, status = ENDS[end]
    pool, neighbours_gate, gate = make_pool(2), make_gate(), make_gate()
    neighbour = pool.submit(tasks.work_then_wait, meeting.path, "neighbour", neighbours_gate.path)
    meeting.expect("neighbour")
    victim = pool.submit(acts.leave_then, meeting.path, "victim", gate.path, how, arguments)
    everybody = hold(meeting.pids(labels_of("victim")), stack)

    gate.open()

    error = victim.exception(60)

    assert isinstance(error, WorkerDiedError)
    assert (error.pid, error.exitcode) == (everybody["victim"].pid, status)
    none_alive(everybody)
    neighbours_gate.open()
    assert neighbour.result(60) == meeting.expect("neighbour").pid
    assert pool.submit(tasks.square, 7).result(60) == 49


def test_task_that_finds_no_memory_fails_and_its_worker_serves_on(make_pool, meeting, make_gate, stack):
    pool, gate = make_pool(1), make_gate()
    task = pool.submit(acts.leave_then, meeting.path, "task", gate.path, "use_up_the_memory")
    everybody = hold(meeting.pids(labels_of("task")), stack)
    gate.open()

    assert isinstance(task.exception(60), MemoryError)

    assert pool.submit(tasks.own_pid).result(60) == everybody["task"].pid
    pool.shutdown()
    none_alive(everybody)
    assert len(everybody) == 1 + len(KINDS)
