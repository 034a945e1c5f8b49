"""Workers that nobody seems to hold up, and that would stay for ever: stopped by a terminal, or on their way out."""

from __future__ import annotations

import errno

import pytest

from safepool import TaskTimeoutError
from support import census, tasks
from support.eventually import eventually
from support.handles import gone, hold, none_alive
from torture import acts

pytestmark = [pytest.mark.torture, pytest.mark.timeout(120)]

LIMIT = 5.0  # seconds; enough to get there first


def test_task_that_asks_for_the_terminal_of_its_host_is_refused_and_does_not_hang(make_program, terminal):
    """In the host's session it would be in the background, and be stopped by SIGTTIN without a word."""
    program = make_program()
    program.run_text(
        """
        import sys
        from safepool import SafeProcessPoolExecutor
        from support.rendezvous import report
        from torture import acts

        if __name__ == "__main__":
            reports = sys.argv[1]
            with open("/dev/tty"):
                report(reports, "host")
            with SafeProcessPoolExecutor(1, task_timeout=30) as pool:
                error = pool.submit(acts.open_terminal, reports, "task").exception()
                report(reports, "error", str(getattr(error, "errno", error)))
        """,
        terminal=terminal["theirs"],
    )
    program.rendezvous.expect("host")
    program.rendezvous.expect("task")

    assert int(program.rendezvous.expect("error").detail) == errno.ENXIO
    assert program.finish() == 0, program.stderr
    program.leaves_nothing()


def test_child_that_its_terminal_has_stopped_goes_with_the_task_that_waits_for_it(make_pool, meeting, stack):
    pool = make_pool(1)
    task = pool.submit(acts.wait_for_a_child_that_reads_the_terminal, meeting.path, "task", task_timeout=LIMIT)
    everybody = hold(meeting.pids(["task", "task.reader"]), stack)
    reader = everybody["task.reader"]
    eventually(lambda: census.look_at(reader.pid).state == "T", within=LIMIT)
    assert census.look_at(reader.pid).terminal != 0

    error = task.exception(60)

    assert isinstance(error, TaskTimeoutError)
    none_alive(everybody)
    assert reader.pid in {process.pid for process in error.ended}
    assert "wait_for_a_child_that_reads_the_terminal" in error.stack
    assert pool.submit(tasks.square, 7).result(60) == 49


def test_exit_handlers_run_to_their_end_before_anything_is_swept(make_pool, tmp_path):
    pool, path = make_pool(1, exit_timeout=30), tmp_path / "word"
    assert pool.submit(acts.leave_a_last_word, str(path), 0.5).result(60) is None
    assert not path.exists()

    pool.shutdown()

    assert path.read_text() == "the end"


@pytest.mark.parametrize("end", ["shutdown", "worn"])
def test_worker_that_cannot_leave_for_a_thread_of_its_own_is_ended(make_pool, meeting, stack, end):
    pool = make_pool(1, exit_timeout=1.0, max_tasks_per_child=1 if end == "worn" else None)
    task = pool.submit(acts.stay_when_all_is_over, meeting.path, "task")
    worker = hold(meeting.pids(["task"]), stack)
    assert task.result(60) is None
    if end == "shutdown":
        assert worker["task"].alive()
        pool.shutdown()
        none_alive(worker)
    else:
        assert pool.submit(tasks.square, 7).result(60) == 49
        gone(worker)
