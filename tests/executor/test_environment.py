"""``env``: what workers, and all they start, find in their environment."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from contract.patience import result_of
from executor import calls
from safepool import SafeProcessPoolExecutor

NewPool = Callable[..., SafeProcessPoolExecutor]


def test_env_is_seen_by_tasks_and_what_they_start(new_pool: NewPool) -> None:
    pool = new_pool(env={"FOR_WORKERS_ONLY": "here"})
    assert result_of(pool.submit(calls.variable, "FOR_WORKERS_ONLY")) == "here"
    assert result_of(pool.submit(calls.variable_of_a_child, "FOR_WORKERS_ONLY")) == "here"


def test_env_is_not_seen_by_the_host(new_pool: NewPool) -> None:
    pool = new_pool(env={"FOR_WORKERS_ONLY": "here"})
    result_of(pool.submit(calls.square, 3))
    assert "FOR_WORKERS_ONLY" not in os.environ


def test_env_adds_to_the_environment_of_the_host(new_pool: NewPool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FROM_THE_HOST", "inherited")
    monkeypatch.setenv("FROM_BOTH", "of the host")
    pool = new_pool(env={"FROM_BOTH": "of the pool"})
    assert result_of(pool.submit(calls.variable, "FROM_THE_HOST")) == "inherited"
    assert result_of(pool.submit(calls.variable, "FROM_BOTH")) == "of the pool"


def test_env_is_seen_by_every_later_worker(new_pool: NewPool) -> None:
    pool = new_pool(env={"FOR_WORKERS_ONLY": "here"}, max_tasks_per_child=1)
    assert [result_of(pool.submit(calls.variable, "FOR_WORKERS_ONLY")) for _ in range(2)] == ["here", "here"]


def test_env_changed_after_construction_changes_nothing(new_pool: NewPool) -> None:
    env = {"FOR_WORKERS_ONLY": "as given"}
    pool = new_pool(env=env)
    env["FOR_WORKERS_ONLY"] = "changed"
    assert result_of(pool.submit(calls.variable, "FOR_WORKERS_ONLY")) == "as given"
