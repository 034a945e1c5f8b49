"""However a worker ends, its task's error says how, and the rest goes on."""

from __future__ import annotations

import signal

import pytest

from safepool import WorkerDiedError
from support import census, tasks
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
def test_worker_that_ends_tells_how_and_takes_its_descendants_along(make_pool, meeting, make_gate, end):
    how, arguments, status = ENDS[end]
    pool, gate = make_pool(2), make_gate()
    neighbour = pool.submit(tasks.work_then_wait, meeting.path, "neighbour", gate.path)
    meeting.expect("neighbour")
    victim = pool.submit(acts.leave_then, meeting.path, "victim", how, arguments)
    pids = meeting.pids(labels_of("victim"))

    error = victim.exception(60)

    assert isinstance(error, WorkerDiedError)
    assert (error.pid, error.exitcode) == (pids["victim"], status)
    assert not [seen for seen in census.living() if seen.pid in pids.values()]
    gate.open()
    assert neighbour.result(60) == meeting.expect("neighbour").pid
    assert pool.submit(tasks.square, 7).result(60) == 49


def test_task_that_finds_no_memory_fails_and_its_worker_serves_on(make_pool, meeting, stack):
    pool = make_pool(1)
    task = pool.submit(acts.leave_then, meeting.path, "task", "use_up_the_memory")
    everybody = hold(meeting.pids(labels_of("task")), stack)

    assert isinstance(task.exception(60), MemoryError)

    assert pool.submit(tasks.own_pid).result(60) == everybody["task"].pid
    pool.shutdown()
    none_alive(everybody)
    assert len(everybody) == 1 + len(KINDS)
