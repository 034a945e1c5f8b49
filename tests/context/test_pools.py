"""Pools made of the context's processes: multiprocessing's own, and the standard library's executor."""

from __future__ import annotations

import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.context import BaseContext

from context import calls
from contract.patience import PATIENCE, eventually, is_gone
from safepool import SafeProcessPoolExecutor


def test_pool_of_multiprocessing_maps(context: BaseContext) -> None:
    with context.Pool(2) as pool:
        assert pool.map_async(calls.square, range(10)).get(PATIENCE) == [number * number for number in range(10)]


def test_pool_of_multiprocessing_runs_its_initializer(context: BaseContext) -> None:
    with context.Pool(1, initializer=calls.prepare, initargs=(7,)) as pool:
        assert pool.map_async(calls.prepared_number, range(2)).get(PATIENCE) == [7, 7]


def test_pool_of_multiprocessing_closed_and_joined_leaves_nobody(context: BaseContext) -> None:
    pool = context.Pool(2)
    workers = set(pool.map_async(calls.worker_id, range(4), chunksize=1).get(PATIENCE))
    pool.close()
    pool.join()
    assert os.getpid() not in workers
    assert eventually(lambda: all(is_gone(worker) for worker in workers))


def test_pool_of_multiprocessing_terminated_leaves_nobody(context: BaseContext) -> None:
    pool = context.Pool(2)
    workers = set(pool.map_async(calls.worker_id, range(4), chunksize=1).get(PATIENCE))
    pool.terminate()
    pool.join()
    assert eventually(lambda: all(is_gone(worker) for worker in workers))


def test_executor_of_the_standard_library_works(context: BaseContext) -> None:
    with ProcessPoolExecutor(2, mp_context=context) as pool:
        assert list(pool.map(calls.square, range(10), timeout=PATIENCE)) == [number * number for number in range(10)]
        worker = pool.submit(calls.worker_id).result(PATIENCE)
    assert is_gone(worker)


def test_safe_executor_takes_the_context(context: BaseContext) -> None:
    with SafeProcessPoolExecutor(1, mp_context=context) as pool:
        assert pool.submit(calls.square, 3).result(PATIENCE) == 9


def test_process_started_from_a_daemonic_one_works() -> None:
    """multiprocessing forbids children to its pools' workers, because they would be left behind; these cannot be."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply_async(calls.start_process_of_the_context, (7,)).get(2 * PATIENCE) == (True, 7)


def test_process_started_from_a_daemonic_one_of_the_context_works(context: BaseContext) -> None:
    with context.Pool(1) as pool:
        assert pool.apply_async(calls.start_process_of_the_context, (7,)).get(2 * PATIENCE) == (True, 7)
