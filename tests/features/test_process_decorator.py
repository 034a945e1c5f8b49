"""``@safepool.process``: each call in a fresh contained process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import safepool
from contract.patience import error_of, eventually, is_gone, result_of
from contract.scripts import environment, run_script
from features import decorated
from safepool import SafeFuture, TaskKilledError, TaskTimeoutError, WorkerDiedError


def test_call_runs_in_a_process_of_its_own_which_is_gone_afterwards() -> None:
    first, second = decorated.tell_pid(), decorated.tell_pid()
    pids = {result_of(first), result_of(second)}

    assert isinstance(first, SafeFuture)
    assert len(pids) == 2
    assert os.getpid() not in pids
    assert eventually(lambda: all(is_gone(pid) for pid in pids))


def test_call_takes_arguments_and_environment() -> None:
    assert result_of(decorated.describe(3, scale=2)) == (6, "set")


def test_every_keyword_is_the_function_s() -> None:
    assert result_of(decorated.repeat(task_timeout="mine")) == "mine"


def test_decorated_function_keeps_its_name_and_its_function() -> None:
    assert decorated.describe.__name__ == "describe"
    assert decorated.describe.__doc__ is not None
    assert decorated.describe.__wrapped__(3) == (3, None)


def test_function_that_goes_by_another_name_is_sent_by_value() -> None:
    assert [result_of(decorated.count_in_process()) for _ in range(2)] == [1, 1]
    assert decorated.count == 0


def test_call_past_its_timeout_is_ended() -> None:
    error = error_of(decorated.hang())

    assert isinstance(error, TaskTimeoutError)
    assert is_gone(error.pid)


def test_killed_call_is_gone_with_what_it_started(gate) -> None:
    future = decorated.hang_with_child(gate.folder)
    (child,) = gate.wait_until_arrived()
    assert not is_gone(child)

    assert future.kill()

    assert isinstance(error_of(future), TaskKilledError)
    assert is_gone(child)


def test_call_whose_process_dies_fails() -> None:
    assert isinstance(error_of(decorated.die()), WorkerDiedError)


def test_call_whose_process_dies_is_tried_again(tmp_path: Path) -> None:
    assert result_of(decorated.die_at_first(str(tmp_path / "runs"))) == 2


def test_exception_arrives_as_it_was_raised() -> None:
    error = error_of(decorated.fail("so"))

    assert isinstance(error, ValueError)
    assert error.args == ("so",)


def test_decorated_function_may_call_itself() -> None:
    assert result_of(decorated.factorial(2)) == 2


def test_decorated_method_has_its_object() -> None:
    assert result_of(decorated.Counter(40).plus(2)) == 42


@pytest.mark.parametrize(
    ("option", "error"),
    [
        ({"timeout": 0}, ValueError),
        ({"timeout": "soon"}, TypeError),
        ({"timeout": 1, "soft_timeout": 2}, ValueError),
        ({"memory_limit": "much"}, ValueError),
        ({"grace": -1}, ValueError),
        ({"retries": -1}, ValueError),
        ({"env": {"A": 1}}, TypeError),
    ],
    ids=str,
)
def test_bad_option_is_named_when_the_function_is_decorated(option, error) -> None:
    name = next(reversed(option))
    with pytest.raises(error, match=rf"^{name}"):
        safepool.process(**option)


def test_what_cannot_be_called_is_refused() -> None:
    with pytest.raises(TypeError, match=r"^fn must be callable, not 3"):
        safepool.process(3)


PROGRAM = """
import os, safepool

@safepool.process(timeout=60)
def work(number):
    return number * number, os.getpid()
{guard}
    square, pid = work(4).result()
    print(square, pid != os.getpid())
"""


def test_guarded_script_decorates_its_own_functions(tmp_path: Path) -> None:
    done = run_script(tmp_path / "program.py", PROGRAM.format(guard="if __name__ == '__main__':"))

    assert (done.stdout, done.returncode) == ("16 True\n", 0), done.stderr


def test_program_that_no_worker_can_import_decorates_its_own_functions() -> None:
    """As in a notebook: the program is given by standard input."""
    program = PROGRAM.format(guard="if True:")
    command = [sys.executable, "-"]
    done = subprocess.run(
        command, input=program, env=environment(), capture_output=True, text=True, timeout=60, check=False
    )

    assert (done.stdout, done.returncode) == ("16 True\n", 0), done.stderr
