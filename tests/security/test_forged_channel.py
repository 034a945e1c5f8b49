"""A task can write whatever it likes to its worker's channel: it harms its own outcome, and nobody else's.

It could do more by what it returns, which the host unpickles; that is pickle's nature (``SECURITY.md``). What is shown
here is that bytes alone, from code gone wild or from code that means harm, do not crash, stall or fill up the host.
"""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from contract.gate import Gate, pass_gate
from contract.patience import error_of, eventually, result_of
from features.acts import square, tell_pid
from safepool import SafeProcessPoolExecutor, TaskTimeoutError, TransferError, WorkerDiedError
from safepool._pool.watch import Watch
from security import forgeries
from support import census

pytestmark = pytest.mark.timeout(60)

_MOST_FILES = 300  # descriptors more than before the test: what one hostile worker can have the host keep, and its pool


_before = 0


@pytest.fixture(autouse=True)
def count_files() -> None:
    """The pool of the tests before may keep what their hostile workers had it keep."""
    global _before
    gc.collect()
    _before = len(census.open_files())


@pytest.fixture
def neighbour(pool: SafeProcessPoolExecutor, gate: Gate) -> Any:
    """A task of another worker, which runs meanwhile, and whose outcome must be its own."""
    future = pool.submit(pass_gate, gate.folder, "of the neighbour")
    gate.wait_until_arrived()
    assert not future.done()
    return future


@pytest.fixture
def second_gate(tmp_path: Path) -> Iterator[Gate]:
    gate = Gate(tmp_path / "second")
    yield gate
    gate.close()


def is_unharmed(pool: SafeProcessPoolExecutor, gate: Gate, neighbour: Any) -> None:
    """The other worker's task comes to its own end, and the pool goes on."""
    assert not neighbour.done()
    gate.close()
    assert result_of(neighbour) == "of the neighbour"
    assert [result_of(pool.submit(square, number)) for number in range(20)] == [number**2 for number in range(20)]
    assert list(pool.map(square, range(200), timeout=30)) == [number**2 for number in range(200)]
    files = census.open_files()
    assert len(files) - _before < _MOST_FILES, files


@pytest.mark.parametrize("name", forgeries.FOREIGN)
def test_task_that_sends_what_no_worker_sends_loses_its_worker(pool, gate, neighbour, name) -> None:
    hostile = pool.submit(forgeries.forge_and_hang, name)

    error = error_of(hostile)

    assert isinstance(error, WorkerDiedError)
    assert "channel" in str(error)
    is_unharmed(pool, gate, neighbour)


@pytest.mark.parametrize("family", forgeries.ANSWERS)
def test_task_that_answers_for_itself_has_that_answer_and_no_other_task_has(
    pool, gate, neighbour, second_gate, family
) -> None:
    for number, name in enumerate(forgeries.ANSWERS[family]):
        hostile = pool.submit(forgeries.forge_answer_and_wait, family, number, second_gate.folder)

        error = error_of(hostile)  # while the task itself still waits, so this is the forged one

        second_gate.wait_until_arrived()
        second_gate.let_through()
        assert error is None or isinstance(error, TransferError), (name, error)
        assert not neighbour.done()
    is_unharmed(pool, gate, neighbour)


@pytest.mark.parametrize("name", forgeries.IGNORED)
def test_frames_that_mean_nothing_change_nothing(pool, gate, neighbour, name) -> None:
    hostile = pool.submit(forgeries.forge, name, neighbour._task.number)

    assert result_of(hostile) == f"forged: {name}"

    is_unharmed(pool, gate, neighbour)


def test_answers_to_tasks_of_others_are_not_kept(new_pool, gate) -> None:
    pool = new_pool(1)
    hostile = pool.submit(forgeries.forge_then_wait, "answers to others", gate.folder)
    gate.wait_until_arrived()
    (worker,) = pool._pool._state.workers.values()

    assert eventually(lambda: worker.unfit) == b"junk"

    assert len(worker.answers) <= 1
    gate.let_through()
    assert result_of(hostile) is None


@pytest.mark.parametrize(
    "words",
    [("nan",), ("inf",), ("nobody", "nan", "now", "far", "another")],
    ids=", ".join,
)
def test_task_that_lies_about_its_beginning_is_ended_at_its_deadline(new_pool, monkeypatch, words) -> None:
    turns: Counter[str] = Counter()
    wait = Watch.wait

    def count(self: Watch, seconds: float | None) -> Any:
        turns["taken"] += 1
        return wait(self, seconds)

    pool = new_pool(1)
    result_of(pool.submit(tell_pid))
    hostile = pool.submit(forgeries.forge_record_and_hang, words, task_timeout=0.2)
    monkeypatch.setattr(Watch, "wait", count)

    error = error_of(hostile)

    assert isinstance(error, TaskTimeoutError)
    assert "forge_record_and_hang" in error.stack
    assert turns["taken"] < 1000, "the supervisor did not wait"
    assert result_of(pool.submit(square, 3)) == 9


def test_task_that_claims_to_have_begun_long_ago_harms_only_itself(new_pool, gate) -> None:
    pool = new_pool(2)
    neighbour = pool.submit(pass_gate, gate.folder, "of the neighbour", task_timeout=600)
    gate.wait_until_arrived()

    hostile = pool.submit(forgeries.forge_record_and_hang, ("past",), task_timeout=0.5)

    assert isinstance(error_of(hostile), TaskTimeoutError)
    is_unharmed(pool, gate, neighbour)


def test_worker_that_answers_without_taking_tickets_is_found_out(new_pool) -> None:
    """The host would give it one task after the other that cannot be given: there is no room for more tickets."""
    pool = new_pool(1)
    hostile = pool.submit(forgeries.answer_without_tickets)
    assert result_of(hostile) == "forged"

    outcomes = [settled(pool.submit(square, number)) for number in range(600)]  # one by one: each ticket by itself

    assert "forged" in outcomes
    assert outcomes[-1] == 599**2
    assert {outcome for outcome in outcomes if isinstance(outcome, int)} <= {number**2 for number in range(600)}


def settled(future: Any) -> object:
    """Wait for an outcome: the value, or the type of the error."""
    error = error_of(future)
    return future.result() if error is None else type(error)
