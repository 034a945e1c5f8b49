"""``on_error``: what becomes of the work when an exception leaves the ``with`` block."""

from __future__ import annotations

import pytest

from contract.patience import error_of, result_of
from features import acts
from safepool import SafeProcessPoolExecutor, TaskKilledError


class OwnError(Exception):
    pass


def leave_by_error(pool: SafeProcessPoolExecutor, gate) -> tuple:
    """Leave the block while one task runs and one waits; return their futures."""
    with pytest.raises(OwnError), pool:  # noqa: PT012  # the block is what is tested
        running = pool.submit(acts.pass_gate_and_tell_pid, gate.folder)
        (pid,) = gate.wait_until_arrived()
        waiting = pool.submit(acts.square, 3)
        if pool._on_error != "kill":
            gate.let_through()
        raise OwnError
    return running, waiting, pid


def test_wait_finishes_everything(gate) -> None:
    running, waiting, pid = leave_by_error(SafeProcessPoolExecutor(1), gate)

    assert (result_of(running), result_of(waiting)) == (pid, 9)


def test_cancel_finishes_what_runs(gate) -> None:
    running, waiting, pid = leave_by_error(SafeProcessPoolExecutor(1, on_error="cancel"), gate)

    assert result_of(running) == pid
    assert waiting.cancelled() or result_of(waiting) == 9  # unless the worker was about to take it


def test_kill_ends_everything(gate) -> None:
    running, waiting, _pid = leave_by_error(SafeProcessPoolExecutor(1, on_error="kill"), gate)

    assert isinstance(error_of(running), TaskKilledError)
    assert waiting.cancelled()


def test_block_that_ends_well_is_waited_for_whatever_on_error_says(gate) -> None:
    with SafeProcessPoolExecutor(1, on_error="kill") as pool:
        future = pool.submit(acts.square, 3)

    assert result_of(future) == 9


@pytest.mark.parametrize("value", ["stop", None, 1])
def test_bad_choice_is_refused_by_name(value) -> None:
    with pytest.raises(ValueError, match="on_error"):
        SafeProcessPoolExecutor(1, on_error=value)
