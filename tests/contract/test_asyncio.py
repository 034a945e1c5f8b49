"""``loop.run_in_executor`` takes the pool as it is."""

from __future__ import annotations

import asyncio
from concurrent.futures import Executor

import pytest

from contract import calls
from contract.gate import Gate, pass_gate
from contract.kinds import NewPool
from contract.patience import PATIENCE


def test_run_in_executor_returns_the_result(pool: Executor) -> None:
    async def main() -> int:
        loop = asyncio.get_running_loop()
        return await asyncio.wait_for(loop.run_in_executor(pool, calls.add, 1, 2), PATIENCE)

    assert asyncio.run(main()) == 3


def test_run_in_executor_raises_the_exception(pool: Executor) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        await asyncio.wait_for(loop.run_in_executor(pool, calls.raise_value_error_in_the_worker, "failed"), PATIENCE)

    with pytest.raises(ValueError, match="failed"):
        asyncio.run(main())


def test_run_in_executor_several_gathers_all(pool: Executor) -> None:
    async def main() -> list[int]:
        loop = asyncio.get_running_loop()
        tasks = [loop.run_in_executor(pool, calls.square, number) for number in range(10)]
        return await asyncio.wait_for(asyncio.gather(*tasks), PATIENCE)

    assert asyncio.run(main()) == [number * number for number in range(10)]


def test_run_in_executor_given_up_leaves_the_pool_serving(pool: Executor, gate: Gate) -> None:
    async def main() -> int:
        loop = asyncio.get_running_loop()
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(loop.run_in_executor(pool, pass_gate, gate.folder, None), 0.1)
        gate.close()
        return await asyncio.wait_for(loop.run_in_executor(pool, calls.square, 5), PATIENCE)

    assert asyncio.run(main()) == 25


def test_wrap_future_cancelled_cancels_what_waits(new_pool: NewPool, gate: Gate) -> None:
    pool = new_pool(max_workers=1)

    async def main() -> bool:
        futures = [pool.submit(pass_gate, gate.folder, number) for number in range(8)]
        await asyncio.get_running_loop().run_in_executor(None, gate.wait_until_arrived)
        asyncio.wrap_future(futures[-1]).cancel()
        await asyncio.sleep(0)
        return futures[-1].cancelled()

    assert asyncio.run(main())
