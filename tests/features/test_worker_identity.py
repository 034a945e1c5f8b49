"""``safepool.get_worker()``: which of a pool's workers runs this, and what it keeps from task to task."""

from __future__ import annotations

import os

import pytest

import safepool
from contract.patience import error_of, result_of
from executor import calls
from features import acts, careers
from safepool import TaskKilledError, TaskTimeoutError, WorkerDiedError


def ids_at_the_gate(pool, gate, count: int) -> dict[int, int]:
    """Have so many workers run something at the same time; return their ids by process."""
    futures = [pool.submit(careers.pass_gate_and_tell_id, gate.folder) for _ in range(count)]
    gate.wait_until_arrived(count)
    gate.let_through(count)
    ids = [result_of(future) for future in futures]
    return dict(zip([future.pid for future in futures], ids, strict=True))


# --- who it is ---


def test_workers_at_work_have_the_numbers_from_zero_on(new_pool, gate) -> None:
    ids = ids_at_the_gate(new_pool(3), gate, 3)

    assert len(ids) == 3
    assert sorted(ids.values()) == [0, 1, 2]


def test_worker_keeps_its_number_from_task_to_task(new_pool, gate) -> None:
    pool = new_pool(2)
    ids = ids_at_the_gate(pool, gate, 2)

    assert ids_at_the_gate(pool, gate, 2) == ids


@pytest.mark.parametrize("end", ["death", "kill", "timeout"])
def test_number_of_a_worker_that_is_gone_is_taken_by_its_successor(new_pool, gate, end: str) -> None:
    pool = new_pool(2)
    first = pool.submit(careers.pass_gate_and_tell_id, gate.folder)
    gate.wait_until_arrived()
    if end == "death":
        assert isinstance(error_of(pool.submit(acts.die)), WorkerDiedError)
    elif end == "kill":
        killed = pool.submit(careers.arrive_and_hang, gate.folder)
        gate.wait_until_arrived()
        assert killed.kill()
        assert isinstance(error_of(killed), TaskKilledError)
    else:
        assert isinstance(error_of(pool.submit(calls.hang, task_timeout=0.3)), TaskTimeoutError)

    second = result_of(pool.submit(careers.tell_id))

    gate.let_through()
    assert {result_of(first), second} == {0, 1}


def test_task_is_told_the_number_of_the_process_it_runs_in(new_pool) -> None:
    text = result_of(new_pool().submit(careers.ask_who))
    assert text[0] == f"<worker 0 of a pool, pid {text[1]}>"


# --- what it keeps ---


def test_state_lasts_from_task_to_task(new_pool) -> None:
    pool = new_pool()
    assert [result_of(pool.submit(careers.count)) for _ in range(3)] == [(0, 1), (0, 2), (0, 3)]


def test_each_worker_has_a_state_of_its_own(new_pool, gate) -> None:
    pool = new_pool(2)
    held = pool.submit(careers.pass_gate_and_tell_id, gate.folder)
    gate.wait_until_arrived()
    counts = [result_of(pool.submit(careers.count))[1] for _ in range(3)]  # the other worker's
    gate.let_through()
    result_of(held)

    futures = [pool.submit(careers.pass_gate_and_count, gate.folder) for _ in range(2)]
    gate.wait_until_arrived(2)
    gate.let_through(2)

    assert counts == [1, 2, 3]
    assert sorted(result_of(future)[1] for future in futures) == [1, 4]


def test_state_is_empty_in_the_successor_of_a_worker_that_died(new_pool) -> None:
    pool = new_pool()
    assert result_of(pool.submit(careers.count)) == (0, 1)

    assert isinstance(error_of(pool.submit(careers.count_and_die)), WorkerDiedError)

    assert result_of(pool.submit(careers.count)) == (0, 1)


def test_state_is_empty_in_the_successor_of_a_worn_worker(new_pool) -> None:
    pool = new_pool(max_tasks_per_child=2)
    assert [result_of(pool.submit(careers.count))[1] for _ in range(5)] == [1, 2, 1, 2, 1]


def test_state_outlasts_a_task_that_raises(new_pool) -> None:
    pool = new_pool()
    result_of(pool.submit(careers.count))
    assert isinstance(error_of(pool.submit(acts.square_or_raise, -1)), ValueError)
    assert result_of(pool.submit(careers.count)) == (0, 2)


def test_what_the_initializer_keeps_is_there_for_the_tasks(new_pool) -> None:
    pool = new_pool(initializer=careers.keep_in_state, initargs=("device", "cuda:0"))
    assert result_of(pool.submit(careers.tell_state)) == {"device": "cuda:0"}


# --- where it is known ---


def test_threads_of_a_task_find_the_same_worker(pool) -> None:
    assert result_of(pool.submit(careers.ask_in_thread)) == (True, "from a thread")


@pytest.mark.parametrize("ask", [careers.ask_in_forked_child, careers.ask_in_spawned_child])
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_process_that_a_task_starts_is_no_worker(pool, ask) -> None:
    assert "runs in a worker of a SafeProcessPoolExecutor" in result_of(pool.submit(ask))


def test_host_is_no_worker(pool) -> None:
    result_of(pool.submit(careers.tell_id))
    with pytest.raises(RuntimeError, match="runs in a worker of a SafeProcessPoolExecutor"):
        safepool.get_worker()


def test_nested_pool_has_numbers_and_states_of_its_own(new_pool) -> None:
    before, nested, after = result_of(new_pool().submit(careers.ask_nested))
    assert (before, nested, after) == ((0, 1), [(0, 1), (0, 2)], (0, 2))


def test_pools_of_one_host_count_each_for_itself(new_pool) -> None:
    pools = [new_pool(), new_pool()]
    assert [result_of(pool.submit(careers.count)) for pool in pools] == [(0, 1), (0, 1)]
    assert len({result_of(pool.submit(os.getpid)) for pool in pools}) == 2


def test_successor_that_starts_while_the_tree_before_it_is_ended_stays_below_the_bound(new_pool) -> None:
    """A task waits behind each that is ended, so that the next worker is called for at once."""
    pool = new_pool(1)

    ids = []
    for _ in range(4):
        late = pool.submit(calls.hang, task_timeout=0.3)
        ids.append(result_of(pool.submit(careers.tell_id)))
        assert isinstance(error_of(late), TaskTimeoutError)

    assert ids == [0] * 4
