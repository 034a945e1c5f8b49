"""``priority``: of what waits, the lowest number goes first; within a number, what came first."""

from __future__ import annotations

from pathlib import Path

import pytest

from contract.patience import result_of
from features import acts


def test_lower_numbers_go_first_and_equals_in_order(new_pool, gate, tmp_path: Path) -> None:
    pool = new_pool()
    path = str(tmp_path / "order")
    first = pool.submit(acts.pass_gate_and_tell_pid, gate.folder)
    gate.wait_until_arrived()
    words = [(5, "last"), (0, "second"), (-1, "first"), (0, "third"), (5, "very last")]
    waiting = [pool.options(priority=priority).submit(acts.note, path, word) for priority, word in words]

    gate.let_through()

    result_of(first)
    for future in waiting:
        result_of(future)
    assert Path(path).read_text("ascii").splitlines() == ["first", "second", "third", "last", "very last"]


def test_cancelled_task_of_high_priority_is_passed_over(new_pool, gate) -> None:
    pool = new_pool()
    pool.submit(acts.pass_gate_and_tell_pid, gate.folder)
    gate.wait_until_arrived()
    urgent = pool.options(priority=-1).submit(acts.square, 2)
    plain = pool.submit(acts.square, 3)

    assert urgent.cancel()
    gate.let_through()

    assert result_of(plain) == 9


@pytest.mark.parametrize("priority", [1.5, "1", None, True])
def test_bad_priority_is_refused_by_name(pool, priority) -> None:
    with pytest.raises(TypeError, match="priority"):
        pool.options(priority=priority)
