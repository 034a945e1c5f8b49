"""Limits that the kernel holds a strict worker to.

What is decided is tried everywhere, with a directory of files in place of the worker's group; what the kernel then
does, where this program's group has the controllers.
"""

from __future__ import annotations

import logging
import os
import signal
from pathlib import Path

import pytest

from safepool import ContainmentError, SafeProcessPoolExecutor, TaskMemoryError, WorkerDiedError
from safepool._os import contained, control_group, guardian
from safepool._os.control_group import ControlGroup
from safepool._os.controllers import have_controller
from safepool._pool import executor as executor_module
from safepool._pool.worker import Worker
from support import tasks
from support.eventually import eventually
from support.handles import Handle

pytestmark = pytest.mark.timeout(120)

MIB = 1 << 20
LIMIT = 64 * MIB


def group_of(pool: SafeProcessPoolExecutor) -> ControlGroup:
    (worker,) = pool._pool._state.workers.values()
    assert worker.contained.control_group is not None
    return worker.contained.control_group


# --- what is decided ---


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Every worker of a strict pool has a directory in this one for its group; the kernel knows nothing of it."""
    house = tmp_path / "house"
    house.mkdir()

    def new_group(name: str) -> ControlGroup:
        folder = house / name
        folder.mkdir()
        for file in ("memory.max", "memory.oom.group", "cgroup.procs"):
            (folder / file).touch()
        return ControlGroup(str(folder))

    for module in (control_group, contained):
        monkeypatch.setattr(module, "house_of_this_process", lambda: str(house))
    monkeypatch.setattr(control_group, "make_sure", lambda: None)
    monkeypatch.setattr(contained, "new_group", new_group)
    monkeypatch.setattr(executor_module, "have_controller", lambda _: None)
    return house


def file_of(pool: SafeProcessPoolExecutor, name: str) -> Path:
    return Path(group_of(pool).path) / name


def is_killed_by_the_kernel(pool: SafeProcessPoolExecutor, worker: Handle, events: str) -> None:
    """As the kernel does it: counted, and killed."""
    file_of(pool, "memory.events").write_text(events)
    worker.send(signal.SIGKILL)


def test_kernel_is_told_before_the_task_begins_and_nothing_is_looked_at(make_pool, files, meeting, make_gate):
    pool, gate = make_pool(1, containment="strict", memory_limit=LIMIT), make_gate()
    task = pool.submit(tasks.work_then_wait, meeting.path, "task", gate.path)
    meeting.expect("task")
    assert file_of(pool, "memory.max").read_text() == str(LIMIT)
    eventually(lambda: pool._pool._state.measure_at is None)
    gate.open()
    task.result(60)


def test_worker_that_the_kernel_killed_for_the_limit_fails_its_task_with_that(
    make_pool, files, meeting, make_gate, stack
):
    pool, gate = make_pool(1, containment="strict", memory_limit=LIMIT, retries=3), make_gate()
    victim = pool.submit(tasks.work_then_wait, meeting.path, "victim", gate.path)
    is_killed_by_the_kernel(pool, stack.enter_context(Handle(meeting.expect("victim").pid)), "oom 1\noom_kill 1\n")

    error = victim.exception(60)

    assert isinstance(error, TaskMemoryError)
    assert error.by_kernel
    assert (error.limit, error.used, error.pid) == (LIMIT, LIMIT, meeting.expect("victim").pid)
    assert "held 64 MiB, all that it may, and asked for more." in str(error)
    assert "was ended by the kernel after" in str(error)
    assert victim.attempts == 1, "it would only grow again"
    assert pool.submit(tasks.square, 3).result(60) == 9


@pytest.mark.parametrize("events", ["oom 0\noom_kill 0\n", "oom 0\noom_kill 1\n"])
def test_worker_that_died_of_something_else_fails_its_task_as_ever(make_pool, files, meeting, make_gate, stack, events):
    """The second: for want of memory on the whole machine."""
    pool, gate = make_pool(1, containment="strict", memory_limit=LIMIT), make_gate()
    victim = pool.submit(tasks.work_then_wait, meeting.path, "victim", gate.path)
    is_killed_by_the_kernel(pool, stack.enter_context(Handle(meeting.expect("victim").pid)), events)
    assert isinstance(victim.exception(60), WorkerDiedError)


def test_worker_that_died_before_it_took_its_task_costs_no_task(make_pool, files, stack):
    """It had kept too much of tasks before this one: a fresh one has room."""
    pool = make_pool(1, containment="strict", memory_limit=LIMIT)
    worker = stack.enter_context(Handle(pool.submit(tasks.own_pid).result(60)))
    file_of(pool, "memory.events").write_text("oom 1\noom_kill 1\n")
    worker.send(signal.SIGSTOP)
    waiting = pool.submit(tasks.square, 3)
    (stopped,) = pool._pool._state.workers.values()
    eventually(lambda: stopped.task is not None)
    worker.send(signal.SIGKILL)
    assert waiting.result(60) == 9


def test_each_task_has_its_own_limit(make_pool, files):
    pool = make_pool(1, containment="strict", memory_limit=LIMIT)
    pool.submit(tasks.own_pid).result(60)
    where = str(file_of(pool, "memory.max"))
    half, none = pool.options(memory_limit=LIMIT // 2), pool.options(memory_limit=None)
    views = [pool, half, none, half, half, pool] * 20
    seen = [view.submit(tasks.content_of, where) for view in views]
    limits = {pool: str(LIMIT), half: str(LIMIT // 2), none: "max"}
    assert [future.result(60) for future in seen] == [limits[view] for view in views]


def test_where_the_kernel_refuses_the_task_is_looked_at(make_pool, files, monkeypatch, meeting, make_gate):
    monkeypatch.setattr(ControlGroup, "limit_memory", lambda *_: False)
    pool, gate = make_pool(1, containment="strict", memory_limit=LIMIT), make_gate()
    task = pool.submit(tasks.work_then_wait, meeting.path, "task", gate.path)
    meeting.expect("task")
    assert pool._pool._state.measure_at is not None
    assert isinstance(pool._pool._state.workers[1], Worker)
    assert pool._pool._state.workers[1].cap is None
    gate.open()
    task.result(60)


# --- what is asked for, and cannot be had ---


@pytest.fixture
def no_controllers(monkeypatch):
    def refuse(name: str) -> None:
        raise control_group.NoControlGroupError(f"/somewhere does not have the kernel's {name!r} controller")

    monkeypatch.setattr(executor_module, "have_controller", refuse)
    monkeypatch.setattr(executor_module, "_told", set())
    monkeypatch.setattr(control_group, "make_sure", lambda: None)


def test_limit_of_cpus_that_cannot_be_had_is_refused_and_the_error_says_how_to_get_it(no_controllers):
    with pytest.raises(ContainmentError) as caught:
        SafeProcessPoolExecutor(1, containment="strict", cpu_limit=0.5)
    assert caught.value.wanted == "cpu_limit"
    assert caught.value.reason == "/somewhere does not have the kernel's 'cpu' controller"
    assert "systemd-run --user --scope -p Delegate=yes" in str(caught.value)
    assert str(caught.value).endswith("Or do without cpu_limit.")


def test_where_workers_have_guardians_it_is_said_why_they_have_no_groups(monkeypatch, caplog):
    def refuse() -> None:
        raise control_group.NoControlGroupError("/somewhere/house cannot be made: Read-only file system")

    monkeypatch.setattr(control_group, "make_sure", refuse)
    monkeypatch.setattr(guardian, "make_sure", lambda: None)
    monkeypatch.setattr(executor_module, "_told", set())
    reason = (
        "workers have guardians here, and no control groups: /somewhere/house cannot be made: Read-only file system"
    )
    with pytest.raises(ContainmentError) as caught:
        SafeProcessPoolExecutor(1, containment="strict", cpu_limit=0.5)
    assert caught.value.reason == reason
    with caplog.at_level(logging.WARNING, "safepool"):
        assert SafeProcessPoolExecutor(1, containment="strict", memory_limit=LIMIT).strict_by == "guardian"
    (record,) = caplog.records
    assert record.getMessage().endswith(reason)


def test_limit_of_cpus_needs_strict_containment():
    with pytest.raises(ValueError, match=r'cpu_limit needs containment="strict", without which it cannot be 0\.5'):
        SafeProcessPoolExecutor(1, cpu_limit=0.5)


def test_limit_of_memory_that_the_kernel_cannot_hold_is_said_once(no_controllers, caplog):
    with caplog.at_level(logging.WARNING, "safepool"):
        pool = SafeProcessPoolExecutor(1, containment="strict", memory_limit=LIMIT)
        pool.options(memory_limit=LIMIT // 2)
        SafeProcessPoolExecutor(1, containment="strict").options(memory_limit=LIMIT)
    said = (
        "memory limits are looked at ten times a second, since the kernel cannot: /somewhere does not have the kernel's"
    )
    assert [record.getMessage() for record in caplog.records] == [f"{said} 'memory' controller"]


def test_pools_without_such_limits_ask_for_nothing(monkeypatch):
    def never(_name: str) -> None:
        raise AssertionError

    monkeypatch.setattr(executor_module, "have_controller", never)
    monkeypatch.setattr(control_group, "make_sure", lambda: None)
    SafeProcessPoolExecutor(1, containment="strict")
    SafeProcessPoolExecutor(1, memory_limit=LIMIT)


# --- what the kernel does ---


def controlled(name: str) -> None:
    try:
        control_group.make_sure()
        have_controller(name)
    except OSError as error:
        pytest.skip(f"limits of the kernel cannot be had here: {error}")


@pytest.fixture
def strict(make_pool):
    def make(*args, **options):
        return make_pool(*args, containment="strict", **options)

    return make


def test_limit_of_memory_is_never_exceeded_and_costs_nobody_else(strict, meeting, make_gate):
    controlled("memory")
    pool, gate = strict(2, memory_limit=LIMIT), make_gate()
    neighbour = pool.submit(tasks.work_then_wait, meeting.path, "neighbour", gate.path)
    meeting.expect("neighbour")

    error = pool.submit(tasks.hold_memory, 400 * MIB).exception(60)

    assert isinstance(error, TaskMemoryError)
    assert error.by_kernel
    assert error.used == error.limit == LIMIT
    gate.open()
    assert neighbour.result(60) == meeting.expect("neighbour").pid
    assert pool.submit(tasks.hold_memory, 20 * MIB).result(60) == 20 * MIB


def test_memory_of_descendants_counts_and_they_end_with_the_worker(strict, meeting, make_gate, stack):
    controlled("memory")
    pool, gate = strict(1, memory_limit=LIMIT), make_gate()
    grown = pool.submit(tasks.hold_memory_beneath, meeting.path, gate.path, 400 * MIB)
    beneath = stack.enter_context(Handle(meeting.expect("beneath").pid))
    gate.open()
    error = grown.exception(60)
    assert isinstance(error, TaskMemoryError)
    assert error.by_kernel
    assert not beneath.alive()


def test_what_a_task_is_sent_counts_before_it_begins(strict):
    controlled("memory")
    error = strict(1, memory_limit=LIMIT).submit(len, b"x" * (80 * MIB)).exception(60)
    assert isinstance(error, TaskMemoryError)
    assert error.by_kernel


def test_limit_can_be_another_for_each_task(strict):
    controlled("memory")
    pool = strict(1, memory_limit=LIMIT)
    assert pool.options(memory_limit=None).submit(tasks.hold_memory, 120 * MIB).result(60) == 120 * MIB
    assert isinstance(pool.submit(tasks.hold_memory, 120 * MIB).exception(60), TaskMemoryError)
    assert pool.options(memory_limit="200MiB").submit(tasks.hold_memory, 120 * MIB).result(60) == 120 * MIB


def test_limit_of_cpus_has_workers_wait(strict, measured):
    controlled("cpu")
    pool = strict(1, cpu_limit=0.2)
    pid = pool.submit(tasks.own_pid).result(60)
    group = group_of(pool)
    assert (Path(group.path) / "cpu.max").read_text().split() == ["20000", "100000"]
    used, passed = pool.submit(tasks.use_cpu, 0.3).result(60)
    counts = dict(line.split() for line in (Path(group.path) / "cpu.stat").read_text().splitlines())
    assert int(counts["nr_throttled"]) > 0
    assert passed > used
    measured("share", used / passed)
    assert pool.submit(os.getpid).result(60) == pid
