"""``max_pending``: so many tasks may wait for a worker; whoever submits one more waits too, or is told."""

from __future__ import annotations

import inspect
import itertools
import queue
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from contract.calls import pass_gate_and_raise
from contract.gate import Gate, pass_gate
from contract.patience import PATIENCE, error_of, eventually, result_of
from contract.scripts import start_script
from executor.calls import pass_gate_and_die
from features import acts, careers
from safepool import InitializerError, QueueFullError, SafeFuture, SafeProcessPoolExecutor, WorkerDiedError
from safepool._pool.pool import Pool
from safepool._pool.room import Room

NewPool = Callable[..., SafeProcessPoolExecutor]


class Caller:
    """Somebody who makes a call in another thread."""

    def __init__(self, call: Callable[..., Any], *args: Any) -> None:
        self._call = call
        self._args = args
        self._outcome: list[Any] = []
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def waits(self) -> bool:
        return not self._outcome and self._error is None

    def outcome(self) -> Any:
        """Wait for the call to come back; return or raise what it did."""
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive(), "it still waits"
        if self._error is not None:
            raise self._error
        return self._outcome[0]

    def _run(self) -> None:
        try:
            self._outcome.append(self._call(*self._args))
        except BaseException as error:
            self._error = error


@pytest.fixture
def interruptible() -> Iterator[Callable[[], None]]:
    """Let SIGUSR1 do what Ctrl-C does; return what sends it to the main thread."""
    before = signal.signal(signal.SIGUSR1, signal.default_int_handler)
    main = threading.main_thread().ident
    assert main is not None
    yield lambda: signal.pthread_kill(main, signal.SIGUSR1)
    signal.signal(signal.SIGUSR1, before)


_lines, _first = inspect.getsourcelines(Room.take)
_WAIT = _first + max(number for number, line in enumerate(_lines) if "gate.acquire()" in line)


def until_blocked(count: int = 1) -> None:
    """Wait until so many threads have looked for room for the last time, and wait for it."""
    eventually(lambda: sum(map(_is_waiting, sys._current_frames().values())) == count)


def _is_waiting(frame: FrameType) -> bool:
    return frame.f_code is Room.take.__code__ and frame.f_lineno == _WAIT


def fill(pool: SafeProcessPoolExecutor, gate: Gate, waiting: int) -> list[SafeFuture[int]]:
    """Have the pool's only worker stand at the gate, and so many tasks wait for it."""
    running = pool.submit(pass_gate, gate.folder, 0)
    gate.wait_until_arrived()
    return [running, *(pool.submit(pass_gate, gate.folder, number) for number in range(1, waiting + 1))]


def assert_holds(pool: SafeProcessPoolExecutor, gate: Gate, waiting: int) -> None:
    """Fill the idle pool, and see that there is room for exactly so many; let everybody through."""
    futures = fill(pool, gate, waiting)
    caller = Caller(pool.submit, acts.square, 3)
    until_blocked()
    assert caller.waits()
    assert len(pool._pool._state.places) == waiting
    gate.let_through(waiting + 1)
    assert [result_of(future) for future in futures] == list(range(waiting + 1))
    assert result_of(caller.outcome()) == 9


# --- "block" ---


def test_submit_waits_while_so_many_wait_and_goes_on_when_one_begins(new_pool: NewPool, gate: Gate) -> None:
    pool = new_pool(max_pending=2)
    futures = fill(pool, gate, 2)  # nobody was held up so far
    caller = Caller(pool.submit, pass_gate, gate.folder, 3)
    until_blocked()
    assert caller.waits()
    assert not any(future.done() for future in futures)

    gate.let_through()
    gate.wait_until_arrived()  # the next has begun

    futures.append(caller.outcome())
    assert result_of(futures[0]) == 0
    assert not futures[2].running()
    gate.let_through(3)
    assert [result_of(future) for future in futures] == [0, 1, 2, 3]


def test_submit_waits_for_nobody_where_there_is_room(new_pool: NewPool) -> None:
    pool = new_pool(max_pending=1)
    assert [result_of(pool.submit(acts.square, number)) for number in range(5)] == [0, 1, 4, 9, 16]


def test_limit_holds_again_after_it_was_reached(new_pool: NewPool, gate: Gate) -> None:
    pool = new_pool(max_pending=3)
    for _ in range(2):
        assert_holds(pool, gate, 3)


@pytest.mark.parametrize("method", ["map", "map_unordered"])
@pytest.mark.parametrize("buffersize", [None, 1, 4])
def test_mapping_gives_everything_and_never_has_more_waiting(
    new_pool: NewPool, method: str, buffersize: int | None
) -> None:
    pool = new_pool(2, max_pending=2)
    most = 0

    def numbers() -> Iterator[int]:
        nonlocal most
        for number in range(40):
            most = max(most, len(pool._pool._state.places))
            yield number

    results = list(getattr(pool, method)(acts.square, numbers(), buffersize=buffersize))

    assert sorted(results) == [number * number for number in range(40)]
    assert most <= 2


def test_many_callers_are_all_served(new_pool: NewPool) -> None:
    pool = new_pool(2, max_pending=1)
    callers = [Caller(lambda number: result_of(pool.submit(acts.square, number)), number) for number in range(30)]
    assert [caller.outcome() for caller in callers] == [number * number for number in range(30)]


def test_cancelling_a_waiting_future_makes_room(new_pool: NewPool, gate: Gate) -> None:
    pool = new_pool(max_pending=1)
    running, waiting = fill(pool, gate, 1)
    caller = Caller(pool.submit, acts.square, 3)
    until_blocked()

    assert waiting.cancel()

    future = caller.outcome()
    assert not running.done()
    gate.let_through()
    assert result_of(future) == 9


def test_killing_a_waiting_future_makes_room(new_pool: NewPool, gate: Gate) -> None:
    pool = new_pool(max_pending=1)
    running, waiting = fill(pool, gate, 1)
    caller = Caller(pool.submit, acts.square, 3)
    until_blocked()

    assert waiting.kill()

    future = caller.outcome()
    assert not running.done()
    gate.let_through()
    assert result_of(future) == 9


def test_death_of_a_worker_makes_room_when_the_next_task_begins(new_pool: NewPool, gate: Gate) -> None:
    pool = new_pool(max_pending=1)
    dying = pool.submit(pass_gate_and_die, gate.folder)
    gate.wait_until_arrived()
    waiting = pool.submit(pass_gate, gate.folder, 1)
    caller = Caller(pool.submit, acts.square, 3)
    until_blocked()
    assert caller.waits()

    gate.let_through()

    assert isinstance(error_of(dying), WorkerDiedError)
    future = caller.outcome()
    gate.let_through()
    assert (result_of(waiting), result_of(future)) == (1, 9)


def test_task_that_is_run_again_needs_no_second_place(new_pool: NewPool, gate: Gate, tmp_path: Path) -> None:
    """1. It runs, and all places are taken. 2. It dies, and is put back into the queue, which is full."""
    pool = new_pool(max_pending=1, retries=1)
    again = pool.submit(careers.pass_gate_and_fail_at_first, gate.folder, str(tmp_path / "runs"))
    gate.wait_until_arrived()
    waiting = pool.submit(acts.square, 3)
    caller = Caller(pool.submit, acts.square, 4)
    until_blocked()

    gate.let_through()

    assert result_of(again) == 2
    assert result_of(waiting) == 9
    assert result_of(caller.outcome()) == 16
    assert_holds(pool, gate, 1)


def test_call_that_cannot_be_pickled_keeps_no_place(new_pool: NewPool, gate: Gate) -> None:
    pool = new_pool(max_pending=1)
    for _ in range(3):
        assert isinstance(error_of(pool.submit(acts.square, threading.Lock())), TypeError)
    assert_holds(pool, gate, 1)


def test_done_callback_may_submit_to_a_full_pool(new_pool: NewPool, gate: Gate) -> None:
    """It waits in its own thread: what makes the room for it goes on."""
    pool = new_pool(max_pending=1)
    is_full = threading.Event()
    submitted: queue.SimpleQueue[SafeFuture[int]] = queue.SimpleQueue()

    def submit_one_more(_: object) -> None:
        is_full.wait(PATIENCE)
        submitted.put(pool.submit(acts.square, 3))

    first, second = fill(pool, gate, 1)
    first.add_done_callback(submit_one_more)
    gate.let_through()
    gate.wait_until_arrived()  # the second, which has made room
    third = pool.submit(pass_gate, gate.folder, 2)
    is_full.set()
    until_blocked()
    assert submitted.empty()

    gate.let_through(2)

    assert [result_of(future) for future in (first, second, third)] == [0, 1, 2]
    assert result_of(submitted.get(timeout=PATIENCE)) == 9


def test_views_share_the_limit_of_their_pool(new_pool: NewPool, gate: Gate) -> None:
    pool = new_pool(max_pending=1)
    running, waiting = fill(pool, gate, 1)
    callers = [Caller(view.submit, acts.square, 3) for view in (pool.options(priority=-1), pool.options(timeout=60))]
    until_blocked(2)
    assert all(caller.waits() for caller in callers)

    gate.let_through(2)

    assert [result_of(caller.outcome()) for caller in callers] == [9, 9]
    assert (result_of(running), result_of(waiting)) == (0, 1)


# --- the end of the pool ---


@pytest.mark.parametrize("how", [{}, {"wait": False}, {"cancel_futures": True}, {"kill": True}, {"timeout": 0}])
def test_shutdown_refuses_whoever_waits_for_room(new_pool: NewPool, gate: Gate, how: dict[str, Any]) -> None:
    pool = new_pool(max_pending=1)
    fill(pool, gate, 1)
    callers = [Caller(pool.submit, acts.square, 3) for _ in range(2)]
    until_blocked(2)

    closing = Caller(lambda: pool.shutdown(**how))

    for caller in callers:
        with pytest.raises(RuntimeError, match="after shutdown"):
            caller.outcome()
    gate.close()
    closing.outcome()


def test_shutdown_while_somebody_waits_for_room_loses_nothing(new_pool: NewPool, gate: Gate, tmp_path: Path) -> None:
    pool = new_pool(max_pending=2)
    futures = fill(pool, gate, 2)
    caller = Caller(pool.submit, acts.note, str(tmp_path / "runs"), "refused")
    until_blocked()

    closing = Caller(pool.shutdown)

    with pytest.raises(RuntimeError, match="after shutdown"):
        caller.outcome()
    assert not any(future.done() for future in futures)
    gate.let_through(3)
    closing.outcome()
    assert [future.result(0) for future in futures] == [0, 1, 2]
    assert not (tmp_path / "runs").exists()


def test_pool_that_breaks_tells_whoever_waits_for_room(new_pool: NewPool, gate: Gate) -> None:
    pool = new_pool(max_pending=1, initializer=pass_gate_and_raise, initargs=(gate.folder,))
    waiting = pool.submit(acts.square, 2)
    gate.wait_until_arrived()
    caller = Caller(lambda: result_of(pool.submit(acts.square, 3)))  # an instant later, its future would be told
    until_blocked()

    gate.let_through(3)

    with pytest.raises(InitializerError):
        caller.outcome()
    assert isinstance(error_of(waiting), InitializerError)


def test_program_may_end_while_a_thread_of_it_waits_for_room(gate: Gate, tmp_path: Path) -> None:
    program = """
import threading, time
from contract.gate import pass_gate
from safepool import SafeProcessPoolExecutor

def wait_for_room():
    try:
        pool.submit(abs, -3)
    except RuntimeError as error:
        print(error, flush=True)

if __name__ == "__main__":
    pool = SafeProcessPoolExecutor(1, max_pending=1)
    futures = [pool.submit(pass_gate, FOLDER, number) for number in range(2)]
    threading.Thread(target=wait_for_room).start()
    while not pool._pool._room._waiters:
        time.sleep(0.01)
"""
    process = start_script(tmp_path / "program.py", program.replace("FOLDER", repr(gate.folder)))
    try:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("cannot schedule new futures after ")
        assert process.poll() is None  # what was submitted is still to be finished
        gate.let_through(2)
        assert process.communicate(timeout=PATIENCE) == ("", None)
        assert process.returncode == 0
    finally:
        process.kill()
        process.communicate()


# --- interrupts ---


def test_interrupt_in_the_wait_for_room_leaves_pool_and_limit_as_they_were(
    new_pool: NewPool, gate: Gate, interruptible: Callable[[], None], tmp_path: Path
) -> None:
    pool = new_pool(max_pending=2)
    futures = fill(pool, gate, 2)

    def strike() -> None:
        until_blocked()
        interruptible()

    striker = Caller(strike)
    with pytest.raises(KeyboardInterrupt):
        pool.submit(acts.note, str(tmp_path / "runs"), "interrupted")
    striker.outcome()

    assert not any(future.done() for future in futures)
    gate.let_through(3)
    assert [result_of(future) for future in futures] == [0, 1, 2]
    assert_holds(pool, gate, 2)
    assert not (tmp_path / "runs").exists()


def test_interrupt_before_any_step_of_submit_keeps_no_place(new_pool: NewPool, gate: Gate) -> None:
    """Wherever it strikes, whether the call was taken in or not: the place is given back."""
    pool = new_pool(max_pending=1)
    result_of(pool.submit(acts.square, 1))

    for step in itertools.count():
        reached = interrupt_submit_at(step, pool)
        if not reached:
            break
        eventually(lambda: not pool._pool._state.places)

    assert step > 5  # it was interrupted indeed
    assert_holds(pool, gate, 1)


def interrupt_submit_at(step: int, pool: SafeProcessPoolExecutor) -> bool:
    """Submit, interrupted before the so many-th line; return False if there are fewer."""
    lines = itertools.count()
    reached = False

    def trace(frame: FrameType, event: str, _arg: object) -> Any:
        nonlocal reached
        if frame.f_code is not Pool.submit.__code__ or reached:
            return None
        if event == "line" and next(lines) == step:
            reached = True
            raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        pool.submit(acts.square, 2)
    except KeyboardInterrupt:
        assert reached
    finally:
        sys.settrace(before)
    return reached


# --- "raise" ---


def test_full_pool_refuses_what_it_has_no_room_for_and_goes_on(new_pool: NewPool, gate: Gate, tmp_path: Path) -> None:
    pool = new_pool(max_pending=2, when_full="raise")
    futures = fill(pool, gate, 2)

    for submit in (pool.submit, pool.options(priority=-1).submit):
        with pytest.raises(QueueFullError, match="2 tasks wait") as caught:
            submit(acts.note, str(tmp_path / "runs"), "refused")
        assert isinstance(caught.value, queue.Full)
        assert caught.value.max_pending == 2

    assert len(pool._pool._state.places) == 2
    gate.let_through(3)
    assert [result_of(future) for future in futures] == [0, 1, 2]
    assert result_of(pool.submit(acts.square, 3)) == 9
    pool.shutdown()
    assert not (tmp_path / "runs").exists()


def test_refused_call_may_be_made_again_when_one_has_begun(new_pool: NewPool, gate: Gate) -> None:
    pool = new_pool(max_pending=1, when_full="raise")
    futures = fill(pool, gate, 1)
    with pytest.raises(QueueFullError):
        pool.submit(acts.square, 3)

    gate.let_through()
    gate.wait_until_arrived()

    again = pool.submit(acts.square, 3)
    gate.let_through()
    assert [result_of(future) for future in (*futures, again)] == [0, 1, 9]


def test_full_pool_that_is_shut_down_says_that_and_not_that_it_is_full(new_pool: NewPool, gate: Gate) -> None:
    pool = new_pool(max_pending=1, when_full="raise")
    fill(pool, gate, 1)
    pool.shutdown(wait=False)
    with pytest.raises(RuntimeError, match="after shutdown"):
        pool.submit(acts.square, 3)


# --- no limit ---


def test_pool_without_a_limit_takes_whatever_comes(new_pool: NewPool, gate: Gate) -> None:
    pool = new_pool(when_full="raise")
    futures = fill(pool, gate, 200)
    gate.let_through(201)
    assert [result_of(future) for future in futures] == list(range(201))


def test_handler_that_interrupts_one_with_a_place_waits_for_nobody(new_pool: NewPool, gate: Gate, monkeypatch) -> None:
    """1. ``submit`` has taken the last place. 2. A signal handler submits. 3. The first cannot go on before it has."""
    pool = new_pool(1, max_pending=1)
    running = pool.submit(acts.pass_gate_and_tell_pid, gate.folder)
    gate.wait_until_arrived()
    inner: list[SafeFuture[int]] = []
    hand_over = pool._pool._hand_over

    def be_interrupted_before(task: Any) -> None:
        monkeypatch.setattr(pool._pool, "_hand_over", hand_over)
        inner.extend(pool.submit(acts.square, number) for number in (2, 4))
        hand_over(task)

    monkeypatch.setattr(pool._pool, "_hand_over", be_interrupted_before)
    outer = pool.submit(acts.square, 3)
    gate.let_through()

    assert [result_of(future) for future in (outer, *inner)] == [9, 4, 16]
    result_of(running)
    assert pool._pool._state.places == set()
