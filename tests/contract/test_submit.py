"""What ``submit`` promises about calls, arguments and results."""

from __future__ import annotations

import concurrent.futures
import functools
import os
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

import pytest

from contract import calls
from contract.gate import Gate, pass_gate
from contract.kinds import NewPool
from contract.patience import PATIENCE, error_of, result_of


def test_pool_is_an_executor(pool: Executor) -> None:
    assert isinstance(pool, concurrent.futures.Executor)


def test_submit_returns_a_future(pool: Executor) -> None:
    future = pool.submit(calls.add, 1, 2)
    assert isinstance(future, Future)
    assert result_of(future) == 3


def test_future_after_success_says_done(pool: Executor) -> None:
    future = pool.submit(calls.add, 1, 2)
    assert error_of(future) is None
    assert (future.done(), future.running(), future.cancelled()) == (True, False, False)


def test_submit_runs_the_call_in_another_process(pool: Executor) -> None:
    assert result_of(pool.submit(os.getpid)) != os.getpid()


@pytest.mark.parametrize(
    ("fn", "expected"),
    [
        (functools.partial(calls.add, 1), 3),
        (calls.Counter(40).plus, 42),
        (abs, 2),
        (str, "2"),
        ([1, 2, 3].index, 1),
    ],
    ids=["partial", "bound-method", "builtin", "class", "builtin-method"],
)
def test_submit_any_callable_runs_it(pool: Executor, fn: Callable[[int], Any], expected: object) -> None:
    assert result_of(pool.submit(fn, 2)) == expected


def test_submit_keywords_named_like_parameters_reach_the_task(pool: Executor) -> None:
    keywords = {"self": 1, "fn": 2, "timeout": 3, "args": 4, "kwargs": 5, "future": 6, "chunksize": 7}
    assert result_of(pool.submit(calls.arguments, "first", **keywords)) == (("first",), keywords)


def test_submit_none_as_result_arrives(pool: Executor) -> None:
    assert result_of(pool.submit(calls.returns_none)) is None


@pytest.mark.parametrize("value", [0, "", (), {"nested": [1, {2}]}, b"\x00\xff", 1.5, ..., NotImplemented])
def test_submit_value_arrives_unchanged(pool: Executor, value: object) -> None:
    assert result_of(pool.submit(calls.same, value)) == value


def test_submit_large_argument_arrives(pool: Executor) -> None:
    assert result_of(pool.submit(calls.size_of, b"x" * 10_000_000)) == 10_000_000


def test_submit_large_result_arrives(pool: Executor) -> None:
    assert result_of(pool.submit(calls.bytes_of_size, 10_000_000)) == b"x" * 10_000_000


def test_submit_large_both_ways_at_once_does_not_block(pool: Executor) -> None:
    block = b"y" * 2_000_000
    futures = [pool.submit(calls.same, block) for _ in range(6)]
    assert all(result_of(future) == block for future in futures)


def test_submit_argument_changed_later_keeps_no_tie_to_the_result(pool: Executor) -> None:
    numbers = [1, 2]
    future = pool.submit(calls.same, numbers)
    received = result_of(future)
    numbers.append(3)
    assert received == [1, 2]


def test_submit_without_function_raises_type_error(pool: Executor) -> None:
    with pytest.raises(TypeError):
        pool.submit()  # type: ignore[call-arg]


def test_submit_function_by_keyword_raises_type_error(pool: Executor) -> None:
    with pytest.raises(TypeError):
        pool.submit(fn=calls.returns_none)  # type: ignore[call-arg]


def test_submit_wrong_arguments_for_the_function_fails_the_future(pool: Executor) -> None:
    assert isinstance(error_of(pool.submit(calls.add, 1)), TypeError)  # type: ignore[call-arg]


def test_submit_two_tasks_runs_them_at_the_same_time(pool: Executor, gate: Gate) -> None:
    futures = [pool.submit(pass_gate, gate.folder, number) for number in range(2)]
    assert len(set(gate.wait_until_arrived(2))) == 2
    gate.let_through(2)
    assert [result_of(future) for future in futures] == [0, 1]


def test_submit_more_tasks_than_workers_runs_no_more_than_workers(pool: Executor, gate: Gate) -> None:
    futures = [pool.submit(pass_gate, gate.folder, number) for number in range(5)]
    gate.wait_until_arrived(2)
    assert not concurrent.futures.wait(futures, timeout=0.2).done
    assert gate.nobody_arrived()
    gate.let_through(5)
    assert [result_of(future) for future in futures] == list(range(5))


def test_submit_to_one_worker_keeps_the_order(new_pool: NewPool, tmp_path: Path) -> None:
    path = tmp_path / "order"
    numbers = [str(number) for number in range(50)]
    pool = new_pool(max_workers=1)
    for future in [pool.submit(calls.append_line, str(path), number) for number in numbers]:
        result_of(future)
    assert calls.lines_of(path) == numbers


def test_submit_many_small_tasks_gives_each_its_own_result(pool: Executor) -> None:
    futures = [pool.submit(calls.square, number) for number in range(500)]
    assert [result_of(future) for future in futures] == [number * number for number in range(500)]


def test_submit_from_many_threads_gives_each_its_own_result(pool: Executor) -> None:
    results: dict[int, list[int]] = {}

    def submit_some(start: int) -> None:
        futures = [pool.submit(calls.square, number) for number in range(start, start + 30)]
        results[start] = [result_of(future) for future in futures]

    threads = [threading.Thread(target=submit_some, args=(start,)) for start in range(0, 240, 30)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert results == {start: [n * n for n in range(start, start + 30)] for start in range(0, 240, 30)}


def test_result_timeout_raises_and_lets_the_task_go_on(pool: Executor, gate: Gate) -> None:
    future = pool.submit(pass_gate, gate.folder, "went on")
    with pytest.raises(concurrent.futures.TimeoutError):
        future.result(timeout=0.05)
    with pytest.raises(concurrent.futures.TimeoutError):
        future.exception(timeout=0)
    gate.let_through()
    assert result_of(future) == "went on"


def test_submit_lambda_runs_it(pool: Executor) -> None:
    assert result_of(pool.submit(lambda number: number + 1, 41)) == 42


def test_submit_closure_runs_it(pool: Executor) -> None:
    offset = 40

    def plus_offset(number: int) -> int:
        return number + offset

    assert result_of(pool.submit(plus_offset, 2)) == 42


def test_submit_not_callable_raises_type_error_at_once(pool: Executor) -> None:
    with pytest.raises(TypeError):
        pool.submit("not callable")  # type: ignore[arg-type]
