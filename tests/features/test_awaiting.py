"""``await future``: in an asyncio event loop, with asyncio's own rules for cancelling."""

from __future__ import annotations

import asyncio

import pytest

from contract.patience import PATIENCE, error_of, eventually, is_gone, result_of
from executor import calls
from features import acts
from safepool import TaskKilledError, TaskTimeoutError, WorkerDiedError


def run(coroutine):
    """Run it within patience."""
    return asyncio.run(asyncio.wait_for(coroutine, PATIENCE))


async def outcome(future):
    return await future


def test_await_gives_the_result(new_pool) -> None:
    assert run(outcome(new_pool().submit(acts.square, 3))) == 9


def test_await_of_a_settled_future_gives_its_result(new_pool) -> None:
    future = new_pool().submit(acts.square, 3)
    result_of(future)

    assert run(outcome(future)) == 9


def test_await_raises_what_the_task_raised(new_pool) -> None:
    with pytest.raises(ValueError, match="so"):
        run(outcome(new_pool().submit(calls.raise_value_error, "so")))


def test_await_of_a_task_that_raised_stop_iteration_comes_to_an_end(new_pool) -> None:
    future = new_pool().submit(next, iter(()))

    with pytest.raises(RuntimeError, match="StopIteration"):
        run(outcome(future))
    assert isinstance(error_of(future), StopIteration)


def test_many_are_awaited_at_once(new_pool) -> None:
    pool = new_pool(2)

    async def gather():
        return await asyncio.gather(*(pool.submit(acts.square, number) for number in range(50)))

    assert run(gather()) == [number * number for number in range(50)]


def test_await_of_a_cancelled_future_is_cancelled(new_pool, gate) -> None:
    pool = new_pool()
    running = pool.submit(acts.pass_gate_and_tell_pid, gate.folder)
    waiting = pool.submit(acts.square, 3)
    gate.wait_until_arrived()
    assert waiting.cancel()

    async def await_it():
        with pytest.raises(asyncio.CancelledError):
            await waiting

    run(await_it())
    gate.let_through()
    result_of(running)


def test_cancelled_await_ends_a_running_task(new_pool, gate) -> None:
    pool = new_pool()
    future = pool.submit(calls.hang, gate.folder)
    (worker,) = gate.wait_until_arrived()

    async def give_up():
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(outcome(future), 0.2)

    run(give_up())

    assert isinstance(error_of(future), TaskKilledError)
    assert is_gone(worker)
    assert result_of(pool.submit(acts.square, 3)) == 9


def test_shielded_await_leaves_the_task_alone(new_pool, gate) -> None:
    future = new_pool().submit(acts.pass_gate_and_tell_pid, gate.folder)
    (worker,) = gate.wait_until_arrived()

    async def give_up():
        inner = asyncio.ensure_future(outcome(future))
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(asyncio.shield(inner), 0.2)
        gate.let_through()
        return await inner

    assert run(give_up()) == worker


def test_task_past_its_deadline_raises_in_the_await(new_pool) -> None:
    with pytest.raises(TaskTimeoutError):
        run(outcome(new_pool(task_timeout=0.5).submit(calls.hang)))


def test_death_of_the_worker_raises_in_the_await(new_pool) -> None:
    with pytest.raises(WorkerDiedError):
        run(outcome(new_pool().submit(acts.die)))


def test_loop_that_is_closed_meanwhile_harms_nobody(new_pool, gate) -> None:
    future = new_pool().submit(acts.pass_gate_and_tell_pid, gate.folder)
    (worker,) = gate.wait_until_arrived()
    loop = asyncio.new_event_loop()
    waiting = outcome(future)
    task = loop.create_task(waiting)
    loop.run_until_complete(asyncio.sleep(0))  # it waits now
    assert not task.done()
    task._log_destroy_pending = False  # that nobody finishes it is the point
    loop.close()

    gate.let_through()

    assert result_of(future) == worker
    waiting.close()


def test_await_without_a_loop_is_refused(new_pool) -> None:
    with pytest.raises(RuntimeError, match="no running event loop"):
        new_pool().submit(acts.square, 3).__await__().send(None)


def test_call_in_a_process_is_awaited(gate) -> None:
    from features import decorated

    async def call():
        return await decorated.describe(3)

    assert run(call()) == (3, "set")
    future = decorated.hang_with_child(gate.folder)
    (child,) = gate.wait_until_arrived()

    async def give_up():
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(outcome(future), 0.2)

    run(give_up())
    assert eventually(lambda: is_gone(child))
