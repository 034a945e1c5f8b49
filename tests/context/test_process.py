"""A process of the context behaves as one of multiprocessing."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from multiprocessing import connection
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from context import calls
from contract.gate import Gate
from contract.patience import PATIENCE, eventually, is_gone
from contract.scripts import start_script
from safepool import get_context

Start = Callable[..., BaseProcess]


def exitcode_of(process: BaseProcess) -> int | None:
    """Wait for the end of a process, within patience."""
    process.join(PATIENCE)
    return process.exitcode


def test_context_is_one_of_multiprocessing(context: BaseContext) -> None:
    assert isinstance(context, BaseContext)
    assert get_context() is context


def test_process_is_one_of_multiprocessing(start: Start) -> None:
    process = start(calls.nothing)
    assert isinstance(process, BaseProcess)
    assert exitcode_of(process) == 0


@pytest.mark.parametrize(
    ("target", "args", "exitcode"),
    [(calls.nothing, (), 0), (calls.exit_with, (3,), 3), (calls.fail, (), 1)],
    ids=["returns", "exits", "raises"],
)
def test_process_that_ends_tells_its_exitcode(
    start: Start, target: Callable[..., object], args: tuple[object, ...], exitcode: int
) -> None:
    process = start(target, *args)
    assert exitcode_of(process) == exitcode
    assert not process.is_alive()


def test_process_while_it_runs_is_alive(start: Start, gate: Gate) -> None:
    process = start(calls.arrive_and_hang, gate.folder)
    assert gate.wait_until_arrived() == [process.pid]
    assert process.is_alive()
    assert process.exitcode is None
    assert process in multiprocessing.active_children()


def test_process_join_with_timeout_returns_while_it_runs(start: Start, gate: Gate) -> None:
    process = start(calls.arrive_and_hang, gate.folder)
    gate.wait_until_arrived()
    process.join(0.05)
    assert process.exitcode is None


def test_process_sentinel_becomes_ready_at_its_end(start: Start, gate: Gate) -> None:
    process = start(calls.arrive_and_hang, gate.folder)
    gate.wait_until_arrived()
    assert connection.wait([process.sentinel], 0) == []
    process.kill()
    assert connection.wait([process.sentinel], PATIENCE) == [process.sentinel]
    assert exitcode_of(process) == -signal.SIGKILL


def test_process_joined_from_another_thread_tells_its_exitcode(start: Start) -> None:
    process = start(calls.exit_with, 5)
    codes: list[int | None] = []
    thread = threading.Thread(target=lambda: codes.append(exitcode_of(process)))
    thread.start()
    thread.join(2 * PATIENCE)
    assert codes == [5]


def test_terminate_ends_the_process_by_sigterm(start: Start, gate: Gate) -> None:
    process = start(calls.arrive_and_hang, gate.folder)
    gate.wait_until_arrived()
    process.terminate()
    assert exitcode_of(process) == -signal.SIGTERM


def test_terminate_ends_even_a_process_that_ignores_sigterm(start: Start, gate: Gate) -> None:
    process = start(calls.ignore_sigterm_and_hang, gate.folder)
    gate.wait_until_arrived()
    process.terminate()
    assert exitcode_of(process) == -signal.SIGKILL


def test_kill_ends_the_process_by_sigkill(start: Start, gate: Gate) -> None:
    process = start(calls.ignore_sigterm_and_hang, gate.folder)
    gate.wait_until_arrived()
    process.kill()
    assert exitcode_of(process) == -signal.SIGKILL


@pytest.mark.parametrize("end", ["terminate", "kill"])
def test_ending_a_process_that_has_ended_changes_nothing(start: Start, end: str) -> None:
    process = start(calls.exit_with, 3)
    assert exitcode_of(process) == 3
    getattr(process, end)()
    assert process.exitcode == 3


def test_process_killed_from_outside_tells_the_signal(start: Start, gate: Gate) -> None:
    process = start(calls.arrive_and_hang, gate.folder)
    gate.wait_until_arrived()
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    assert exitcode_of(process) == -signal.SIGKILL


def test_process_with_an_argument_that_cannot_be_pickled_raises_in_start(context: BaseContext) -> None:
    process = context.Process(target=calls.square, args=(threading.Lock(),))  # type: ignore[attr-defined]
    with pytest.raises(TypeError, match="pickle"):
        process.start()


DAEMON_SCRIPT = """
from context import calls
from contract.gate import pass_gate
from safepool import get_context

if __name__ == "__main__":
    get_context().Process(target=calls.arrive_and_hang, args=({folder!r},), daemon=True).start()
    pass_gate({folder!r}, None)
"""


def test_daemonic_process_ends_with_its_host(gate: Gate, tmp_path: Path) -> None:
    with start_script(tmp_path / "program.py", DAEMON_SCRIPT.format(folder=gate.folder)) as host:
        try:
            arrived = gate.wait_until_arrived(2)
            assert not any(is_gone(pid) for pid in arrived)
            gate.let_through()
            output, _ = host.communicate(timeout=60)
        finally:
            host.kill()
    assert host.returncode == 0, output
    assert eventually(lambda: all(is_gone(pid) for pid in arrived))
