"""Bad input has one clear outcome, at the door or on its own future; neighbours and pool are untouched."""

from __future__ import annotations

import math
import multiprocessing
import os
import pickle
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from contract.gate import Gate, pass_gate
from contract.patience import error_of, result_of
from executor import calls
from safepool import SafeFuture, SafeProcessPoolExecutor, TransferError, WorkerDiedError
from safepool._os import control_group, guardian

NewPool = Callable[..., SafeProcessPoolExecutor]
Pool = SafeProcessPoolExecutor

BRITTLE: Any = calls.Brittle()
NOT_CALLABLE: Any = "not callable"


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("max_workers", 0, ValueError),
        ("max_workers", -1, ValueError),
        ("max_workers", 1.5, TypeError),
        ("max_workers", "2", TypeError),
        ("task_timeout", 0, ValueError),
        ("task_timeout", -1, ValueError),
        ("task_timeout", -0.5, ValueError),
        ("task_timeout", math.nan, ValueError),
        ("task_timeout", "1", TypeError),
        ("max_tasks_per_child", 0, ValueError),
        ("max_tasks_per_child", -1, ValueError),
        ("max_tasks_per_child", "x", TypeError),
        ("max_tasks_per_child", 1.5, TypeError),
        ("grace", -1, ValueError),
        ("grace", math.nan, ValueError),
        ("grace", "1", TypeError),
        ("initializer", NOT_CALLABLE, TypeError),
        ("mp_context", "spawn", TypeError),
        ("soft_timeout", 0, ValueError),
        ("soft_timeout", -1, ValueError),
        ("soft_timeout", math.nan, ValueError),
        ("soft_timeout", math.inf, ValueError),
        ("soft_timeout", "1", TypeError),
        ("memory_limit", 0, ValueError),
        ("memory_limit", -1, ValueError),
        ("memory_limit", 4096, ValueError),
        ("memory_limit", "much", ValueError),
        ("memory_limit", "2G", ValueError),
        ("memory_limit", "1MiB", ValueError),
        ("memory_limit", 1e9, TypeError),
        ("memory_limit", True, TypeError),
        ("cpu_limit", 0, ValueError),
        ("cpu_limit", 0.001, ValueError),
        ("cpu_limit", -1, ValueError),
        ("cpu_limit", math.nan, ValueError),
        ("cpu_limit", math.inf, ValueError),
        ("cpu_limit", "1", TypeError),
        ("cpu_limit", True, TypeError),
        ("cpu_limit", 1.5, ValueError),
        ("measure_memory", 1, TypeError),
        ("measure_memory", None, TypeError),
        ("detached", "keep", ValueError),
        ("detached", None, ValueError),
        ("max_worker_memory", 0, ValueError),
        ("max_worker_memory", -1, ValueError),
        ("max_worker_memory", "-2GiB", ValueError),
        ("max_worker_memory", 1.5, TypeError),
        ("finalizer", NOT_CALLABLE, TypeError),
        ("exit_timeout", -1, ValueError),
        ("exit_timeout", math.nan, ValueError),
        ("exit_timeout", math.inf, ValueError),
        ("exit_timeout", "1", TypeError),
        ("exit_timeout", None, TypeError),
        ("max_pending", 0, ValueError),
        ("max_pending", -1, ValueError),
        ("max_pending", 1.5, TypeError),
        ("max_pending", "2", TypeError),
        ("max_pending", True, TypeError),
        ("when_full", "wait", ValueError),
        ("when_full", None, ValueError),
        ("leftovers", "kill", ValueError),
        ("leftovers", True, ValueError),
        ("env", "A=b", TypeError),
        ("env", 0, TypeError),
    ],
)
def test_constructor_with_bad_argument_names_it_and_its_value(
    name: str, value: object, expected: type[Exception]
) -> None:
    with pytest.raises(expected) as caught:
        SafeProcessPoolExecutor(**{name: value})  # type: ignore[arg-type]
    assert name in str(caught.value)
    assert repr(value) in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("cpu_limit", 0),
        ("cpu_limit", "1"),
        ("detached", "keep"),
        ("detached", "spare"),
        ("exit_timeout", None),
        ("leftovers", "kill"),
        ("max_pending", 0),
        ("measure_memory", None),
        ("env", 0),
    ],
)
def test_bad_argument_is_refused_before_anything_is_started_for_a_strict_pool(
    name: str, value: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether strict containment can be had is found out by having it."""
    tried: list[str] = []
    for module in (control_group, guardian):
        monkeypatch.setattr(module, "make_sure", partial(tried.append, module.__name__))
    with pytest.raises((TypeError, ValueError), match=f"{name} .*{value!r}"):
        SafeProcessPoolExecutor(containment="strict", **{name: value})  # type: ignore[arg-type]
    assert tried == []


@pytest.mark.parametrize(
    ("env", "expected"),
    [
        ({"A": 1}, TypeError),
        ({1: "a"}, TypeError),
        ({"A=B": "c"}, ValueError),
        ({"A": "b\0"}, ValueError),
        ({"SAFEPOOL_DISABLE": "setsig"}, ValueError),
    ],
)
def test_constructor_with_bad_env_names_it(env: Any, expected: type[Exception]) -> None:
    with pytest.raises(expected, match="env"):
        SafeProcessPoolExecutor(env=env)


@pytest.mark.parametrize("soft", [2, 2.5])
def test_constructor_with_a_soft_timeout_that_comes_too_late_names_both(soft: float) -> None:
    with pytest.raises(ValueError, match=r"soft_timeout must be less than the timeout \(2 s\), not 2\."):
        SafeProcessPoolExecutor(task_timeout=2, soft_timeout=soft)


def test_constructor_with_multiprocessing_context_works(new_pool: NewPool) -> None:
    pool = new_pool(mp_context=multiprocessing.get_context("spawn"))
    assert result_of(pool.submit(calls.square, 3)) == 9


BAD_TIMEOUTS = [(0, ValueError), (-1, ValueError), (math.nan, ValueError), ("1", TypeError), ([], TypeError)]


@pytest.mark.parametrize(("value", "expected"), BAD_TIMEOUTS)
@pytest.mark.parametrize(
    "call",
    [
        lambda pool, value: pool.submit(calls.square, 3, task_timeout=value),
        lambda pool, value: pool.map(calls.square, [3], task_timeout=value),
        lambda pool, value: pool.options(timeout=value),
    ],
    ids=["submit", "map", "options"],
)
def test_bad_task_timeout_names_it_and_its_value(
    pool: Pool, call: Callable[[Pool, object], object], value: object, expected: type[Exception]
) -> None:
    with pytest.raises(expected) as caught:
        call(pool, value)
    assert "timeout" in str(caught.value)
    assert repr(value) in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("soft_timeout", 0, ValueError),
        ("soft_timeout", -1, ValueError),
        ("soft_timeout", math.nan, ValueError),
        ("soft_timeout", "1", TypeError),
        ("memory_limit", 0, ValueError),
        ("memory_limit", "much", ValueError),
        ("memory_limit", 1e9, TypeError),
        ("retries", -1, ValueError),
        ("retries", None, TypeError),
        ("priority", 1.5, TypeError),
    ],
)
def test_view_on_a_bad_term_names_it_and_its_value_and_the_pool_serves_on(
    pool: Pool, name: str, value: object, expected: type[Exception]
) -> None:
    for base in (pool, pool.options(timeout=60)):
        with pytest.raises(expected) as caught:
            base.options(**{name: value})  # type: ignore[arg-type]
        assert name in str(caught.value)
        assert repr(value) in str(caught.value)
        assert result_of(base.submit(calls.square, 3)) == 9


def test_view_with_a_soft_timeout_that_comes_too_late_is_refused_and_the_pool_serves_on(new_pool: NewPool) -> None:
    """Whether the two are given together, or one after the other, or to the pool and to its view."""
    pool = new_pool(task_timeout=60)
    contradictions: list[Callable[[], object]] = [
        lambda: pool.options(soft_timeout=60),
        lambda: pool.options(soft_timeout=5, timeout=2),
        lambda: pool.options(soft_timeout=5).options(timeout=2),
        lambda: pool.options(timeout=2).options(soft_timeout=2),
    ]
    for contradict in contradictions:
        with pytest.raises(ValueError, match="soft_timeout must be less than the timeout"):
            contradict()
    assert result_of(pool.options(soft_timeout=5, timeout=None).submit(calls.square, 3)) == 9


@pytest.mark.parametrize("timeout", [1, 5])
@pytest.mark.parametrize(
    "call",
    [
        lambda pool, timeout: pool.submit(calls.square, 3, task_timeout=timeout),
        lambda pool, timeout: pool.map(calls.square, [3], task_timeout=timeout),
        lambda pool, timeout: pool.map_unordered(calls.square, [3], task_timeout=timeout),
        lambda pool, timeout: pool.options(priority=1).map(calls.square, [3], task_timeout=timeout),
    ],
    ids=["submit", "map", "map_unordered", "view"],
)
def test_call_whose_timeout_comes_before_the_soft_one_is_refused_and_the_pool_serves_on(
    new_pool: NewPool, call: Callable[[Pool, float], object], timeout: float
) -> None:
    """Its deadline would be late: what is due first is the soft timeout."""
    pool = new_pool(soft_timeout=5)
    with pytest.raises(ValueError, match=rf"soft_timeout must be less than the timeout \({timeout} s\), not 5.0"):
        call(pool, timeout)
    assert result_of(pool.submit(calls.square, 3, task_timeout=60)) == 9


def test_infinite_task_timeout_is_refused_or_means_no_limit(pool: Pool) -> None:
    refused = False
    try:
        future = pool.submit(calls.square, 3, task_timeout=math.inf)
    except ValueError as error:
        refused = "task_timeout" in str(error)
    assert refused or result_of(future) == 9


@pytest.mark.parametrize("option", ["chunksize", "buffersize"])
@pytest.mark.parametrize(("value", "expected"), [(0, ValueError), (-1, ValueError), ("1", TypeError), (1.5, TypeError)])
def test_map_with_bad_option_names_it_and_its_value(
    pool: Pool, option: str, value: Any, expected: type[Exception]
) -> None:
    with pytest.raises(expected) as caught:
        pool.map(calls.square, [1, 2], **{option: value})
    assert option in str(caught.value)
    assert repr(value) in str(caught.value)


@pytest.mark.parametrize("timeout", [-1, math.nan, "1"])
def test_shutdown_with_bad_timeout_is_refused_and_the_pool_serves_on(pool: Pool, timeout: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="timeout"):
        pool.shutdown(timeout=timeout)
    assert result_of(pool.submit(calls.square, 3)) == 9


@pytest.mark.parametrize(
    "call",
    [
        lambda pool: pool.submit(NOT_CALLABLE),
        lambda pool: pool.submit(None),
        lambda pool: pool.options(timeout=60).submit(NOT_CALLABLE),
        lambda pool: pool.map(NOT_CALLABLE, [1]),
    ],
    ids=["submit", "submit-none", "view", "map"],
)
def test_function_that_cannot_be_called_is_refused_at_the_door(pool: Pool, call: Callable[[Pool], object]) -> None:
    with pytest.raises(TypeError, match="callable"):
        call(pool)


def test_map_over_something_that_is_no_iterable_is_refused(pool: Pool) -> None:
    with pytest.raises(TypeError):
        pool.map(calls.square, 5)  # type: ignore[arg-type]


def task_with_a_lock() -> Callable[[], object]:
    """Return a closure over something that cannot be pickled."""
    lock = threading.Lock()
    return lambda: lock


# From here on: one future with a clear outcome of its own, a right neighbour, and a pool that serves.

Submit = Callable[[Pool], SafeFuture[Any]]
Expected = type[BaseException] | tuple[type[BaseException], ...]

NOT_PICKLED = (TypeError, AttributeError, pickle.PicklingError)  # pickle says it in three ways
FAULTS: list[Any] = [
    pytest.param(
        lambda pool: pool.submit(task_with_a_lock()),
        NOT_PICKLED,
        "object",
        id="task-that-cannot-be-pickled",
    ),
    pytest.param(
        lambda pool: pool.submit(calls.square, threading.Lock()),
        NOT_PICKLED,
        "pickle",
        id="argument-that-cannot-be-pickled",
    ),
    pytest.param(
        lambda pool: pool.submit(calls.square, calls.Shy()), LookupError, "too shy", id="argument-whose-pickling-raises"
    ),
    pytest.param(
        lambda pool: pool.submit(calls.square, BRITTLE),
        Exception,
        "broken in transit",
        id="argument-that-breaks-in-the-worker",
    ),
    pytest.param(
        lambda pool: pool.submit(calls.square, calls.ExitsWhenRebuilt()),
        WorkerDiedError,
        "status 5",
        id="argument-that-ends-the-worker",
    ),
    pytest.param(
        lambda pool: pool.submit(calls.return_lock), NOT_PICKLED, "pickle", id="result-that-cannot-be-pickled"
    ),
    pytest.param(lambda pool: pool.submit(calls.Shy), LookupError, "too shy", id="result-whose-pickling-raises"),
    pytest.param(
        lambda pool: pool.submit(calls.BreaksIn, os.getpid()),
        TransferError,
        "broken on arrival",
        id="result-that-breaks-in-the-host",
    ),
    pytest.param(
        lambda pool: pool.submit(calls.raise_keyword_error, 5),
        TransferError,
        "the code is 5",
        id="exception-that-cannot-be-rebuilt",
    ),
    pytest.param(
        lambda pool: pool.submit(calls.raise_error_that_cannot_be_pickled),
        Exception,
        "held by",
        id="exception-that-cannot-be-pickled",
    ),
    pytest.param(lambda pool: pool.submit(calls.call_sys_exit, "bye"), SystemExit, "bye", id="sys-exit"),
    pytest.param(lambda pool: pool.submit(calls.exit_with, 0), WorkerDiedError, "status 0", id="exit-0"),
]


@pytest.mark.parametrize(("submit", "expected", "words"), FAULTS)
def test_fault_has_one_clear_outcome_on_its_own_future(
    pool: Pool, gate: Gate, submit: Submit, expected: Expected, words: str
) -> None:
    neighbour = pool.submit(pass_gate, gate.folder, "undisturbed")
    gate.wait_until_arrived()
    future = submit(pool)
    behind = pool.submit(calls.square, 3)
    error = error_of(future)
    assert isinstance(error, expected)
    assert words in str(error)
    assert result_of(behind) == 9
    assert not neighbour.done()
    gate.let_through()
    assert result_of(neighbour) == "undisturbed"
    assert [result_of(pool.submit(calls.square, number)) for number in range(3)] == [0, 1, 4]


def test_exception_that_cannot_be_rebuilt_keeps_text_and_traceback(pool: Pool) -> None:
    error = error_of(pool.submit(calls.raise_keyword_error, 5))
    assert isinstance(error, TransferError)
    assert "the code is 5" in error.original
    assert "KeywordError" in error.original
    assert "raise_keyword_error" in error.task
    assert "Traceback" in str(error.__cause__)
    assert "raise_keyword_error" in str(error.__cause__)


def test_fault_in_the_outcome_leaves_the_worker_unharmed(new_pool: NewPool) -> None:
    pool = new_pool(max_workers=1)
    worker = result_of(pool.submit(os.getpid))
    faults: list[SafeFuture[Any]] = [
        pool.submit(calls.return_lock),
        pool.submit(calls.raise_keyword_error, 5),
        pool.submit(calls.BreaksIn, os.getpid()),
        pool.submit(calls.square, BRITTLE),
    ]
    assert all(error_of(fault) is not None for fault in faults)
    assert result_of(pool.submit(os.getpid)) == worker


def test_exception_object_as_result_is_a_result(pool: Pool) -> None:
    received = result_of(pool.submit(ValueError, "just a value"))
    assert isinstance(received, ValueError)


def test_task_that_writes_junk_into_every_descriptor_hurts_only_itself(new_pool: NewPool, gate: Gate) -> None:
    pool = new_pool(max_workers=2)
    neighbour = pool.submit(pass_gate, gate.folder, "undisturbed")
    gate.wait_until_arrived()
    future = pool.submit(calls.write_junk_into_every_descriptor)
    error = error_of(future)
    assert error is None or isinstance(error, (WorkerDiedError, TransferError))
    assert not neighbour.done()
    gate.let_through()
    assert result_of(neighbour) == "undisturbed"
    assert [result_of(pool.submit(calls.square, number)) for number in range(5)] == [0, 1, 4, 9, 16]


def test_large_junk_in_a_queue_of_good_tasks_loses_none_of_them(pool: Pool) -> None:
    """Good and bad in turn, so that a bad one is always sent together with good ones."""
    arguments: list[Any] = [BRITTLE if number % 3 == 2 else number for number in range(60)]
    futures = [pool.submit(calls.square, argument) for argument in arguments]
    outcomes = [error_of(future) for future in futures]
    assert [outcome is not None for outcome in outcomes] == [number % 3 == 2 for number in range(60)]
    good = [future.result() for future, outcome in zip(futures, outcomes, strict=True) if outcome is None]
    assert good == [number * number for number in range(60) if number % 3 != 2]
