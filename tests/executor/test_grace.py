"""``grace``: between SIGTERM and the end, a task may say farewell; it may not stay."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from contract.gate import Gate
from contract.patience import error_of, is_gone, result_of
from executor import calls
from safepool import SafeProcessPoolExecutor, TaskTimeoutError

NewPool = Callable[..., SafeProcessPoolExecutor]


@pytest.mark.parametrize(
    "hang", [calls.hang_with_farewell, calls.hang_with_farewell_after_a_child, calls.hang_with_farewell_of_a_child]
)
def test_grace_lets_a_task_write_its_last_word(
    new_pool: NewPool, gate: Gate, tmp_path: Path, hang: Callable[[str, str], None]
) -> None:
    path = tmp_path / "last-word"
    pool = new_pool(grace=20)
    future = pool.submit(hang, gate.folder, str(path), task_timeout=3)
    gate.wait_until_arrived()
    error = error_of(future)
    assert isinstance(error, TaskTimeoutError)
    assert is_gone(error.pid)
    assert path.read_text(encoding="ascii").strip() == "farewell"
    assert result_of(pool.submit(calls.square, 3)) == 9


def test_grace_does_not_save_a_task_that_ignores_sigterm(new_pool: NewPool, gate: Gate) -> None:
    pool = new_pool(grace=0.3)
    future = pool.submit(calls.hang_ignoring_sigterm, gate.folder, task_timeout=2)
    gate.wait_until_arrived()
    error = error_of(future)
    assert isinstance(error, TaskTimeoutError)
    assert is_gone(error.pid)


def test_grace_of_zero_sends_no_sigterm(new_pool: NewPool, gate: Gate, tmp_path: Path) -> None:
    path = tmp_path / "last-word"
    pool = new_pool(grace=0)
    future = pool.submit(calls.hang_with_farewell, gate.folder, str(path), task_timeout=3)
    gate.wait_until_arrived()
    assert isinstance(error_of(future), TaskTimeoutError)
    assert not path.exists()


def test_grace_leaves_a_neighbour_alone(new_pool: NewPool, gate: Gate) -> None:
    """Its SIGTERM goes to one worker's group."""
    from contract.gate import pass_gate

    pool = new_pool(max_workers=2, grace=0.2)
    neighbour = pool.submit(pass_gate, gate.folder, "undisturbed")
    gate.wait_until_arrived()
    assert isinstance(error_of(pool.submit(calls.hang, task_timeout=0.3)), TaskTimeoutError)
    gate.let_through()
    assert result_of(neighbour) == "undisturbed"


def test_grace_changes_nothing_without_a_deadline(new_pool: NewPool) -> None:
    pool = new_pool(grace=5)
    assert [result_of(pool.submit(calls.square, number)) for number in range(3)] == [0, 1, 4]
