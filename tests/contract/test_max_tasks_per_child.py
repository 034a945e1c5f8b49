"""``max_tasks_per_child``: a worker retires after so many tasks, and a fresh one takes over."""

from __future__ import annotations

import os

import pytest

from contract.kinds import NewPool, knows_max_tasks_per_child
from contract.patience import result_of


@pytest.fixture(autouse=True)
def _only_where_it_is_known(kind: str) -> None:
    if not knows_max_tasks_per_child(kind):
        pytest.skip("max_tasks_per_child came with Python 3.11")


def test_worker_retires_after_its_tasks(new_pool: NewPool) -> None:
    pool = new_pool(max_workers=1, max_tasks_per_child=2)
    pids = [result_of(pool.submit(os.getpid)) for _ in range(6)]
    assert [pids.count(pid) for pid in dict.fromkeys(pids)] == [2, 2, 2]


def test_worker_with_one_task_is_always_a_fresh_one(new_pool: NewPool) -> None:
    pool = new_pool(max_workers=1, max_tasks_per_child=1)
    pids = [result_of(pool.submit(os.getpid)) for _ in range(3)]
    assert len(set(pids)) == 3


def test_worker_without_limit_stays(new_pool: NewPool) -> None:
    pool = new_pool(max_workers=1, max_tasks_per_child=None)
    assert len({result_of(pool.submit(os.getpid)) for _ in range(10)}) == 1


@pytest.mark.parametrize("limit", [0, -1])
def test_limit_below_one_raises_value_error(new_pool: NewPool, limit: int) -> None:
    with pytest.raises(ValueError, match="max_tasks_per_child"):
        new_pool(max_tasks_per_child=limit)


@pytest.mark.parametrize("limit", ["x", 1.5])
def test_limit_not_an_integer_raises_type_error(new_pool: NewPool, limit: object) -> None:
    with pytest.raises(TypeError, match="max_tasks_per_child"):
        new_pool(max_tasks_per_child=limit)
