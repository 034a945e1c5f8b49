"""How programs end: Ctrl-C at a terminal, a closed terminal, no shutdown at all, a fork; nothing is left.

These hosts are scripts as people write them.
"""

from __future__ import annotations

import os
import signal

import pytest

from support import census
from support.handles import gone
from support.programs import IN_A_MAP, IN_A_WITH_BLOCK, WITHOUT_A_BLOCK, waiting_program
from support.scenes import labels_of

pytestmark = [pytest.mark.torture, pytest.mark.timeout(120)]


@pytest.mark.parametrize("body", [IN_A_WITH_BLOCK, IN_A_MAP, WITHOUT_A_BLOCK], ids=["with", "map", "bare"])
def test_ctrl_c_ends_the_program_and_only_the_host_hears_of_it(make_program, terminal, body):
    program = make_program()
    gate = program.gate("gate")
    program.run_text(waiting_program(body), gate.path, terminal=terminal["theirs"])
    workers = program.hold_reported(["w0", "w1"])
    for worker in workers.values():
        seen = census.look_at(worker.pid)
        assert (seen.terminal, seen.sid == program.process.pid) == (0, False)
    assert census.look_at(program.process.pid).terminal != 0

    os.write(terminal["ours"], b"\x03")

    assert program.finish() == -signal.SIGINT
    gone(workers)
    program.leaves_nothing()
    assert "KeyboardInterrupt" in program.stderr
    assert program.stderr.count("Traceback") == 1, program.stderr
    assert not [report for report in program.rendezvous.reports if report.label.endswith(".sigint")]


def test_closed_terminal_ends_everything(make_program, terminal):
    program = make_program()
    gate = program.gate("gate")
    program.run_text(waiting_program(IN_A_WITH_BLOCK), gate.path, terminal=terminal["theirs"])
    workers = program.hold_reported(["w0", "w1"])

    os.close(terminal["ours"])
    terminal["ours"] = -1

    assert program.finish() == -signal.SIGHUP
    gone(workers)
    program.leaves_nothing()


def test_interpreter_exit_without_shutdown_finishes_the_work_and_leaves_nothing(make_program):
    program = make_program()
    gate = program.gate("gate")
    program.run_text(
        """
        import sys
        from safepool import SafeProcessPoolExecutor
        from support import descendants, tasks
        from support.rendezvous import report

        if __name__ == "__main__":
            reports, gate = sys.argv[1:]
            pool = SafeProcessPoolExecutor(2)
            pool.submit(tasks.work_then_hang, reports, "done", "idle", descendants.KINDS)
            last = pool.submit(tasks.work_then_wait, reports, "last", gate)
            last.add_done_callback(lambda future: report(reports, "result", str(future.result())))
            sys.stdin.readline()
            report(reports, "end")
        """,
        gate.path,
    )
    everybody = program.hold_reported([*labels_of("done"), "last"])
    program.process.stdin.write(b"\n")  # an idle worker leaves as soon as the program ends, with its descendants
    program.process.stdin.flush()
    program.rendezvous.expect("end")

    gate.open()

    assert program.finish() == 0, program.stderr
    assert int(program.rendezvous.expect("result").detail) == everybody["last"].pid
    gone(everybody)
    program.leaves_nothing()
    assert program.stderr == ""


def test_forgotten_executor_is_collected_with_its_workers_and_descendants(make_program):
    program = make_program()
    program.run_text("""
        import gc, sys
        from safepool import SafeProcessPoolExecutor
        from support import descendants, tasks
        from support.rendezvous import report

        if __name__ == "__main__":
            reports = sys.argv[1]
            pool = SafeProcessPoolExecutor(1)
            pool.submit(tasks.work_then_hang, reports, "done", "idle", descendants.KINDS).result()
            sys.stdin.readline()
            del pool
            gc.collect()
            report(reports, "collected")
            sys.stdin.read()
    """)
    everybody = program.hold_reported(labels_of("done"))
    program.process.stdin.write(b"\n")
    program.process.stdin.flush()
    program.rendezvous.expect("collected")

    gone(everybody)

    assert program.process.poll() is None
    program.process.stdin.close()
    assert program.finish() == 0, program.stderr
    program.leaves_nothing()


def test_exception_in_the_with_block_is_the_only_thing_that_is_seen(make_program):
    program = make_program()
    program.run_text("""
        import sys
        from safepool import SafeProcessPoolExecutor
        from support import descendants, tasks

        if __name__ == "__main__":
            with SafeProcessPoolExecutor(2) as pool:
                pool.submit(tasks.work_then_hang, sys.argv[1], "done", "idle", descendants.KINDS).result()
                sys.stdin.readline()
                pool.submit(tasks.square, 3)
                raise LookupError("my own mistake")
    """)
    everybody = program.hold_reported(labels_of("done"))
    program.process.stdin.write(b"\n")
    program.process.stdin.flush()

    assert program.finish() == 1
    gone(everybody)
    program.leaves_nothing()
    assert "LookupError: my own mistake" in program.stderr
    assert program.stderr.count("Traceback") == 1, program.stderr


@pytest.mark.parametrize(
    ("way_out", "status"),
    [
        ("sys.exit(5)", 5),
        ("os._exit(5)", 5),
        ("sys.exit(0 if use_a_pool() == 16 else 1)", 0),
        ("pool.shutdown(); sys.exit(5)", 5),
        ("pool = None; gc.collect(); sys.exit(5)", 5),
    ],
    ids=["exit", "_exit", "own pool", "shutdown", "collect"],
)
def test_forked_child_of_the_host_exits_and_harms_nobody(make_program, way_out, status):
    program = make_program()
    program.run_text(
        f"""
        import gc, os, sys, warnings
        from safepool import SafeProcessPoolExecutor
        from support import tasks
        from support.rendezvous import report

        def use_a_pool():
            with SafeProcessPoolExecutor(1) as own:
                return own.submit(tasks.square, 4).result(60)

        if __name__ == "__main__":
            warnings.simplefilter("ignore", DeprecationWarning)
            reports = sys.argv[1]
            pool = SafeProcessPoolExecutor(1)
            before = pool.submit(tasks.own_pid).result(60)
            child = os.fork()
            if child == 0:
                {way_out}
            status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            report(reports, "child", str(status))
            report(reports, "same-worker", str(pool.submit(tasks.own_pid).result(60) == before))
            pool.shutdown()
        """
    )
    assert int(program.rendezvous.expect("child").detail) == status, program.stderr
    assert program.rendezvous.expect("same-worker").detail == "True"
    assert program.finish() == 0, program.stderr
    program.leaves_nothing()
    assert program.stderr == ""
