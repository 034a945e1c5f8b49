"""``leftovers``: what becomes of processes that a task leaves running when it comes to its end by itself."""

from __future__ import annotations

import errno
import logging
import os
import signal
import threading
import warnings
from pathlib import Path

import pytest

from contract.patience import error_of, eventually, is_gone, result_of
from features import acts
from safepool import ContainmentError, LeftoverWarning
from safepool._os import process_table, tree_members
from safepool._os.command_line import NO_COMMAND
from safepool._os.contained import ContainedProcess
from safepool._os.process_tree import TreeEnding
from safepool._pool import leftovers
from safepool._pool.worker import WorkerState

NOBODY = 1 << 23  # beyond the largest number that Linux can be told to give
EITHER = pytest.mark.parametrize("new_session", [False, True], ids=["same session", "own session"])


@EITHER
def test_kept_leftover_stays_as_long_as_its_worker(new_pool, new_session) -> None:
    pool = new_pool()
    future = pool.submit(acts.leave_behind, new_session)
    left = result_of(future)

    assert not is_gone(left)
    assert future.leftovers == ()
    assert result_of(pool.submit(acts.square, 3)) == 9
    assert not is_gone(left)
    pool.shutdown()
    assert is_gone(left)


@EITHER
def test_ended_leftover_is_gone_before_the_future_tells(new_pool, new_session) -> None:
    pool = new_pool(leftovers="end")
    worker = result_of(pool.submit(acts.tell_pid))

    future = pool.submit(acts.leave_behind, new_session)
    left = result_of(future)

    assert is_gone(left)
    assert [process.pid for process in future.leftovers] == [left]
    assert "sleep 900" in future.leftovers[0].command
    assert result_of(pool.submit(acts.tell_pid)) == worker


def test_leftover_of_a_task_that_raises_is_ended(new_pool) -> None:
    future = new_pool(leftovers="end").submit(acts.leave_behind, True, "raise")

    error = error_of(future)

    assert isinstance(error, ValueError)
    assert is_gone(error.args[0])


@pytest.mark.parametrize("strict", [False, True], ids=["standard", "strict"])
@pytest.mark.parametrize("words", ["resource_tracker import main", "safepool._os.janitor_main import main"])
def test_one_that_calls_itself_an_attendant_is_no_leftover_and_gone_with_its_worker(new_pool, words, strict) -> None:
    """A task gains by that what it could have by a thread of its worker: to go on beneath that, and not beyond."""
    try:
        pool = new_pool(leftovers="end", **({"containment": "strict"} if strict else {}))
    except ContainmentError as error:
        pytest.skip(str(error))
    future = pool.submit(acts.leave_named, words)
    named = result_of(future)

    assert not is_gone(named)
    assert future.leftovers == ()
    pool.shutdown()
    assert is_gone(named)


@pytest.mark.parametrize("policy", ["warn", "end"])
@pytest.mark.parametrize("reap", [True, False], ids=["nobody", "corpse"])
def test_one_whose_parent_has_just_gone_is_found(new_pool, monkeypatch: pytest.MonkeyPatch, reap, policy) -> None:
    """1. All are listed. 2. One of them starts another, and is gone. 3. It is looked at, and there is nobody."""
    pool = new_pool(leftovers=policy)
    worker = result_of(pool.submit(acts.tell_pid))
    before, lists = process_table.list_pids(), [0]

    def list_too_early() -> set[int]:
        lists[0] += 1
        if lists[0] > 1:
            return process_table.list_pids()
        corpses = {row.pid for row in process_table.list_rows() if row.is_dead and row.parent == worker}
        assert len(corpses) == (not reap)
        return before | (corpses or {NOBODY})

    monkeypatch.setattr(leftovers, "list_pids", list_too_early)
    future = pool.submit(acts.leave_orphan, "ORPHAN", reap)
    left = result_of(future)

    assert lists[0] > (policy == "warn")
    assert [process.pid for process in future.leftovers] == [left]
    assert is_gone(left) is (policy == "end")


@pytest.mark.parametrize("policy", ["warn", "end"])
def test_one_whose_exec_ends_while_it_is_looked_at_is_found(new_pool, monkeypatch: pytest.MonkeyPatch, policy) -> None:
    """1. It has left the session, and shows no environment. 2. Its exec ends. 3. It shows a command line."""
    pool = new_pool(leftovers=policy)
    result_of(pool.submit(acts.tell_pid))
    name, hidden = f"LEFT_BEHIND_{os.urandom(8).hex()}", set()

    def environment_at_first_hidden(pid: int) -> bytes:
        environment = process_table.environment_of(pid)
        if pid in hidden or name.encode() not in environment:
            return environment
        hidden.add(pid)
        return b""

    monkeypatch.setattr(tree_members, "environment_of", environment_at_first_hidden)
    future = pool.submit(acts.leave_orphan, name, reap=True)
    left = result_of(future)

    assert hidden == {left}
    assert [process.pid for process in future.leftovers] == [left]


@pytest.mark.parametrize("policy", ["warn", "end"])
def test_daemon_is_told_of_whenever_its_task_comes_to_its_end(new_pool, policy) -> None:
    pool = new_pool(leftovers=policy)

    futures = [pool.submit(acts.leave_daemon) for _ in range(25)]

    for future in futures:
        assert result_of(future) is None
        (daemon,) = future.leftovers
        assert "sleep 900" in daemon.command or daemon.command == NO_COMMAND  # in the middle of its exec
    assert pool.submit(acts.square, 3).result(30) == 9


@pytest.mark.parametrize("policy", ["warn", "end"])
@pytest.mark.parametrize("size", [0, 256 << 20], ids=["dead", "giving up its descriptors"])
def test_process_that_ends_by_itself_just_then_is_no_leftover(
    new_pool, monkeypatch: pytest.MonkeyPatch, policy, size
) -> None:
    """1. It is listed. 2. It comes to its end: its command line goes before its life. 3. It is asked for that."""
    pool = new_pool(leftovers=policy)
    worker = result_of(pool.submit(acts.tell_pid))
    met: dict[int, bool] = {}  # whether it was alive still, by number

    def command_after_the_end(pid: int) -> str:
        row = process_table.read_row(pid)
        if pid in met or row is None or row.parent != worker:  # an earlier one, which is not dead as yet; a stranger
            return process_table.command_of(pid)
        eventually(lambda: process_table.command_of(pid))  # its exec is over
        os.kill(pid, signal.SIGKILL)
        while command := process_table.command_of(pid):
            continue
        if not size:
            eventually(lambda: not process_table.is_alive(pid))
        met[pid] = process_table.is_alive(pid)
        return command

    monkeypatch.setattr(leftovers, "command_of", command_after_the_end)
    for _ in range(20):  # on a busy machine it may be dead before we have our turn
        future = pool.submit(acts.leave_holding, size)
        ended = result_of(future)
        assert future.leftovers == ()
        if met[ended] is (size > 0):
            break

    assert met[ended] is (size > 0)
    assert result_of(pool.submit(acts.square, 3)) == 9


@pytest.mark.parametrize("words", ["resource_tracker import main", "safepool._os.janitor_main import main"])
def test_attendant_that_comes_while_leftovers_are_ended_is_spared(
    new_pool, gate, monkeypatch: pytest.MonkeyPatch, words
) -> None:
    """1. Leftovers are looked for. 2. One of them starts an attendant, as one that is being started itself does."""
    pool = new_pool(leftovers="end")
    arrived: list[int] = []
    end_descendants = ContainedProcess.end_descendants

    def end_them_after_that(contained: ContainedProcess, spared: set[int]) -> TreeEnding:
        if not arrived:
            arrived.extend(gate.wait_until_arrived())
            gate.let_through()
            arrived.extend(gate.wait_until_arrived())
        return end_descendants(contained, spared)

    monkeypatch.setattr(ContainedProcess, "end_descendants", end_them_after_that)
    future = pool.submit(acts.leave_one_that_starts_a_named, gate.folder, words)

    starter = result_of(future)
    assert [process.pid for process in future.leftovers] == [starter]
    assert arrived[0] == starter
    assert is_gone(starter)
    assert not is_gone(arrived[1])
    pool.shutdown()
    assert is_gone(arrived[1])


def test_what_the_initializer_has_started_is_spared(new_pool, gate) -> None:
    pool = new_pool(leftovers="end", initializer=acts.leave_and_tell, initargs=(gate.folder,))
    left = result_of(pool.submit(acts.leave_behind, False))
    residents = gate.wait_until_arrived(2)

    assert is_gone(left)
    assert result_of(pool.submit(acts.square, 3)) == 9
    assert not any(is_gone(resident) for resident in residents)
    pool.shutdown()
    assert all(is_gone(resident) for resident in residents)


def test_what_a_server_of_the_initializer_starts_is_spared_at_any_moment(new_pool, tmp_path: Path) -> None:
    """A child that is younger than every list is there while leftovers are ended, again and again."""
    pool = new_pool(leftovers="end", initializer=acts.serve, initargs=(str(tmp_path),))

    futures = [pool.submit(acts.leave_behind, True) for _ in range(12)]

    assert all(is_gone(result_of(future)) for future in futures)
    assert {process.command for future in futures for process in future.leftovers} == {"sleep 900"}
    assert (tmp_path / "killed").read_text() == "0"


def test_task_that_leaves_nothing_is_told_nothing(new_pool) -> None:
    future = new_pool(leftovers="end").submit(acts.square, 3)

    assert result_of(future) == 9
    assert future.leftovers == ()


def test_leftover_that_is_warned_of_is_named_once_and_stays(new_pool, caplog: pytest.LogCaptureFixture) -> None:
    pool = new_pool(leftovers="warn")

    future = pool.submit(acts.leave_behind, True)
    with pytest.warns(LeftoverWarning, match="sleep 900"):
        left = result_of(future)
    again = pool.submit(acts.square, 3)  # a warning would be an error, and logged

    assert result_of(again) == 9
    assert [process.pid for process in future.leftovers] == [left]
    assert again.leftovers == ()
    assert "left" not in caplog.text
    assert not is_gone(left)


def test_warning_that_is_an_error_harms_nobody(new_pool, caplog: pytest.LogCaptureFixture) -> None:
    pool = new_pool(leftovers="warn")

    with warnings.catch_warnings(), caplog.at_level(logging.WARNING, logger="safepool"):
        warnings.simplefilter("error")
        left = result_of(pool.submit(acts.leave_behind, True))

    assert not is_gone(left)
    assert "sleep 900" in caplog.text


def test_warning_that_cannot_be_shown_harms_nobody(new_pool, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a daemon that has closed its standard error."""

    def fail(*_: object, **__: object) -> None:
        raise ValueError("I/O operation on closed file")

    pool = new_pool(leftovers="warn")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        monkeypatch.setattr(warnings, "showwarning", fail)
        left = result_of(pool.submit(acts.leave_behind, True))

    pool.shutdown()
    assert is_gone(left)


@pytest.mark.parametrize(
    "option", [{"leftovers": "end"}, {"leftovers": "warn"}, {"max_worker_memory": "1GiB"}], ids=str
)
def test_host_without_descriptors_gets_its_results(new_pool, option, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = new_pool(**option)
    worker = result_of(pool.submit(acts.tell_pid))

    def fail(*_: object, **__: object) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(process_table.os, "open", fail)
    try:
        found = result_of(pool.submit(acts.tell_pid))
    finally:
        monkeypatch.undo()

    assert found == worker
    assert result_of(pool.submit(acts.square, 3)) == 9


@pytest.mark.parametrize("fault", ["worker dies", "pool is killed"])
def test_result_counts_whatever_happens_while_leftovers_are_ended(
    new_pool, monkeypatch: pytest.MonkeyPatch, fault
) -> None:
    """1. The result is here. 2. The leftovers are being ended, which is held up. 3. The worker dies, or is killed."""
    pool = new_pool(leftovers="end")
    worker = result_of(pool.submit(acts.tell_pid))
    sweeping, go_on = threading.Event(), threading.Event()
    advance = TreeEnding.advance

    def advance_when_allowed(ending: TreeEnding) -> bool:
        sweeping.set()
        return go_on.is_set() and advance(ending)

    monkeypatch.setattr(TreeEnding, "advance", advance_when_allowed)
    future = pool.submit(acts.leave_behind, False)
    assert sweeping.wait(30)
    assert not future.done()
    if fault == "worker dies":
        os.kill(worker, signal.SIGKILL)
        eventually(lambda: is_gone(worker))
        go_on.set()
    else:
        (held,) = pool._pool._state.workers.values()
        pool.shutdown(kill=True, wait=False)
        eventually(lambda: held.state is WorkerState.ENDING)
        go_on.set()
        pool.shutdown()

    assert is_gone(result_of(future))
    if fault == "worker dies":
        assert result_of(pool.submit(acts.square, 3)) == 9
