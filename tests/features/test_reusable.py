"""``get_reusable_executor``: one executor for the whole process, replaced only when it has to be."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from contract.patience import PATIENCE, error_of, eventually, is_gone, result_of
from contract.scripts import run_script
from features import acts, hostile
from safepool import (
    InitializerError,
    SafeProcessPoolExecutor,
    TaskKilledError,
    WorkerDiedError,
    cpu_count,
    get_reusable_executor,
)
from safepool._pool import reusable


@pytest.fixture(autouse=True)
def none_kept(gate, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Begin without an executor, and end all that there were."""
    made: list[SafeProcessPoolExecutor] = []

    def make(*args: Any, **options: Any) -> SafeProcessPoolExecutor:
        made.append(SafeProcessPoolExecutor(*args, **options))
        return made[-1]

    make.__signature__ = reusable.inspect.signature(SafeProcessPoolExecutor)  # type: ignore[attr-defined]
    monkeypatch.setattr(reusable, "SafeProcessPoolExecutor", make)
    yield
    gate.close()
    reusable._kept = None
    while made:
        made.pop().shutdown(kill=True)


@pytest.fixture
def elsewhere() -> Iterator[Callable[..., Any]]:
    """Call something in a thread of its own; return its future."""
    with ThreadPoolExecutor(8) as threads:
        yield threads.submit


class Incomparable:
    """As an array, which has no one answer to whether it equals another."""

    def __eq__(self, other: object) -> bool:
        raise ValueError("ambiguous")

    __hash__ = None  # type: ignore[assignment]


def test_executor_is_the_same_for_the_same_options() -> None:
    first = get_reusable_executor(2, env={"A": "1"})
    pid = result_of(first.submit(acts.tell_pid))

    assert get_reusable_executor(2, env={"A": "1"}, task_timeout=None, idle_timeout=10.0) is first
    assert result_of(first.submit(acts.tell_pid)) == pid


def test_executor_has_the_usable_cpus_and_lets_idle_workers_leave_unless_told_otherwise() -> None:
    executor = get_reusable_executor()

    assert executor._max_workers == cpu_count()
    assert executor._pool._state.settings.idle_timeout == 10.0


def test_idle_workers_leave_and_the_executor_stays() -> None:
    first = get_reusable_executor(1, idle_timeout=0.2)
    pid = result_of(first.submit(acts.tell_pid))
    assert eventually(lambda: is_gone(pid))

    assert get_reusable_executor(1, idle_timeout=0.2) is first
    assert result_of(first.submit(acts.tell_pid)) != pid


def test_executor_is_resized_for_another_number_of_workers(gate) -> None:
    executor = get_reusable_executor(1)
    futures = [executor.submit(acts.pass_gate_and_tell_pid, gate.folder) for _ in range(2)]
    gate.wait_until_arrived()
    assert not futures[1].running()

    assert get_reusable_executor(2) is executor

    assert executor._max_workers == 2
    gate.wait_until_arrived()
    gate.let_through(2)
    pids = {result_of(future) for future in futures}
    assert get_reusable_executor(1) is executor
    assert eventually(lambda: sum(is_gone(pid) for pid in pids) == 1)
    assert get_reusable_executor()._max_workers == cpu_count()


@pytest.mark.parametrize("change", [{"task_timeout": 5.0}, {"env": {"A": "2"}}, {"reuse": False}])
def test_executor_is_replaced_for_other_options_once_its_work_is_done(gate, elsewhere, change) -> None:
    old = get_reusable_executor(1, env={"A": "1"})
    running = old.submit(acts.pass_gate_and_tell_pid, gate.folder)
    waiting = old.submit(acts.square, 3)
    gate.wait_until_arrived()

    replaced = elsewhere(get_reusable_executor, 1, **{"env": {"A": "1"}, **change})

    assert eventually(lambda: not old._pool.is_open)
    assert not replaced.done()
    gate.let_through()
    new = result_of(replaced)
    assert new is not old
    assert running.done()
    assert waiting.result(0) == 9
    assert result_of(new.submit(acts.square, 4)) == 16
    with pytest.raises(RuntimeError, match="shutdown"):
        old.submit(acts.square, 4)


def test_executor_that_is_replaced_with_kill_workers_ends_its_work(gate) -> None:
    old = get_reusable_executor(1)
    running = old.submit(acts.pass_gate_and_tell_pid, gate.folder)
    gate.wait_until_arrived()

    new = get_reusable_executor(1, reuse=False, kill_workers=True)

    assert isinstance(running.exception(0), TaskKilledError)
    assert result_of(new.submit(acts.square, 4)) == 16


def test_reuse_takes_the_executor_whatever_its_options_and_its_size() -> None:
    first = get_reusable_executor(3, task_timeout=5.0)

    assert get_reusable_executor(reuse=True) is first
    assert first._max_workers == 3
    assert get_reusable_executor(2, reuse=True, retries=1) is first
    assert first._max_workers == 2
    assert get_reusable_executor(2, task_timeout=5.0) is first


@pytest.mark.parametrize("reuse", ["auto", True])
def test_executor_that_was_shut_down_is_replaced(reuse) -> None:
    with get_reusable_executor(1) as old:
        assert result_of(old.submit(acts.square, 3)) == 9

    new = get_reusable_executor(1, reuse=reuse)

    assert new is not old
    assert result_of(new.submit(acts.square, 3)) == 9


@pytest.mark.parametrize("reuse", ["auto", True])
def test_executor_that_broke_is_replaced(reuse) -> None:
    old = get_reusable_executor(1, initializer=hostile.refuse)
    assert isinstance(error_of(old.submit(acts.square, 3)), InitializerError)

    new = get_reusable_executor(1, reuse=reuse, initializer=hostile.refuse)

    assert new is not old
    assert result_of(get_reusable_executor(1).submit(acts.square, 3)) == 9


def test_executor_that_is_shut_down_while_it_is_resized_is_replaced(monkeypatch) -> None:
    """1. It is found open. 2. Another thread shuts it down. 3. It is resized, which it refuses."""
    old = get_reusable_executor(1)
    old.shutdown()
    monkeypatch.setattr(type(old._pool), "is_open", True)

    new = get_reusable_executor(2)

    assert new is not old
    assert result_of(new.submit(acts.square, 3)) == 9


def test_executor_goes_on_after_the_death_of_a_worker(gate) -> None:
    executor = get_reusable_executor(2)
    victim, neighbour = (executor.submit(acts.pass_gate_and_tell_pid, gate.folder) for _ in range(2))
    gate.wait_until_arrived(2)

    os.kill(victim.pid, signal.SIGKILL)

    assert isinstance(error_of(victim), WorkerDiedError)
    assert get_reusable_executor(2) is executor
    gate.let_through()
    assert result_of(neighbour)
    assert result_of(executor.submit(acts.square, 3)) == 9


def test_executor_that_is_resized_while_a_worker_dies_fails_its_task_alone(gate) -> None:
    executor = get_reusable_executor(2)
    victim, neighbour = (executor.submit(acts.pass_gate_and_tell_pid, gate.folder) for _ in range(2))
    gate.wait_until_arrived(2)

    os.kill(victim.pid, signal.SIGKILL)

    assert get_reusable_executor(1) is executor
    assert isinstance(error_of(victim), WorkerDiedError)
    gate.let_through()
    assert result_of(executor.submit(acts.tell_pid)) == result_of(neighbour)


def test_options_that_cannot_be_compared_are_not_the_same() -> None:
    def ask() -> SafeProcessPoolExecutor:
        return get_reusable_executor(1, initializer=hostile.accept, initargs=(Incomparable(),))

    assert ask() is not ask()


def test_options_that_were_changed_in_place_are_not_the_same() -> None:
    env = {"A": "1"}
    first = get_reusable_executor(1, env=env)
    env["A"] = "2"

    assert get_reusable_executor(1, env=env) is not first


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"max_workers": 0}, "max_workers"),
        ({"max_workers": "2"}, "max_workers"),
        ({"max_workers": 1.0}, "max_workers"),
        ({"reuse": "never"}, "reuse"),
        ({"reuse": None}, "reuse"),
        ({"task_timeout": -1}, "task_timeout"),
        ({"idle_timeout": "1"}, "idle_timeout"),
        ({"no_such_option": 1}, "no_such_option"),
        ({"min_workers": 2, "max_workers": 1}, "min_workers"),
    ],
)
def test_bad_argument_is_refused_by_name_and_changes_nothing(gate, arguments: dict[str, Any], name: str) -> None:
    executor = get_reusable_executor(1)
    running = executor.submit(acts.pass_gate_and_tell_pid, gate.folder)
    gate.wait_until_arrived()

    with pytest.raises((TypeError, ValueError), match=name):
        get_reusable_executor(**arguments)

    assert get_reusable_executor(1) is executor
    gate.let_through()
    assert result_of(running)


def test_all_threads_are_given_the_same_executor(elsewhere, monkeypatch) -> None:
    """1. All have found out what they want. 2. The first makes an executor. 3. Does a second do so meanwhile?"""
    together, second = threading.Barrier(8), threading.Event()
    make, makers = reusable._make, []

    def make_together(*args: Any) -> SafeProcessPoolExecutor:
        makers.append(threading.get_ident())
        if len(makers) > 1:
            second.set()
        second.wait(0.3)
        return make(*args)

    monkeypatch.setattr(reusable, "_make", make_together)

    def ask() -> SafeProcessPoolExecutor:
        together.wait(PATIENCE)
        return get_reusable_executor(1)

    executors = {result_of(future) for future in [elsewhere(ask) for _ in range(8)]}

    assert len(executors) == 1
    assert result_of(executors.pop().submit(acts.square, 3)) == 9


def test_callback_of_what_a_replacement_waits_for_may_ask_for_the_executor(gate, elsewhere) -> None:
    old = get_reusable_executor(1)
    asked: list[SafeProcessPoolExecutor] = []
    future = old.submit(acts.pass_gate_and_tell_pid, gate.folder)
    future.add_done_callback(lambda _: asked.append(get_reusable_executor(reuse=True)))
    gate.wait_until_arrived()

    replaced = elsewhere(get_reusable_executor, 1, reuse=False)
    assert eventually(lambda: not old._pool.is_open)
    gate.let_through()

    assert [result_of(replaced)] == asked
    assert asked != [old]


def test_task_has_a_reusable_executor_of_its_own() -> None:
    executor = get_reusable_executor(1)

    squares, pids = result_of(executor.submit(acts.squares_by_reusable_executor, [1, 2, 3]))

    assert squares == [1, 4, 9]
    assert len(pids) == 1
    assert result_of(executor.submit(acts.tell_pid)) not in pids


def test_forked_child_has_an_executor_of_its_own_even_if_born_while_another_thread_asks(tmp_path: Path) -> None:
    program = """
import os, threading, warnings
from safepool import get_reusable_executor
from safepool._pool import reusable

warnings.simplefilter("ignore")  # 3.12: a fork beside threads, which is the point here

def hold(taken, let_go):
    with reusable._lock:
        taken.set()
        let_go.wait()

if __name__ == "__main__":
    executor = get_reusable_executor(1)
    first = executor.submit(os.getpid).result()
    taken, let_go = threading.Event(), threading.Event()
    thread = threading.Thread(target=hold, args=(taken, let_go))
    thread.start()
    taken.wait()
    child = os.fork()
    if not child:
        own = get_reusable_executor(1)
        print(own is not executor, own.submit(os.getpid).result() != first, own is get_reusable_executor(1), flush=True)
        own.shutdown()
        os._exit(0)
    os.waitpid(child, 0)
    let_go.set()
    print(get_reusable_executor(1) is executor, executor.submit(os.getpid).result() == first)
"""
    done = run_script(tmp_path / "program.py", program)

    assert (done.stdout, done.returncode) == ("True True True\nTrue True\n", 0), done.stderr


def test_program_that_leaves_its_executor_behind_ends(tmp_path: Path) -> None:
    program = """
from safepool import get_reusable_executor

if __name__ == "__main__":
    print(get_reusable_executor(1, idle_timeout=None).submit(abs, -3).result())
"""
    done = run_script(tmp_path / "program.py", program)

    assert (done.stdout, done.stderr, done.returncode) == ("3\n", "", 0)
