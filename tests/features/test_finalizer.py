"""``finalizer``: what a worker does last when it leaves in order, and never when it is ended."""

from __future__ import annotations

import multiprocessing
import os
import signal
from pathlib import Path

import pytest

from contract.patience import PATIENCE, error_of, eventually, is_gone, result_of
from executor import calls
from features import acts, careers
from safepool import InitializerError, SafeProcessPoolExecutor, TaskKilledError, TaskTimeoutError, WorkerDiedError


@pytest.fixture
def farewells(tmp_path: Path) -> Path:
    """Where finalizers write, one line each."""
    return tmp_path / "farewells"


def new_farewell_pool(new_pool, farewells: Path, *args: int, **options) -> SafeProcessPoolExecutor:
    return new_pool(*args, finalizer=careers.note_pid, finalargs=(str(farewells), "left"), **options)


def pids_in(farewells: Path) -> list[int]:
    """Read whose finalizers have run."""
    lines = farewells.read_text("ascii").splitlines() if farewells.exists() else []
    assert all(line.startswith("left ") for line in lines)
    return [int(line.removeprefix("left ")) for line in lines]


# --- when it runs ---


def test_finalizer_runs_once_in_each_worker_at_shutdown(new_pool, gate, farewells: Path) -> None:
    pool = new_farewell_pool(new_pool, farewells, 2)
    futures = [pool.submit(acts.pass_gate_and_tell_pid, gate.folder) for _ in range(2)]
    gate.wait_until_arrived(2)
    gate.let_through(2)
    pids = [result_of(future) for future in futures]
    assert not pids_in(farewells)

    pool.shutdown()

    assert sorted(pids_in(farewells)) == sorted(pids)


def test_finalizer_runs_in_each_worker_that_is_worn(new_pool, farewells: Path) -> None:
    pool = new_farewell_pool(new_pool, farewells, 1, max_tasks_per_child=2)
    pids = [result_of(pool.submit(acts.tell_pid)) for _ in range(5)]
    assert len(set(pids)) == 3
    assert eventually(lambda: set(pids_in(farewells)) == {pids[0], pids[2]})  # before the pool is shut down

    pool.shutdown()

    assert sorted(pids_in(farewells)) == sorted({*pids})


def test_finalizer_runs_in_a_worker_that_was_idle_for_too_long(new_pool, farewells: Path) -> None:
    pool = new_farewell_pool(new_pool, farewells, 1, idle_timeout=0.2)
    pid = result_of(pool.submit(acts.tell_pid))

    assert eventually(lambda: pids_in(farewells) == [pid])

    assert result_of(pool.submit(acts.tell_pid)) != pid


def test_finalizer_runs_in_workers_that_never_had_a_task(new_pool, farewells: Path) -> None:
    pool = new_farewell_pool(new_pool, farewells, 1, spare_workers=2)
    result_of(pool.submit(acts.tell_pid))
    assert eventually(lambda: len(pool._processes) == 3)
    pids = set(pool._processes)

    pool.shutdown()

    assert sorted(pids_in(farewells)) == sorted(pids)


def test_finalizer_runs_when_the_executor_is_let_go_of(farewells: Path) -> None:
    pool = SafeProcessPoolExecutor(1, finalizer=careers.note_pid, finalargs=(str(farewells), "left"))
    pid = result_of(pool.submit(acts.tell_pid))
    del pool
    assert eventually(lambda: pids_in(farewells) == [pid])


def test_tasks_that_wait_at_shutdown_come_before_the_finalizer(new_pool, gate, farewells: Path) -> None:
    pool = new_farewell_pool(new_pool, farewells, 1)
    held = pool.submit(acts.pass_gate_and_tell_pid, gate.folder)
    gate.wait_until_arrived()
    waiting = [pool.submit(careers.note_pid, str(farewells), "left") for _ in range(3)]
    pool.shutdown(wait=False)
    gate.let_through()
    pool.shutdown()

    assert all(error_of(future) is None for future in waiting)
    assert pids_in(farewells) == [result_of(held)] * 4


# --- when it does not ---


@pytest.mark.parametrize("end", ["death", "kill", "timeout", "grace", "memory"])
def test_finalizer_does_not_run_in_a_worker_that_died_or_was_ended(new_pool, gate, farewells: Path, end: str) -> None:
    pool = new_farewell_pool(new_pool, farewells, 1, grace=60 if end == "grace" else 0)
    first = result_of(pool.submit(acts.tell_pid))
    if end == "death":
        assert isinstance(error_of(pool.submit(acts.die)), WorkerDiedError)
    elif end == "kill":
        future = pool.submit(careers.arrive_and_hang, gate.folder)
        gate.wait_until_arrived()
        assert future.kill()
        assert isinstance(error_of(future), TaskKilledError)
    elif end == "memory":
        assert isinstance(error_of(pool.options(memory_limit="128MiB").submit(careers.grow_and_hang)), MemoryError)
    else:
        assert isinstance(error_of(pool.submit(calls.hang, task_timeout=0.3)), TaskTimeoutError)
    assert is_gone(first)

    second = result_of(pool.submit(acts.tell_pid))
    pool.shutdown()

    assert pids_in(farewells) == [second]  # and there it does


def test_finalizer_does_not_run_in_an_idle_worker_that_is_killed(new_pool, farewells: Path) -> None:
    pool = new_farewell_pool(new_pool, farewells, 1)
    pid = result_of(pool.submit(acts.tell_pid))
    os.kill(pid, signal.SIGKILL)
    assert eventually(lambda: is_gone(pid))
    pool.shutdown()
    assert not pids_in(farewells)


def test_finalizer_does_not_run_when_the_pool_is_killed(new_pool, farewells: Path) -> None:
    pool = new_farewell_pool(new_pool, farewells, 1)
    pid = result_of(pool.submit(acts.tell_pid))
    pool.shutdown(kill=True)
    assert is_gone(pid)
    assert not pids_in(farewells)


def test_finalizer_does_not_run_where_the_initializer_failed(new_pool, farewells: Path) -> None:
    pool = new_farewell_pool(new_pool, farewells, 1, initializer=careers.fail_as_initializer)
    assert isinstance(error_of(pool.submit(acts.tell_pid)), InitializerError)
    pool.shutdown()
    assert not pids_in(farewells)


# --- what it finds ---


def test_finalizer_sees_what_initializer_and_tasks_have_kept(new_pool, tmp_path: Path) -> None:
    path = tmp_path / "kept"
    pool = new_pool(
        initializer=careers.keep_everywhere,
        initargs=("connection",),
        finalizer=careers.note_what_was_kept,
        finalargs=(str(path),),
    )
    assert [result_of(pool.submit(careers.count)) for _ in range(3)] == [(0, 1), (0, 2), (0, 3)]

    pool.shutdown()

    assert path.read_text("ascii") == "0 connection connection 3\n"


def test_finalizer_may_be_given_what_only_workers_can_be_given(new_pool) -> None:
    """A queue of multiprocessing, as the initializer."""
    queue = multiprocessing.get_context("spawn").SimpleQueue()
    pool = new_pool(finalizer=careers.put, finalargs=(queue, "farewell"))
    result_of(pool.submit(acts.square, 3))

    pool.shutdown()

    assert queue._reader.poll(PATIENCE)
    assert queue.get() == "farewell"
    queue.close()


def test_queue_that_initializer_and_finalizer_are_given_is_one(new_pool) -> None:
    """Each would close the descriptors of the other's otherwise, when it lets it go."""
    queue = multiprocessing.get_context("spawn").SimpleQueue()
    pool = new_pool(
        initializer=careers.put, initargs=(queue, "welcome"), finalizer=careers.put, finalargs=(queue, "farewell")
    )
    result_of(pool.submit(acts.square, 3))
    pool.shutdown()

    words = []
    for _ in range(2):
        assert queue._reader.poll(PATIENCE)
        words.append(queue.get())
    assert words == ["welcome", "farewell"]
    queue.close()


def test_finalizer_may_be_a_function_that_no_worker_can_import(new_pool, farewells: Path) -> None:
    path = str(farewells)
    pool = new_pool(finalizer=lambda word: careers.note_pid(path, word), finalargs=("left",))
    pid = result_of(pool.submit(acts.tell_pid))
    pool.shutdown()
    assert pids_in(farewells) == [pid]


# --- when it goes wrong ---


@pytest.mark.parametrize("kind", [ValueError, SystemExit, KeyboardInterrupt])
def test_what_the_finalizer_raises_harms_nobody(new_pool, kind: type[BaseException]) -> None:
    pool = new_pool(max_tasks_per_child=1, finalizer=careers.fail_by, finalargs=(kind, "farewell"))
    pids = [result_of(pool.submit(acts.tell_pid)) for _ in range(3)]
    assert len(set(pids)) == 3
    pool.shutdown()
    assert all(is_gone(pid) for pid in pids)


def test_what_the_finalizer_raises_goes_to_standard_error(new_pool, capfd: pytest.CaptureFixture[str]) -> None:
    pool = new_pool(finalizer=careers.fail_by, finalargs=(ValueError, "farewell"))
    result_of(pool.submit(acts.square, 3))
    assert "farewell" not in capfd.readouterr().err

    pool.shutdown()

    said = capfd.readouterr().err
    assert "Exception in finalizer:" in said
    assert "ValueError: farewell" in said


def test_what_the_finalizer_raises_goes_to_the_standard_library_s_logger(new_pool, tmp_path: Path) -> None:
    log = tmp_path / "log"
    pool = new_pool(
        initializer=careers.log_to,
        initargs=(str(log),),
        finalizer=careers.fail_by,
        finalargs=(ValueError, "farewell"),
    )
    result_of(pool.submit(acts.square, 3))
    assert log.read_text("utf-8") == ""

    pool.shutdown()

    first, *_, last = log.read_text("utf-8").splitlines()
    assert (first, last) == ("Exception in finalizer:", "ValueError: farewell")


def test_finalizer_whose_arguments_break_in_the_worker_keeps_it_from_starting(new_pool) -> None:
    pool = new_pool(finalizer=calls.square, finalargs=(calls.Brittle(),))

    error = error_of(pool.submit(acts.tell_pid))

    assert isinstance(error, InitializerError)
    assert isinstance(error.__cause__, ValueError)


@pytest.mark.parametrize("deaf", [False, True])
def test_finalizer_that_hangs_is_ended_when_its_time_is_up(new_pool, gate, deaf: bool) -> None:
    pool = new_pool(exit_timeout=2, finalizer=careers.hang_at_the_end, finalargs=(gate.folder, deaf))
    pid = result_of(pool.submit(acts.tell_pid))
    pool.shutdown(wait=False)
    assert gate.wait_until_arrived() == [pid]

    pool.shutdown()

    assert is_gone(pid)


def test_finalizer_that_takes_less_than_its_time_is_waited_for(new_pool, gate, farewells: Path) -> None:
    pool = new_pool(exit_timeout=120, finalizer=careers.pass_gate_and_note_pid, finalargs=(gate.folder, str(farewells)))
    pid = result_of(pool.submit(acts.tell_pid))
    pool.shutdown(wait=False)
    assert gate.wait_until_arrived() == [pid]
    assert not is_gone(pid)

    gate.let_through()
    pool.shutdown()

    assert pids_in(farewells) == [pid]


def test_finalizer_that_takes_its_time_does_not_hold_up_the_next_task(new_pool, gate, farewells: Path) -> None:
    pool = new_pool(
        exit_timeout=120,
        max_tasks_per_child=1,
        finalizer=careers.pass_gate_and_note_pid,
        finalargs=(gate.folder, str(farewells)),
    )
    first = result_of(pool.submit(acts.tell_pid))
    assert gate.wait_until_arrived() == [first]

    second = result_of(pool.submit(acts.tell_pid))

    assert second != first
    assert not is_gone(first)
    assert gate.wait_until_arrived() == [second]
    gate.let_through(2)
    pool.shutdown()
    assert sorted(pids_in(farewells)) == sorted([first, second])


def test_kill_does_not_wait_for_a_finalizer_that_hangs(new_pool, gate) -> None:
    pool = new_pool(exit_timeout=3600, finalizer=careers.hang_at_the_end, finalargs=(gate.folder, False))
    pid = result_of(pool.submit(acts.tell_pid))
    pool.shutdown(wait=False)
    assert gate.wait_until_arrived() == [pid]

    pool.shutdown(kill=True)

    assert is_gone(pid)


# --- bad input ---


@pytest.mark.parametrize("value", [3, "function", b""])
def test_finalizer_that_cannot_be_called_is_refused_by_name(value) -> None:
    with pytest.raises(TypeError, match=f"^finalizer must be callable or None, not {value!r}$"):
        SafeProcessPoolExecutor(1, finalizer=value)


@pytest.mark.parametrize(("call", "args"), [("finalizer", "finalargs"), ("initializer", "initargs")])
def test_arguments_that_are_none_are_refused_by_name(call: str, args: str) -> None:
    with pytest.raises(TypeError, match=f"^{args} must be a tuple of arguments, not 5$"):
        SafeProcessPoolExecutor(1, **{call: acts.square, args: 5})


def test_finalizer_that_cannot_be_pickled_is_refused_at_once() -> None:
    with pytest.raises(LookupError, match="too shy"):
        SafeProcessPoolExecutor(1, finalizer=acts.square, finalargs=(calls.Shy(),))
