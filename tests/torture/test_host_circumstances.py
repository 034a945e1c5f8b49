"""Hosts in unusual circumstances die, or live: nothing of theirs is left, and nothing of theirs is ended too early."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psutil
import pytest

from support import census
from support.descendants import KINDS
from support.eventually import eventually
from support.handles import gone
from support.scenes import STATUS, hang_everywhere, hold_janitor, labels_of, strike, workers_of

pytestmark = [pytest.mark.torture, pytest.mark.timeout(240)]

LARGE = 4 << 30  # bytes that a large host has touched, where a third of what is free is as much
SATURATING = 2 * (os.cpu_count() or 1)


def can_unshare():
    """Whether this user may make a namespace of process numbers."""
    if shutil.which("unshare") is None:
        return False
    return subprocess.run(["unshare", "-pf", "--mount-proc", "true"], check=False, capture_output=True).returncode == 0


# --- how slow everything is ---


@pytest.mark.parametrize("seed", range(4))
def test_host_sigkilled_while_its_workers_are_slow_to_start_leaves_nothing(make_host, tmp_path, measured, seed):
    """Every interpreter imports for a second before anything of ours runs in it: the lifeline is armed from outside."""
    moment = random.Random(seed)
    path = slow_start(tmp_path / "slow")
    for _ in range(3):
        host = make_host(max_workers=2, environment={"PYTHONPATH": path})
        canary = host.canary()
        host.open_pool()
        for name in ("w0", "w1"):
            host.submit(name, "work_then_hang", host.rendezvous.path, name, "loop", list(KINDS))
        born = eventually(lambda host=host: workers_of(host))
        delay = moment.uniform(0, 2.5)
        time.sleep(delay)  # the moment is the experiment; nothing waits for it
        born = host.hold({str(seen.pid): seen.pid for seen in workers_of(host)} | {str(born[0].pid): born[0].pid})

        strike(host, "SIGKILL")

        assert host.finish() == STATUS["SIGKILL"]
        measured(f"gone_after_{delay * 1000:.0f}_ms", max(gone(born).values()))
        host.leaves_nothing()
        assert canary.alive()
        host.close()


def slow_start(folder):
    """A path whose sitecustomize keeps the processor busy for a second."""
    folder.mkdir()
    source = """
    import time
    end = time.process_time() + 1.0
    while time.process_time() < end:
        pass
    """
    (folder / "sitecustomize.py").write_text(textwrap.dedent(source))
    return os.pathsep.join([str(folder), *(entry for entry in sys.path if entry)])


def test_program_sigkilled_while_its_workers_import_it_leaves_nothing(make_program):
    """The main module never ends in a worker: no task has begun, and no code of ours runs any more."""
    program = make_program()
    program.run_text(
        """
        import sys
        from safepool import SafeProcessPoolExecutor
        from support import tasks
        from support.rendezvous import report

        if __name__ != "__main__":
            report(sys.argv[1], "importing")
            tasks.HANGS["c"]()

        if __name__ == "__main__":
            pool = SafeProcessPoolExecutor(1)
            pool.submit(tasks.square, 3).result()
        """
    )
    worker = program.hold_reported(["importing"])

    program.send(signal.SIGKILL)

    assert program.finish() == -signal.SIGKILL
    gone(worker)
    program.leaves_nothing()


# --- how large and how busy ---


def test_host_that_holds_four_gigabytes_and_is_sigkilled_on_a_busy_machine_leaves_nothing(make_host, measured, stack):
    """The kernel lets go of its memory before it closes its pipes, and nobody gets the processor for himself."""
    host = make_host(max_workers=2)
    canary = host.canary()
    host.open_pool()
    everybody = hang_everywhere(host, "c")
    large = min(LARGE, free_memory() // 3)
    host.tell("hold_memory", size=large)
    host.rendezvous.expect("holding")
    assert resident(host.process.pid) > large
    measured("resident", resident(host.process.pid))
    burners = [stack.enter_context(burner()) for _ in range(SATURATING)]
    eventually(lambda: all(census.look_at(burning.pid).ticks > 5 for burning in burners))

    strike(host, "SIGKILL")

    measured("gone_ms", max(gone(everybody).values()))
    assert host.finish() == STATUS["SIGKILL"]
    host.leaves_nothing()
    assert canary.alive()
    assert all(burning.poll() is None for burning in burners)


def free_memory():
    """How many bytes are free, or may be had at all in a container, which sees its own limit there."""
    found = [psutil.virtual_memory().available]
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):  # not there, or "max"
            found.append(int(Path(limit).read_text()))
    return min(found)


def resident(pid):
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@contextlib.contextmanager
def burner():
    """A stranger that keeps a processor busy."""
    with subprocess.Popen([sys.executable, "-I", "-S", "-c", "while True: pass"]) as process:
        try:
            yield process
        finally:
            process.kill()


# --- what it was doing ---


@pytest.mark.parametrize("wish", [{}, {"kill": True}, {"timeout": 0.05}], ids=["waiting", "killing", "timeout"])
@pytest.mark.parametrize("seed", range(5))
def test_host_sigkilled_during_its_shutdown_leaves_nothing(make_host, measured, wish, seed):
    host = make_host(max_workers=2)
    canary = host.canary()
    host.open_pool()
    everybody = hang_everywhere(host, "deaf")
    host.tell("shutdown", **wish)
    delay = random.Random(seed).uniform(0, 0.06)
    time.sleep(delay)  # the moment is the experiment; nothing waits for it

    strike(host, "SIGKILL")

    assert host.finish() == STATUS["SIGKILL"]
    measured(f"gone_after_{delay * 1000:.0f}_ms", max(gone(everybody).values()))
    host.leaves_nothing()
    assert canary.alive()


@pytest.mark.parametrize("seed", range(8))
def test_host_sigkilled_while_it_ends_a_worker_leaves_nothing(make_host, measured, seed):
    """Frozen, listed, half of it killed: whatever the host had come to, the janitor finishes."""
    host = make_host(max_workers=2)
    canary = host.canary()
    host.open_pool()
    everybody = hang_everywhere(host, "deaf")
    hold_janitor(host)
    everybody["w0"].send(signal.SIGKILL)
    delay = random.Random(seed).uniform(0, 0.02)
    time.sleep(delay)  # the moment is the experiment; nothing waits for it

    strike(host, "SIGKILL")

    assert host.finish() == STATUS["SIGKILL"]
    measured(f"gone_after_{delay * 1000:.1f}_ms", max(gone(everybody).values()))
    host.leaves_nothing()
    assert canary.alive()


# --- whose child it is ---


@pytest.mark.parametrize("end", ["deadline", "host death"])
def test_host_under_a_foreign_subreaper_is_like_any_other(make_host, end):
    """Orphans go to the subreaper and never to process 1: nothing may rest on that number."""
    host = make_host(max_workers=2, reaped=True)
    canary = host.canary()
    host.open_pool()
    everybody = hang_everywhere(host, "c", timeout=6.0 if end == "deadline" else None)
    assert census.look_at(everybody["w0.daemon"].pid).ppid == host.process.pid  # the subreaper's

    if end == "deadline":
        assert {host.outcome(name)["error"] for name in ("w0", "w1")} == {"TaskTimeoutError"}
        host.submit("next", "square", 7)
        assert host.outcome("next") == {"value": 49}
    else:
        strike(host, "SIGKILL")

    gone(everybody)
    if end == "host death":
        host.leaves_nothing()
    assert canary.alive()


@pytest.mark.skipif(not can_unshare(), reason="makes a namespace of process numbers, which needs root")
def test_host_that_is_process_1_works_and_leaves_nothing(make_program):
    """As in a container: its workers' parent is process 1 from the start, which must tell them nothing, and it gets
    every orphan for a child.
    """
    program = make_program()
    source = program.directory / "program.py"
    source.write_text(PROCESS_1)
    command = ["unshare", "-pf", "--kill-child", "--mount-proc", sys.executable, str(source), program.rendezvous.path]
    program.run(command)
    assert program.rendezvous.expect("host", within=30).pid == 1, program.stderr
    program.rendezvous.expect_all(labels_of("hung"))
    left = program.hold({str(seen.pid): seen.pid for seen in census.carrying(program.mark) if "sleep" in seen.command})
    assert len(left) >= len(KINDS)

    assert program.rendezvous.expect("hung.outcome").detail == "TaskTimeoutError", program.stderr
    gone(left)
    assert program.rendezvous.expect("next").detail == "49"
    assert program.rendezvous.expect("victim").detail == "WorkerDiedError"
    program.rendezvous.expect_all(labels_of("last"))
    last = program.hold({str(seen.pid): seen.pid for seen in census.carrying(program.mark) if "sleep" in seen.command})
    assert len(last) >= len(KINDS)

    (host,) = [seen for seen in census.carrying(program.mark) if seen.ppid == program.process.pid]
    program.hold({"host": host.pid})["host"].send(signal.SIGKILL)

    gone(last)
    program.finish()
    program.leaves_nothing()


PROCESS_1 = """
import sys
from safepool import SafeProcessPoolExecutor
from support import descendants, tasks
from support.rendezvous import report

if __name__ == "__main__":
    reports = sys.argv[1]
    report(reports, "host")
    pool = SafeProcessPoolExecutor(1)
    hung = pool.submit(tasks.work_then_hang, reports, "hung", "c", descendants.KINDS, task_timeout=6.0)
    report(reports, "hung.outcome", type(hung.exception()).__name__)
    report(reports, "next", str(pool.submit(tasks.square, 7).result()))
    report(reports, "victim", type(pool.submit(tasks.exit_now, 3).exception()).__name__)
    pool.submit(tasks.work_then_hang, reports, "last", "c", descendants.KINDS).result()
"""
