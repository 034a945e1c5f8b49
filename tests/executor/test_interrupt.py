"""Ctrl-C ends the pool, whatever its tasks are doing."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from contract.gate import Gate
from contract.patience import eventually, is_gone
from contract.scripts import start_script
from executor import calls
from safepool import SafeProcessPoolExecutor, TaskKilledError

NewPool = Callable[..., SafeProcessPoolExecutor]


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, SystemExit])
def test_interruption_in_the_with_block_ends_what_runs_and_waits(
    new_pool: NewPool, gate: Gate, interruption: type[BaseException]
) -> None:
    with pytest.raises(interruption), new_pool(max_workers=1) as pool:  # noqa: PT012  # the block is the test
        running = pool.submit(calls.hang, gate.folder)
        waiting = pool.submit(calls.square, 3)
        (worker,) = gate.wait_until_arrived()
        raise interruption
    assert isinstance(running.exception(timeout=0), TaskKilledError)
    assert waiting.cancelled()
    assert is_gone(worker)


SCRIPT = """
from executor import calls
from safepool import SafeProcessPoolExecutor

if __name__ == "__main__":
    with SafeProcessPoolExecutor(2) as pool:
        futures = [pool.submit({task}, {folder!r}) for _ in range(2)]
        {wait}
"""


@pytest.mark.parametrize("wait", ["futures[0].result()", "pool.shutdown()", "pass"], ids=["result", "shutdown", "exit"])
@pytest.mark.parametrize("task", ["calls.hang", "calls.hang_ignoring_sigterm"])
def test_sigint_to_the_host_ends_it_and_its_workers(gate: Gate, tmp_path: Path, wait: str, task: str) -> None:
    """The host alone gets the signal, as from ``kill -INT``; its workers are in sessions of their own anyway."""
    script = SCRIPT.format(task=task, folder=gate.folder, wait=wait)
    with start_script(tmp_path / "program.py", script) as host:
        try:
            workers = gate.wait_until_arrived(2)
            host.send_signal(signal.SIGINT)
            output, _ = host.communicate(timeout=60)
        finally:
            host.kill()
    assert host.returncode == -signal.SIGINT, output
    assert "KeyboardInterrupt" in output
    assert eventually(lambda: all(is_gone(worker) for worker in workers))
