"""A task's exception arrives as it was raised, with the worker's traceback behind it."""

from __future__ import annotations

import sys
from concurrent.futures import Executor
from concurrent.futures.process import BrokenProcessPool

import pytest

from contract import calls
from contract.gate import Gate, pass_gate
from contract.kinds import NewPool
from contract.patience import error_of, result_of


@pytest.mark.parametrize(
    "error",
    [
        ValueError("plain"),
        KeyError("key"),
        FileNotFoundError(2, "No such file", "/nowhere"),
        UnicodeDecodeError("ascii", b"\xff", 0, 1, "not ascii"),
        ValueError("two", "arguments"),
        RuntimeError(),
        StopIteration(7),
        MemoryError(),
        calls.CodeError("text", 7),
    ],
    ids=lambda error: type(error).__name__,
)
def test_exception_arrives_with_its_type_and_arguments(pool: Executor, error: Exception) -> None:
    received = error_of(pool.submit(calls.raise_this, error))
    assert type(received) is type(error)
    assert received.args == error.args
    assert str(received) == str(error)


def test_exception_attributes_arrive(pool: Executor) -> None:
    received = error_of(pool.submit(calls.raise_this, calls.CodeError("text", 7)))
    assert isinstance(received, calls.CodeError)
    assert received.code == 7


def test_os_error_keeps_number_and_file(pool: Executor) -> None:
    received = error_of(pool.submit(calls.raise_this, FileNotFoundError(2, "No such file", "/nowhere")))
    assert isinstance(received, FileNotFoundError)
    assert (received.errno, received.filename) == (2, "/nowhere")


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt("pressed"), GeneratorExit()], ids=repr)
def test_base_exception_arrives(pool: Executor, error: BaseException) -> None:
    received = error_of(pool.submit(calls.raise_this, error))
    assert type(received) is type(error)
    assert received.args == error.args
    assert result_of(pool.submit(calls.square, 2)) == 4


def test_exception_cause_shows_the_remote_traceback(pool: Executor) -> None:
    received = error_of(pool.submit(calls.raise_value_error_in_the_worker, "look behind"))
    assert received is not None
    text = str(received.__cause__)
    assert "Traceback" in text
    assert "raise_value_error_in_the_worker" in text
    assert "ValueError: look behind" in text


def test_exception_raised_from_another_shows_both_in_the_remote_traceback(pool: Executor) -> None:
    received = error_of(pool.submit(calls.raise_from_another))
    assert isinstance(received, RuntimeError)
    assert "the first one" in str(received.__cause__)
    assert "the second one" in str(received.__cause__)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="notes came with Python 3.11")
def test_exception_notes_arrive(pool: Executor) -> None:
    received = error_of(pool.submit(calls.raise_with_note))
    assert getattr(received, "__notes__", None) == ["the note"]


@pytest.mark.skipif(sys.version_info < (3, 11), reason="exception groups came with Python 3.11")
def test_exception_group_arrives(pool: Executor) -> None:
    import builtins

    group = builtins.ExceptionGroup("several", [ValueError("one"), KeyError("two")])  # type: ignore[attr-defined,unused-ignore]
    received = error_of(pool.submit(calls.raise_this, group))
    assert type(received) is type(group)
    assert repr(received) == repr(group)


def test_result_raises_the_exception(pool: Executor) -> None:
    with pytest.raises(ValueError, match="raised by result"):
        result_of(pool.submit(calls.raise_value_error_in_the_worker, "raised by result"))


def test_exception_returned_is_a_result(pool: Executor) -> None:
    received = result_of(pool.submit(calls.same, ValueError("just a value")))
    assert isinstance(received, ValueError)
    assert received.args == ("just a value",)


def test_exception_leaves_the_worker_serving(new_pool: NewPool) -> None:
    import os

    pool = new_pool(max_workers=1)
    worker = result_of(pool.submit(os.getpid))
    assert isinstance(error_of(pool.submit(calls.raise_value_error_in_the_worker, "no harm")), ValueError)
    assert result_of(pool.submit(os.getpid)) == worker


def test_exception_that_cannot_be_rebuilt_leaves_the_pool_usable(new_pool: NewPool) -> None:
    pool = new_pool(max_workers=1)
    assert error_of(pool.submit(calls.raise_keyword_error, 5)) is not None
    assert result_of(pool.submit(calls.square, 2)) == 4


def test_worker_death_is_a_broken_process_pool(new_pool: NewPool) -> None:
    pool = new_pool(max_workers=1)
    assert isinstance(error_of(pool.submit(calls.exit_with, 1)), BrokenProcessPool)


def test_worker_death_fails_only_its_own_task(new_pool: NewPool, gate: Gate) -> None:
    pool = new_pool(max_workers=2)
    starting = [pool.submit(pass_gate, gate.folder, None) for _ in range(2)]
    gate.wait_until_arrived(2)
    gate.let_through(2)
    assert [result_of(future) for future in starting] == [None, None]
    neighbour = pool.submit(pass_gate, gate.folder, "undisturbed")
    gate.wait_until_arrived()
    assert isinstance(error_of(pool.submit(calls.exit_with, 1)), BrokenProcessPool)
    gate.let_through()
    assert result_of(neighbour) == "undisturbed"


def test_pool_after_a_worker_death_takes_further_tasks(new_pool: NewPool) -> None:
    pool = new_pool(max_workers=1)
    assert isinstance(error_of(pool.submit(calls.exit_with, 1)), BrokenProcessPool)
    assert result_of(pool.submit(calls.square, 2)) == 4
