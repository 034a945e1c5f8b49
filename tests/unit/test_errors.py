"""Every public exception keeps its facts over pickling, and is caught by what the standard library's users catch."""

from __future__ import annotations

import builtins
import concurrent.futures
import copy
import pickle
import sys
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import pytest

from safepool import errors
from safepool.errors import (
    ContainmentError,
    EndedProcess,
    InitializerError,
    LeakError,
    LeftoverWarning,
    QueueFullError,
    SoftTimeoutError,
    TaskKilledError,
    TaskMemoryError,
    TaskTimeoutError,
    TransferError,
    WorkerDiedError,
)

ENDED = (EndedProcess(7, "sleep 900"), EndedProcess(8, "cat"))

FACTS: dict[type[Any], dict[str, Any]] = {
    WorkerDiedError: {
        "task": "work(1)",
        "pid": 5,
        "exitcode": -11,
        "elapsed": 1.25,
        "ended": ENDED,
        "oom": True,
        "detail": "It had closed its channel.",
    },
    TaskTimeoutError: {
        "task": "work(1)",
        "pid": 5,
        "timeout": 2.0,
        "elapsed": 2.5,
        "stack": '  File "work.py", line 3 in work\n',
        "ended": ENDED,
    },
    SoftTimeoutError: {"timeout": 2.0, "elapsed": 2.01},
    TaskMemoryError: {
        "task": "work(1)",
        "pid": 5,
        "limit": 100 << 20,
        "used": 103 << 20,
        "elapsed": 2.5,
        "stack": '  File "work.py", line 3 in work\n',
        "ended": ENDED,
    },
    QueueFullError: {"max_pending": 3},
    LeakError: {"processes": ENDED, "patience": 2.0, "ended": ENDED[:1]},
    TaskKilledError: {"task": "work(1)", "pid": 5, "reason": "future.kill()", "ended": ENDED},
    ContainmentError: {"reason": "/sys/fs/cgroup/x cannot be made: Permission denied"},
    InitializerError: {"attempts": 3, "reason": "it raised ValueError: no"},
    TransferError: {"task": "work(1)", "reason": "missing argument", "original": "OddError: code 5"},
}

EVERY = pytest.mark.parametrize("kind", FACTS, ids=lambda kind: kind.__name__)
WAYS = pytest.mark.parametrize(
    "carry",
    [
        *(lambda error, protocol=protocol: pickle.loads(pickle.dumps(error, protocol)) for protocol in range(2, 6)),
        copy.copy,
        copy.deepcopy,
    ],
    ids=["pickle-2", "pickle-3", "pickle-4", "pickle-5", "copy", "deepcopy"],
)


def test_examples_cover_every_public_exception() -> None:
    public = {getattr(errors, name) for name in errors.__all__}
    assert {kind for kind in public if issubclass(kind, BaseException)} == {*FACTS, LeftoverWarning}


@EVERY
def test_error_holds_its_facts(kind: type[Any]) -> None:
    error = kind(**FACTS[kind])
    assert {name: getattr(error, name) for name in FACTS[kind]} == FACTS[kind]


@EVERY
@WAYS
def test_error_carried_over_keeps_type_facts_and_message(kind: type[Any], carry: Any) -> None:
    error = kind(**FACTS[kind])
    carried = carry(error)
    assert type(carried) is kind
    assert {name: getattr(carried, name) for name in FACTS[kind]} == FACTS[kind]
    assert (str(carried), carried.args) == (str(error), error.args)


@EVERY
def test_error_carried_over_twice_is_still_the_same(kind: type[Any]) -> None:
    once = pickle.loads(pickle.dumps(kind(**FACTS[kind])))
    twice = pickle.loads(pickle.dumps(once))
    assert (str(twice), repr(twice)) == (str(once), repr(once))


@EVERY
def test_error_of_a_subclass_carried_over_keeps_its_class(kind: type[Any]) -> None:
    error = SUBCLASSES[kind](**FACTS[kind])
    carried = pickle.loads(pickle.dumps(error))
    assert type(carried) is SUBCLASSES[kind]
    assert str(carried) == str(error)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="notes came with Python 3.11")
@EVERY
def test_error_carried_over_keeps_its_notes(kind: type[Any]) -> None:
    error = kind(**FACTS[kind])
    error.add_note("noted on the way")
    assert pickle.loads(pickle.dumps(error)).__notes__ == ["noted on the way"]


@EVERY
def test_error_message_is_one_text(kind: type[Any]) -> None:
    error = kind(**FACTS[kind])
    assert isinstance(error, Exception)
    assert len(error.args) == 1
    assert str(error).strip()
    assert "None" not in str(error)


@pytest.mark.parametrize(
    ("kind", "caught_as"),
    [
        (WorkerDiedError, BrokenProcessPool),
        (WorkerDiedError, concurrent.futures.BrokenExecutor),
        (InitializerError, BrokenProcessPool),
        (InitializerError, concurrent.futures.BrokenExecutor),
        (TaskTimeoutError, builtins.TimeoutError),
        (TaskTimeoutError, concurrent.futures.TimeoutError),
        (TaskKilledError, RuntimeError),
        (TransferError, BrokenProcessPool),
        (LeakError, AssertionError),
    ],
)
def test_error_is_caught_as_the_standard_librarys(kind: type[Any], caught_as: type[BaseException]) -> None:
    with pytest.raises(caught_as):
        raise kind(**FACTS[kind])


@pytest.mark.parametrize("kind", [TaskTimeoutError, TaskKilledError])
def test_error_of_an_ended_task_is_no_broken_executor(kind: type[Any]) -> None:
    assert not issubclass(kind, concurrent.futures.BrokenExecutor)


@pytest.mark.parametrize(
    ("exitcode", "words"),
    [
        (0, "exited with status 0"),
        (3, "exited with status 3"),
        (-9, "SIGKILL"),
        (-11, "SIGSEGV"),
        (-6, "SIGABRT"),
        (-35, "signal 35"),
        (None, "unknown"),
    ],
)
def test_worker_died_error_says_how(exitcode: int | None, words: str) -> None:
    assert words in str(WorkerDiedError(pid=5, exitcode=exitcode))


def test_worker_died_error_says_everything_it_knows() -> None:
    message = str(WorkerDiedError(**FACTS[WorkerDiedError]))
    for words in ("work(1)", "worker 5", "SIGSEGV", "1.25 s", "sleep 900 (pid 7)", "closed its channel", "memory"):
        assert words in message


def test_worker_died_error_without_facts_can_be_made() -> None:
    error = WorkerDiedError()
    assert (error.task, error.pid, error.exitcode, error.elapsed, error.ended) == (None, None, None, None, ())


def test_task_timeout_error_says_where_it_hung() -> None:
    message = str(TaskTimeoutError(**FACTS[TaskTimeoutError]))
    for words in ("work(1)", "2 s", "2.5 s", "worker 5", "line 3 in work", "sleep 900 (pid 7)"):
        assert words in message


def test_task_timeout_error_is_an_os_error_without_number() -> None:
    """The built-in TimeoutError is one; a number would make up a message of its own."""
    error = TaskTimeoutError(**FACTS[TaskTimeoutError])
    assert error.errno is None  # type: ignore[attr-defined,unused-ignore]


def test_message_with_many_ended_processes_names_some_and_counts_the_rest() -> None:
    ended = tuple(EndedProcess(pid, f"command-{pid}") for pid in range(100, 120))
    message = str(TaskKilledError(task="work(1)", pid=5, reason="asked", ended=ended))
    assert "command-100 (pid 100)" in message
    assert "command-119" not in message
    assert "and 15 more" in message


def test_ended_process_carried_over_is_the_same() -> None:
    process = EndedProcess(7, "sleep 900")
    assert pickle.loads(pickle.dumps(process)) == process
    assert str(process) == "sleep 900 (pid 7)"


class _MyWorkerDiedError(WorkerDiedError):
    pass


class _MyTaskTimeoutError(TaskTimeoutError):
    pass


class _MyTaskKilledError(TaskKilledError):
    pass


class _MyInitializerError(InitializerError):
    pass


class _MySoftTimeoutError(SoftTimeoutError): ...


class _MyTaskMemoryError(TaskMemoryError): ...


class _MyQueueFullError(QueueFullError): ...


class _MyLeakError(LeakError): ...


class _MyContainmentError(ContainmentError): ...


class _MyTransferError(TransferError):
    pass


SUBCLASSES: dict[type[Any], type[Any]] = {
    WorkerDiedError: _MyWorkerDiedError,
    TaskTimeoutError: _MyTaskTimeoutError,
    TaskKilledError: _MyTaskKilledError,
    InitializerError: _MyInitializerError,
    TransferError: _MyTransferError,
    SoftTimeoutError: _MySoftTimeoutError,
    TaskMemoryError: _MyTaskMemoryError,
    QueueFullError: _MyQueueFullError,
    ContainmentError: _MyContainmentError,
    LeakError: _MyLeakError,
}
