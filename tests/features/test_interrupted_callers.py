"""Ctrl-C, or a signal handler, in the middle of a call of the pool: the program may go on, and so may the pool."""

from __future__ import annotations

import random
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from contract.patience import error_of, result_of
from contract.scripts import run_script
from features import acts
from safepool import SafeProcessPoolExecutor


@pytest.fixture
def alarm() -> Iterator[None]:
    """Let SIGALRM do what Ctrl-C does; at an instant that the test chooses."""
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def submit_interrupted(pool: SafeProcessPoolExecutor, seconds: float, *call) -> bool:
    """Submit, with an interrupt so many seconds from now; return True if it struck."""
    try:
        signal.setitimer(signal.ITIMER_REAL, seconds)
        pool.submit(*call)
        signal.setitimer(signal.ITIMER_REAL, 0)
    except KeyboardInterrupt:
        return True
    return False


def test_interrupted_submit_loses_no_later_task_and_runs_none_twice(new_pool, alarm, tmp_path: Path) -> None:
    pool = new_pool()
    path = tmp_path / "runs"
    moments = random.Random(5)
    result_of(pool.submit(acts.square, 1))

    struck = 0
    for number in range(300):
        struck += submit_interrupted(pool, moments.uniform(5e-6, 120e-6), acts.note, str(path), str(number))
        assert result_of(pool.submit(acts.square, 3)) == 9

    assert struck
    pool.shutdown()
    runs = path.read_text("ascii").split() if path.exists() else []
    assert len(runs) == len(set(runs))


def test_interrupted_first_submit_leaves_a_pool_that_works(tmp_path: Path) -> None:
    """In a program of its own: an interrupt inside ``Thread.start`` leaves the interpreter with a thread in limbo."""
    program = """
import random, signal
from safepool import SafeProcessPoolExecutor

if __name__ == "__main__":
    submitting = False

    def interrupt(*_):
        if submitting:  # else the signal was on its way already when the timer was stopped
            raise KeyboardInterrupt

    signal.signal(signal.SIGALRM, interrupt)
    moments = random.Random(7)
    for _ in range(25):
        pool = SafeProcessPoolExecutor(1)
        try:
            submitting = True
            signal.setitimer(signal.ITIMER_REAL, moments.uniform(20e-6, 250e-6))
            pool.submit(abs, -1)
        except KeyboardInterrupt:
            pass
        submitting = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        assert pool.submit(abs, -3).result(30) == 3
        pool.shutdown(kill=True)
    print("all served")
"""
    done = run_script(tmp_path / "program.py", program)

    assert (done.stdout, done.returncode) == ("all served\n", 0), done.stderr


@pytest.mark.parametrize("block", ["with SafeProcessPoolExecutor(1) as pool", "if pool := SafeProcessPoolExecutor(1)"])
@pytest.mark.parametrize("event", ["call", "line", "return"])
def test_interrupt_while_the_supervisor_is_started_leaves_by_itself(tmp_path: Path, event: str, block: str) -> None:
    """Neither the block nor the exit of the program waits for a thread that never came up, or complains of it."""
    program = """
import sys
from safepool import SafeProcessPoolExecutor

def interrupt_the_start(frame, event, arg):
    if frame.f_code.co_name == "_ensure_thread":
        if event == EVENT and (event != "line" or frame.f_locals["self"]._is_needed):
            sys.settrace(None)
            raise KeyboardInterrupt
        return interrupt_the_start

if __name__ == "__main__":
    try:
        BLOCK:
            sys.settrace(interrupt_the_start)
            pool.submit(abs, -1)
    except KeyboardInterrupt:
        print("interrupted")
"""
    done = run_script(tmp_path / "program.py", program.replace("EVENT", repr(event)).replace("BLOCK", block))

    assert (done.stdout, done.stderr, done.returncode) == ("interrupted\n", "", 0)


def test_submit_that_a_shutdown_overtakes_is_refused(new_pool, monkeypatch) -> None:
    """1. ``submit`` finds the pool open. 2. Another thread shuts it down. 3. Nobody reads the inbox any more."""
    pool = new_pool()
    result_of(pool.submit(acts.square, 1))
    pool.shutdown()
    monkeypatch.setattr(pool._pool, "_check_open", lambda: None)

    with pytest.raises(RuntimeError, match="after shutdown"):
        pool.submit(acts.square, 2)


def test_signal_handler_may_use_the_pool_that_it_interrupts(new_pool) -> None:
    pool = new_pool()
    result_of(pool.submit(acts.square, 1))
    handled = []

    def cancel_something(_signum, _frame) -> None:
        handled.append(pool.submit(acts.square, 2))
        handled[-1].cancel()

    before = signal.signal(signal.SIGALRM, cancel_something)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
        futures = [pool.submit(acts.square, number) for number in range(2000)]
        signal.setitimer(signal.ITIMER_REAL, 0)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)

    assert handled
    assert [result_of(future) for future in futures] == [number * number for number in range(2000)]
    assert all(future.cancelled() or error_of(future) is None for future in handled)
