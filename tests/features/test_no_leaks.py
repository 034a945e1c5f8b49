# ruff: noqa: PT012  # what the block does is the experiment, and its end is what fails
"""``no_leaks``: who is named, who is not, and that nobody is touched who need not be."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from contract.patience import is_gone, result_of
from contract.scripts import run_python, run_script
from safepool import LeakError, SafeProcessPoolExecutor, no_leaks
from safepool._os.marker import host_marker
from safepool.tools import leaks
from support import census, tasks
from support.descendants import KINDS
from support.eventually import eventually
from support.handles import Handle, hold
from support.rendezvous import Rendezvous
from support.scenes import labels_of

SLEEP = ["sleep", "900"]

# Becomes an orphan in a session of its own, and tells its number.
DAEMON = 'setsid sh -c "echo \\$\\$; exec sleep 900 >/dev/null" &'


@pytest.fixture
def start(stack: contextlib.ExitStack) -> Iterator[Callable[[list[str]], subprocess.Popen[bytes]]]:
    """Start a process of this one that the test need not end."""

    def start(command: list[str]) -> subprocess.Popen[bytes]:
        process = stack.enter_context(subprocess.Popen(command, stdin=subprocess.PIPE))
        stack.callback(process.kill)
        return process

    return start


def named(error: LeakError) -> set[int]:
    return {process.pid for process in error.processes}


# --- who is named ---


def test_pool_that_is_closed_has_left_nothing(meeting: Rendezvous) -> None:
    with no_leaks(), SafeProcessPoolExecutor(2) as pool:
        pool.submit(tasks.work_then_hang, meeting.path, "task", "idle", KINDS).result(60)
        meeting.expect_all(labels_of("task"))


def test_janitor_is_no_leak_of_who_adopts_orphans(tmp_path: Path) -> None:
    """The first process of a container does; and so does this one."""
    program = """
    import ctypes, os
    from safepool import SafeProcessPoolExecutor, no_leaks
    from safepool._os.process_table import command_of, list_rows

    assert ctypes.CDLL(None).prctl(36, 1, 0, 0, 0) == 0  # PR_SET_CHILD_SUBREAPER
    if __name__ == "__main__":
        with no_leaks(end=True):
            with SafeProcessPoolExecutor(1) as pool:
                pool.submit(abs, -1).result()
        children = [command_of(row.pid) for row in list_rows() if row.parent == os.getpid()]
        print(sum("janitor_main" in command for command in children))
    """
    done = run_script(tmp_path / "program.py", "\n".join(line[4:] for line in program.splitlines()))
    assert (done.stdout, done.stderr) == ("1\n", "")


def test_without_proc_it_is_refused(tmp_path: Path) -> None:
    done = run_python("-c", "import safepool; safepool.no_leaks()", directory=tmp_path, SAFEPOOL_DISABLE="proc")
    assert "RuntimeError: no_leaks() cannot be 'used' here: only /proc tells" in done.stderr


def test_pool_that_is_open_is_named_with_whatever_its_tasks_have_started(meeting: Rendezvous, make_pool) -> None:
    """Those that have left group, session and parent carry its marker."""
    pool = make_pool(1)
    with pytest.raises(LeakError) as failing, no_leaks(patience=0.1):
        pool.submit(tasks.work_then_hang, meeting.path, "task", "idle", KINDS).result(60)
        meeting.expect_all(labels_of("task"))

    assert meeting.pids(labels_of("task")).keys() >= {"task", "task.daemon", "task.setsid"}
    assert named(failing.value) >= set(meeting.pids(labels_of("task")).values())
    assert named(failing.value) == {seen.pid for seen in census.carrying(host_marker())}
    assert failing.value.ended == ()
    assert result_of(pool.submit(tasks.square, 3)) == 9


def test_process_of_the_program_s_own_is_named_with_its_command_and_left_alone(
    start, stack: contextlib.ExitStack
) -> None:
    with pytest.raises(LeakError) as failing, no_leaks(patience=0.1):
        shell = start(["sh", "-c", "sleep 900 & wait"])
        (child,) = eventually(lambda: [seen for seen in census.children_of(shell.pid) if "sleep" in seen.command])
        stack.callback(stack.enter_context(Handle(child.pid)).send, signal.SIGKILL)

    assert {process.pid: process.command for process in failing.value.processes} == {
        shell.pid: "sh -c sleep 900 & wait",
        child.pid: "sleep 900",
    }
    assert f"sleep 900 (pid {child.pid})" in str(failing.value)
    assert "2 processes that were started within the block are still alive 0.1 s after it" in str(failing.value)
    assert "Nothing was ended" in str(failing.value)
    assert not is_gone(shell.pid)
    assert not is_gone(child.pid)


def test_every_process_is_named_however_many_there_are(start) -> None:
    with pytest.raises(LeakError) as failing, no_leaks(patience=0):
        pids = {start(SLEEP).pid for _ in range(12)}

    assert {int(pid) for pid in re.findall(r"\(pid (\d+)\)", str(failing.value))} == pids


def test_process_in_the_middle_of_an_exec_is_looked_at_again(meeting: Rendezvous, make_pool, monkeypatch) -> None:
    """An orphan shows nothing of itself then: not its marker either."""
    blind: set[int] = set()

    def environment_of(pid: int) -> bytes:
        return b"" if pid in blind else census.environment_of(pid)

    def command_of(pid: int) -> str:
        if pid in blind:
            blind.clear()  # at the next look it has come through
            return ""
        seen = census.look_at(pid)
        return seen.command if seen else ""

    monkeypatch.setattr(leaks, "environment_of", environment_of)
    monkeypatch.setattr(leaks, "command_of", command_of)
    pool = make_pool(1)
    result_of(pool.submit(tasks.square, 3))  # its worker was there before, and is no leak
    with pytest.raises(LeakError) as failing, no_leaks(patience=5):
        pool.submit(tasks.work_then_hang, meeting.path, "task", "idle", ["daemon"]).result(60)
        blind.update(meeting.pids(["task.daemon"]).values())

    assert not blind
    assert named(failing.value) == set(meeting.pids(["task.daemon"]).values())


# --- who is not ---


def test_whoever_was_there_before_is_no_leak(make_pool, start) -> None:
    pool = make_pool(1)
    worker = result_of(pool.submit(tasks.own_pid))
    before = start(SLEEP)

    with no_leaks(patience=0):
        assert result_of(pool.submit(tasks.own_pid)) == worker

    assert not is_gone(before.pid)


def test_whoever_is_just_leaving_is_waited_for(start) -> None:
    with no_leaks(patience=50):
        leaving = start(["cat"])
        threading.Timer(0.3, leaving.stdin.close).start()
        assert not is_gone(leaving.pid)

    assert is_gone(leaving.pid)


def test_dead_child_that_nobody_has_reaped_is_no_leak(start) -> None:
    with no_leaks(patience=50):
        start(["true"])


def test_resource_tracker_of_the_program_is_no_leak(tmp_path: Path) -> None:
    program = """
    from multiprocessing import resource_tracker, shared_memory
    import safepool
    if __name__ == "__main__":
        with safepool.no_leaks(patience=0):
            segment = shared_memory.SharedMemory(create=True, size=16)
            segment.close()
            segment.unlink()
        print(resource_tracker._resource_tracker._pid is not None)
    """
    done = run_script(tmp_path / "program.py", "\n".join(line[4:] for line in program.splitlines()))

    assert (done.stdout, done.returncode) == ("True\n", 0), done.stderr


def test_orphan_without_a_trace_of_a_pool_is_missed(stack: contextlib.ExitStack) -> None:
    """As the documents say: the program itself has started it, and it has lost its parent."""
    with no_leaks(patience=0):
        shown = subprocess.run(["sh", "-c", DAEMON], stdout=subprocess.PIPE, check=True, text=True).stdout
        daemon = stack.enter_context(Handle(int(shown)))
        eventually(lambda: census.look_at(daemon.pid).ppid != os.getpid())
        assert daemon.alive()

    assert daemon.alive()
    daemon.send(9)


# --- what becomes of them ---


def test_leaks_are_ended_with_all_beneath_them_where_that_is_asked_for(
    meeting: Rendezvous, make_pool, start, stack: contextlib.ExitStack
) -> None:
    older = make_pool(1)
    spared = {"stranger": start(SLEEP).pid, "older worker": result_of(older.submit(tasks.own_pid))}
    with pytest.raises(LeakError) as failing, no_leaks(patience=0.1, end=True):
        shell = start(["sh", "-c", "sleep 900 & wait"])
        (child,) = eventually(lambda: [seen for seen in census.children_of(shell.pid) if "sleep" in seen.command])
        older.submit(tasks.work_then_hang, meeting.path, "task", "idle", KINDS).result(60)
        left = {**meeting.pids(labels_of("task")), "shell": shell.pid, "child": child.pid}
        del left["task"]  # the worker, which was there before
        handles = hold(left, stack)

    assert not [name for name, handle in handles.items() if handle.alive()]
    assert {process.pid for process in failing.value.ended} >= set(left.values())
    assert {process.pid for process in failing.value.ended} >= named(failing.value)
    assert str(failing.value).splitlines()[-1].startswith("Ended: ")
    assert f"sleep 900 (pid {child.pid})" in str(failing.value).splitlines()[-1]
    assert not [name for name, pid in spared.items() if is_gone(pid)]
    assert result_of(older.submit(tasks.own_pid)) == spared["older worker"]


def test_exception_of_the_block_passes_on_and_nobody_is_ended(start) -> None:
    with pytest.raises(LookupError, match="mine"), no_leaks(patience=0):
        left = start(SLEEP)
        raise LookupError("mine")

    assert not is_gone(left.pid)


def test_exception_of_the_block_passes_on_and_leaks_are_ended_where_that_is_asked_for(start) -> None:
    with pytest.raises(LookupError, match="mine"), no_leaks(patience=0, end=True):
        left = start(SLEEP)
        raise LookupError("mine")

    assert is_gone(left.pid)


def test_it_can_be_entered_again(start) -> None:
    watch = no_leaks(patience=0)
    with pytest.raises(LeakError), watch:
        start(SLEEP)
    with watch:
        pass
    with pytest.raises(LeakError), watch:
        start(SLEEP)


@pytest.mark.parametrize(
    ("arguments", "kind", "complaint"),
    [
        ({"patience": -1}, ValueError, "patience.*-1"),
        ({"patience": float("inf")}, ValueError, "patience.*inf"),
        ({"patience": "2"}, TypeError, "patience.*'2'"),
        ({"patience": None}, TypeError, "patience.*None"),
        ({"end": 1}, TypeError, "end.*1"),
    ],
)
def test_bad_argument_is_named_before_anything_happens(arguments, kind, complaint) -> None:
    with pytest.raises(kind, match=complaint):
        no_leaks(**arguments)


# --- the fixture ---

PLUGIN = "safepool.tools.pytest_plugin"
# What these start ends with the standard input that they have given it, and so with the run at the latest.
TESTS = """
import subprocess, sys
import pytest

def start():
    return subprocess.Popen(["cat"], stdin=subprocess.PIPE)

@pytest.fixture
def process():
    with start() as process:
        yield process

def test_that_does_not_ask():
    assert "safepool" not in sys.modules or "safepool.tools.leaks" not in sys.modules
    start()

def test_tidy(no_leaks):
    with start():
        pass

def test_leaky(no_leaks):
    start()

def test_cleaned_up_by_a_later_fixture(no_leaks, process):
    assert process.poll() is None
"""


def test_fixture_fails_the_test_that_leaves_a_process_running_and_no_other(tmp_path: Path) -> None:
    (tmp_path / "test_leaky.py").write_text(TESTS, encoding="utf-8")

    # By name, and by nothing else: whether or not the package is installed with its entry point.
    options = ["-m", "pytest", "-p", PLUGIN, "-p", "no:cacheprovider", "-rA", "-W", "ignore::ResourceWarning"]
    done = run_python(*options, "test_leaky.py", directory=tmp_path, PYTEST_DISABLE_PLUGIN_AUTOLOAD="1")

    assert re.findall(r"^ERROR test_leaky.py::(\w+)", done.stdout, re.MULTILINE) == ["test_leaky"], done.stdout
    assert "4 passed, 1 error" in done.stdout
    assert "LeakError: 1 process that was started within the block is still alive" in done.stdout
    assert "cat (pid " in done.stdout


def test_pytest_finds_the_fixture_by_itself() -> None:
    project = Path(__file__).resolve().parents[2] / "pyproject.toml"

    assert f'[project.entry-points.pytest11]\nsafepool = "{PLUGIN}"\n' in project.read_text("utf-8")
