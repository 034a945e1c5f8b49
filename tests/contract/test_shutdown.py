"""The end of a pool: by ``shutdown``, by ``with``, by the garbage collector, and by the interpreter's exit."""

from __future__ import annotations

import gc
import os
import threading
import weakref
from concurrent.futures import Executor
from pathlib import Path

import pytest

from contract import calls
from contract.gate import Gate, pass_gate
from contract.kinds import NewPool, make_pool
from contract.patience import PATIENCE, eventually, is_gone, result_of
from contract.scripts import run_script


def test_shutdown_completes_all_work(new_pool: NewPool) -> None:
    pool = new_pool(max_workers=2)
    futures = [pool.submit(calls.square, number) for number in range(20)]
    pool.shutdown()
    assert all(future.done() for future in futures)
    assert [future.result() for future in futures] == [number * number for number in range(20)]


def test_shutdown_ends_the_workers(new_pool: NewPool) -> None:
    pool = new_pool(max_workers=1)
    worker = result_of(pool.submit(os.getpid))
    pool.shutdown(wait=True)
    assert is_gone(worker)


def test_shutdown_unused_pool_returns(new_pool: NewPool) -> None:
    new_pool(max_workers=2).shutdown(wait=True)


def test_shutdown_twice_changes_nothing(new_pool: NewPool) -> None:
    pool = new_pool(max_workers=1)
    future = pool.submit(calls.square, 2)
    pool.shutdown()
    pool.shutdown()
    pool.shutdown(wait=False, cancel_futures=True)
    assert result_of(future) == 4


def test_shutdown_without_wait_returns_while_a_task_runs(new_pool: NewPool, gate: Gate) -> None:
    pool = new_pool(max_workers=1)
    futures = [pool.submit(pass_gate, gate.folder, number) for number in range(5)]
    gate.wait_until_arrived()
    pool.shutdown(wait=False)
    assert not futures[0].done()
    gate.close()
    assert [result_of(future) for future in futures] == list(range(5))


def test_shutdown_without_wait_then_with_wait_ends_the_workers(new_pool: NewPool, gate: Gate) -> None:
    pool = new_pool(max_workers=1)
    future = pool.submit(pass_gate, gate.folder, "done")
    (worker,) = gate.wait_until_arrived()
    pool.shutdown(wait=False)
    gate.close()
    assert result_of(future) == "done"
    pool.shutdown(wait=True)
    assert eventually(lambda: is_gone(worker))


@pytest.mark.parametrize("wait", [True, False])
def test_shutdown_with_cancel_futures_cancels_what_waits(new_pool: NewPool, gate: Gate, wait: bool) -> None:
    pool = new_pool(max_workers=1)
    futures = [pool.submit(pass_gate, gate.folder, number) for number in range(8)]
    gate.wait_until_arrived()
    gate.let_through(8 if wait else 0)
    pool.shutdown(wait=wait, cancel_futures=True)
    gate.close()
    assert eventually(lambda: all(future.done() for future in futures))
    assert result_of(futures[0]) == 0


def test_shutdown_with_cancel_futures_spares_the_running_one(new_pool: NewPool, gate: Gate) -> None:
    pool = new_pool(max_workers=1)
    futures = [pool.submit(pass_gate, gate.folder, number) for number in range(8)]
    gate.wait_until_arrived()
    pool.shutdown(wait=False, cancel_futures=True)
    assert eventually(futures[-1].cancelled)
    gate.close()
    assert result_of(futures[0]) == 0


def test_shutdown_with_wait_waits_for_the_running_task(new_pool: NewPool, gate: Gate) -> None:
    pool = new_pool(max_workers=1)
    future = pool.submit(pass_gate, gate.folder, "done")
    gate.wait_until_arrived()
    returned = threading.Event()

    def shut_down() -> None:
        pool.shutdown(wait=True)
        returned.set()

    thread = threading.Thread(target=shut_down)
    thread.start()
    assert not returned.wait(0.1)
    gate.let_through()
    assert returned.wait(PATIENCE)
    thread.join(PATIENCE)
    assert future.done()


def test_submit_after_shutdown_raises_runtime_error(new_pool: NewPool) -> None:
    pool = new_pool(max_workers=1)
    pool.shutdown()
    with pytest.raises(RuntimeError, match="after shutdown"):
        pool.submit(calls.square, 2)


def test_map_after_shutdown_raises_runtime_error(new_pool: NewPool) -> None:
    pool = new_pool(max_workers=1)
    pool.shutdown(wait=False)
    with pytest.raises(RuntimeError, match="after shutdown"):
        pool.map(calls.square, [1, 2])


def test_with_block_gives_the_pool_itself(new_pool: NewPool) -> None:
    pool = new_pool(max_workers=1)
    with pool as entered:
        assert entered is pool


def test_with_block_completes_all_work_at_its_end(new_pool: NewPool) -> None:
    with new_pool(max_workers=2) as pool:
        futures = [pool.submit(calls.square, number) for number in range(10)]
    assert all(future.done() for future in futures)
    with pytest.raises(RuntimeError):
        pool.submit(calls.square, 2)


def test_with_block_that_raises_lets_the_exception_out_and_completes_the_work(new_pool: NewPool) -> None:
    with pytest.raises(LookupError, match="from the block"), new_pool() as pool:  # noqa: PT012  # the block is the test
        future = pool.submit(calls.square, 3)
        raise LookupError("from the block")
    assert future.result(timeout=0) == 9


def test_with_block_after_a_failed_task_ends(new_pool: NewPool) -> None:
    with new_pool(max_workers=1) as pool:
        future = pool.submit(calls.raise_value_error_in_the_worker, "failed")
    assert isinstance(future.exception(), ValueError)


def test_pool_collected_with_waiting_work_completes_it(kind: str, gate: Gate) -> None:
    pool = make_pool(kind, max_workers=1)
    futures = [pool.submit(pass_gate, gate.folder, number) for number in range(5)]
    gate.wait_until_arrived()
    reference = weakref.ref(pool)
    del pool
    assert eventually(lambda: _is_collected(reference))
    gate.close()
    assert [result_of(future) for future in futures] == list(range(5))


def test_pool_collected_when_idle_ends_its_workers(kind: str) -> None:
    pool = make_pool(kind, max_workers=1)
    worker = result_of(pool.submit(os.getpid))
    reference = weakref.ref(pool)
    del pool
    assert eventually(lambda: _is_collected(reference))
    assert eventually(lambda: is_gone(worker))


def _is_collected(reference: weakref.ref[Executor]) -> bool:
    gc.collect()
    return reference() is None


EXIT_SCRIPT = """
from contract import calls
from contract.kinds import make_pool

if __name__ == "__main__":
    pool = make_pool({kind!r}, max_workers=1)
    for number in range(5):
        pool.submit(calls.append_line, {path!r}, str(number))
    {last_words}
"""


@pytest.mark.parametrize(
    ("last_words", "status"),
    [("", 0), ("del pool", 0), ("raise SystemExit(3)", 3), ("pool.shutdown(wait=False)", 0)],
    ids=["plain", "collected", "system-exit", "shutdown-without-wait"],
)
def test_interpreter_exit_completes_the_work(kind: str, tmp_path: Path, last_words: str, status: int) -> None:
    path = tmp_path / "lines"
    script = EXIT_SCRIPT.format(kind=kind, path=str(path), last_words=last_words)
    ended = run_script(tmp_path / "program.py", script)
    assert ended.returncode == status, ended.stderr
    assert calls.lines_of(path) == ["0", "1", "2", "3", "4"]


CALLBACK_SCRIPT = """
from contract import calls
from contract.kinds import make_pool

if __name__ == "__main__":
    pool = make_pool({kind!r}, max_workers=1)
    pool.submit(calls.square, 7).add_done_callback(lambda future: print("result", future.result(), flush=True))
"""


def test_interpreter_exit_calls_the_callbacks(kind: str, tmp_path: Path) -> None:
    ended = run_script(tmp_path / "program.py", CALLBACK_SCRIPT.format(kind=kind))
    assert (ended.returncode, ended.stdout.strip()) == (0, "result 49"), ended.stderr


MAIN_FUNCTION_SCRIPT = """
from contract.kinds import make_pool

class Point:
    def __init__(self, x):
        self.x = x

def double(point):
    return Point(2 * point.x)

if __name__ == "__main__":
    with make_pool({kind!r}, max_workers=1) as pool:
        point = pool.submit(double, Point(21)).result()
        print(type(point) is Point, point.x)
"""


def test_function_of_the_main_module_runs(kind: str, tmp_path: Path) -> None:
    ended = run_script(tmp_path / "program.py", MAIN_FUNCTION_SCRIPT.format(kind=kind))
    assert (ended.returncode, ended.stdout.strip()) == (0, "True 42"), ended.stderr
