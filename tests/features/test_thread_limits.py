"""``inner_max_num_threads``: what libraries in the workers read about the threads they may start; and ``cpu_count``."""

from __future__ import annotations

import os
import sys

import loky
import pytest

import safepool
from contract.patience import error_of, result_of
from executor import calls
from features import acts
from safepool import SafeProcessPoolExecutor, WorkerDiedError

NAMES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMBA_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)


@pytest.fixture(autouse=True)
def environment_of_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "7")


def limits_in(pool: SafeProcessPoolExecutor) -> list[str | None]:
    return list(pool.map(calls.variable, NAMES))


def test_limit_is_in_the_environment_of_workers_and_of_what_they_start_and_not_in_the_host_s(new_pool) -> None:
    pool = new_pool(inner_max_num_threads=2)

    assert limits_in(pool) == ["2"] * len(NAMES)
    assert result_of(pool.submit(calls.variable_of_a_child, "MKL_NUM_THREADS")) == "2"
    assert [os.environ.get(name) for name in NAMES] == ["7", *[None] * (len(NAMES) - 1)]


def test_limit_leaves_alone_what_env_sets(new_pool) -> None:
    pool = new_pool(inner_max_num_threads=2, env={"MKL_NUM_THREADS": "5", "OTHER": "here"})

    assert dict(zip(NAMES, limits_in(pool), strict=True)) == {**dict.fromkeys(NAMES, "2"), "MKL_NUM_THREADS": "5"}
    assert result_of(pool.submit(calls.variable, "OTHER")) == "here"


def test_pool_without_a_limit_leaves_the_environment_as_it_is(new_pool) -> None:
    assert limits_in(new_pool()) == ["7", *[None] * (len(NAMES) - 1)]


def test_limit_is_there_for_the_successor_of_a_dead_worker_too(new_pool) -> None:
    pool = new_pool(inner_max_num_threads=3)
    first = result_of(pool.submit(acts.tell_pid))

    assert isinstance(error_of(pool.submit(acts.die)), WorkerDiedError)

    assert limits_in(pool) == ["3"] * len(NAMES)
    assert result_of(pool.submit(acts.tell_pid)) != first


def test_limit_is_there_before_the_initializer_runs(new_pool) -> None:
    pool = new_pool(inner_max_num_threads=2, initializer=acts.remember_variable, initargs=("OMP_NUM_THREADS",))

    assert result_of(pool.submit(acts.remembered)) == "2"


@pytest.mark.parametrize("value", [0, -1, 1.5, "1", True])
def test_bad_limit_is_refused_by_name(value) -> None:
    with pytest.raises((TypeError, ValueError), match=f"inner_max_num_threads must be .*not {value!r}"):
        SafeProcessPoolExecutor(1, inner_max_num_threads=value)


@pytest.mark.filterwarnings("ignore:Could not find the number of physical cores")  # loky's, where there is no lscpu
def test_cpu_count_is_that_of_loky_and_of_the_default_pool(new_pool, monkeypatch) -> None:
    assert safepool.cpu_count() == loky.cpu_count() == new_pool(None)._max_workers
    assert 1 <= safepool.cpu_count(only_physical_cores=True) <= safepool.cpu_count()
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "1")
    assert safepool.cpu_count() == 1


def test_cpu_count_minds_the_affinity() -> None:
    usable = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(usable)})
        assert safepool.cpu_count() == 1
    finally:
        os.sched_setaffinity(0, usable)


def test_cpu_count_costs_nothing_until_it_is_asked_for(new_pool) -> None:
    """Each worker imports safepool; loky would be 30 ms of each."""
    assert "loky" in sys.modules  # here
    assert not result_of(new_pool().submit(acts.has_loaded, "loky"))
