"""What a process of the context has started ends with it, however it ends."""

from __future__ import annotations

from collections.abc import Callable
from multiprocessing.process import BaseProcess

import pytest

from context import calls
from contract.gate import Gate
from contract.patience import PATIENCE, eventually, is_gone

Start = Callable[..., BaseProcess]


@pytest.mark.parametrize("end", ["kill", "terminate"])
def test_ending_a_process_ends_what_it_started(start: Start, gate: Gate, end: str) -> None:
    process = start(calls.leave_sleeping_and_hang, gate.folder)
    grandchildren = gate.wait_until_arrived(2)
    assert not any(is_gone(pid) for pid in grandchildren)
    getattr(process, end)()
    process.join(PATIENCE)
    assert process.exitcode is not None
    assert eventually(lambda: all(is_gone(pid) for pid in grandchildren))


@pytest.mark.parametrize("how", ["kill", "exit"])
def test_crash_of_a_process_ends_what_it_started(start: Start, gate: Gate, how: str) -> None:
    process = start(calls.leave_sleeping_and_die, gate.folder, how)
    grandchildren = gate.wait_until_arrived(3)[:2]
    assert not any(is_gone(pid) for pid in grandchildren)
    gate.let_through()
    assert eventually(lambda: all(is_gone(pid) for pid in grandchildren))
    process.join(PATIENCE)
    assert process.exitcode == {"kill": -9, "exit": 3}[how]


def test_crash_of_a_process_nobody_joins_ends_what_it_started(start: Start, gate: Gate) -> None:
    start(calls.leave_sleeping_and_die, gate.folder, "exit", daemon=True)
    grandchildren = gate.wait_until_arrived(3)[:2]
    gate.let_through()
    assert eventually(lambda: all(is_gone(pid) for pid in grandchildren))


def test_return_of_a_process_ends_what_it_left(start: Start, gate: Gate) -> None:
    process = start(calls.leave_sleeping, gate.folder)
    grandchildren = gate.wait_until_arrived(2)
    process.join(PATIENCE)
    assert process.exitcode == 0
    assert eventually(lambda: all(is_gone(pid) for pid in grandchildren))


def test_end_of_a_process_leaves_its_neighbour_and_the_tree_of_that_alone(start: Start, gate: Gate) -> None:
    neighbour = start(calls.leave_sleeping_and_hang, gate.folder)
    neighbours_children = gate.wait_until_arrived(2)
    process = start(calls.leave_sleeping_and_hang, gate.folder)
    children = gate.wait_until_arrived(2)
    process.kill()
    process.join(PATIENCE)
    assert eventually(lambda: all(is_gone(pid) for pid in children))
    assert neighbour.is_alive()
    assert not any(is_gone(pid) for pid in neighbours_children)
