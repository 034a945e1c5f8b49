"""Large arguments and results go through memory that is used again, and nobody can tell but by the clock."""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from contract.gate import Gate
from contract.patience import eventually, result_of
from features import acts, blocks
from features.blocks import Block
from safepool import SafeProcessPoolExecutor, TransferError, WorkerDiedError
from safepool._pool.task import TaskState
from safepool._worker import segments
from safepool._worker.segments import Exchange, Segment
from unit.test_segments import memory_files

pytestmark = pytest.mark.timeout(180)

THRESHOLD = 1 << 16
SIZE = 1 << 18


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of the segments that the host has made."""
    numbers: list[int] = []
    make = Segment.__init__

    def count(self: Segment, number: int, size: int) -> None:
        numbers.append(number)
        make(self, number, size)

    monkeypatch.setattr(Segment, "__init__", count)
    return numbers


@pytest.fixture(autouse=True)
def _no_memory_file_stays() -> Iterator[None]:
    """By reference counts alone."""
    gc.collect()
    before = memory_files()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
    assert memory_files() <= before
    assert not memory_maps()


def shut_down(pool: SafeProcessPoolExecutor) -> None:
    pool.shutdown()
    eventually(lambda: not memory_files() and not memory_maps())


def memory_maps() -> int:
    """Segments that this process has mapped."""
    return Path("/proc/self/maps").read_text().count("safepool-segment")


@pytest.mark.parametrize("size", [0, 1, THRESHOLD - 1, THRESHOLD, THRESHOLD + 1, SIZE + 4097, 5 << 20])
def test_data_of_any_size_arrives_as_it_was(new_pool: Any, size: int) -> None:
    pool = new_pool()
    content = os.urandom(size)
    assert result_of(pool.submit(blocks.give_back, content)) == content
    assert bytes(result_of(pool.submit(blocks.give_back, Block(bytearray(content))))) == content
    both = result_of(pool.submit(blocks.give_back, [Block(content), {"more": Block(bytearray(content))}, content]))
    assert bytes(both[0]) == bytes(both[1]["more"]) == both[2] == content
    del both
    shut_down(pool)


def test_bytes_arrive_as_bytes(new_pool: Any, made: list[int]) -> None:
    pool, content = new_pool(), bytes(SIZE)
    assert result_of(pool.submit(blocks.kind_and_size, content, also=content)) == ("bytes", SIZE, "bytes")
    assert type(result_of(pool.submit(blocks.give_back, content))) is bytes
    assert result_of(pool.submit(len, content)) == SIZE
    assert made == [1], "the bytes did not go through a segment: the test proves nothing"


def test_lambda_takes_large_arguments_as_well(new_pool: Any, made: list[int]) -> None:
    pool = new_pool()
    assert result_of(pool.submit(lambda block: block.content[-1], blocks.block_of(7, SIZE))) == 7
    assert made == [1]


def test_small_data_take_no_segment(new_pool: Any, made: list[int]) -> None:
    pool = new_pool()
    for content in (bytes(THRESHOLD - 1), Block(bytearray(THRESHOLD - 1))):
        result_of(pool.submit(blocks.give_back, content))
    assert not made


def test_read_only_memory_stays_so_and_other_does_not(new_pool: Any) -> None:
    pool = new_pool()
    assert result_of(pool.submit(blocks.is_read_only, Block(bytes(SIZE))))
    assert not result_of(pool.submit(blocks.is_read_only, Block(bytearray(SIZE))))
    assert result_of(pool.submit(blocks.give_back, Block(bytes(SIZE)))).content.readonly
    assert not result_of(pool.submit(blocks.give_back, Block(bytearray(SIZE)))).content.readonly


def test_task_that_writes_into_its_argument_changes_nobody_elses(new_pool: Any) -> None:
    pool, block = new_pool(), blocks.block_of(1, SIZE)
    results = [result_of(pool.submit(blocks.overwrite, block, byte)) for byte in range(2, 6)]
    assert bytes(block) == b"\1" * SIZE
    assert [bytes(result) for result in results] == [bytes([byte]) * SIZE for byte in range(2, 6)]
    results[0].content[:] = bytes(SIZE)
    assert [bytes(result)[0] for result in results] == [0, 3, 4, 5]
    del results, block
    shut_down(pool)


def test_original_may_be_changed_as_soon_as_it_was_submitted(new_pool: Any, gate: Gate) -> None:
    pool, block = new_pool(), blocks.block_of(1, SIZE)
    blocker = pool.submit(acts.pass_gate_and_tell_pid, gate.folder)
    future = pool.submit(blocks.give_back, block)
    block.content[:] = bytes(SIZE)
    gate.let_through()
    result_of(blocker)
    assert bytes(result_of(future)) == b"\1" * SIZE


def test_what_a_task_keeps_stays_as_it_is(new_pool: Any) -> None:
    pool = new_pool()
    for byte in (1, 2, 3, 4, 5, 6):
        result_of(pool.submit(blocks.keep, blocks.block_of(byte, SIZE)))
    for byte in range(100, 120):
        result_of(pool.submit(blocks.overwrite, blocks.block_of(0, SIZE), byte))
    assert result_of(pool.submit(blocks.kept)) == [bytes([byte]) * 4 for byte in (1, 2, 3, 4, 5, 6)]
    shut_down(pool)


def test_results_that_are_kept_stay_as_they_are_even_a_slice_of_one(new_pool: Any) -> None:
    pool = new_pool()
    slices = [result_of(pool.submit(blocks.block_of, byte, SIZE)).content[5:9] for byte in range(40)]
    for _ in range(20):
        result_of(pool.submit(blocks.block_of, 255, SIZE))
    assert [bytes(part) for part in slices] == [bytes([byte]) * 4 for byte in range(40)]
    pool.shutdown()
    assert [bytes(part) for part in slices] == [bytes([byte]) * 4 for byte in range(40)]
    slices.clear()
    assert not memory_files()


def test_many_tasks_use_few_segments(new_pool: Any, made: list[int]) -> None:
    pool, block = new_pool(2), blocks.block_of(1, SIZE)
    for _ in range(100):
        assert result_of(pool.submit(blocks.first_and_length, block)) == (1, SIZE)
        assert len(result_of(pool.submit(blocks.block_of, 2, SIZE))) == SIZE
    assert len(made) <= 3
    assert memory_files() <= 2 * 3 + 2 * 4
    shut_down(pool)


def test_more_tasks_at_once_than_there_are_segments(new_pool: Any, made: list[int]) -> None:
    pool = new_pool(2)
    futures = [pool.submit(blocks.give_back, blocks.block_of(byte, SIZE)) for byte in range(200)]
    results = [result_of(future) for future in futures]
    assert [bytes(block) for block in results] == [bytes([byte]) * SIZE for byte in range(200)]
    assert len(made) <= 64
    del futures, results
    shut_down(pool)


def test_submit_from_many_threads(new_pool: Any) -> None:
    pool, wrong = new_pool(2), []

    def work(byte: int) -> None:
        for _ in range(30):
            block = result_of(pool.submit(blocks.overwrite, blocks.block_of(byte, SIZE), byte + 100))
            if bytes(block) != bytes([byte + 100]) * SIZE:
                wrong.append(byte)

    threads = [threading.Thread(target=work, args=(byte,)) for byte in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    shut_down(pool)


def test_memory_is_given_back_at_the_end_though_the_pool_is_kept(new_pool: Any) -> None:
    pool = new_pool()
    future = pool.submit(blocks.give_back, blocks.block_of(1, SIZE))
    assert memory_files()
    assert len(result_of(future)) == SIZE
    del future
    shut_down(pool)


# --- faults ---


def test_death_of_the_worker_gives_its_segments_back(new_pool: Any, made: list[int]) -> None:
    pool = new_pool()
    kept = result_of(pool.submit(blocks.block_of, 9, SIZE))
    for _ in range(3):
        assert isinstance(pool.submit(blocks.die_with, blocks.block_of(1, SIZE)).exception(60), WorkerDiedError)
    assert result_of(pool.submit(blocks.first_and_length, blocks.block_of(2, SIZE))) == (2, SIZE)
    assert len(made) <= 2
    assert bytes(kept) == b"\x09" * SIZE
    del kept
    shut_down(pool)


def test_task_that_is_run_again_sees_its_argument_as_it_was(new_pool: Any, tmp_path: Path, made: list[int]) -> None:
    pool = new_pool(retries=1)
    future = pool.submit(blocks.overwrite_and_die_at_first, blocks.block_of(1, SIZE), str(tmp_path / "died"))
    assert result_of(future) == b"\1" * 4
    assert future.attempts == 2
    assert not made


def test_cancelled_task_gives_its_segment_back(new_pool: Any, gate: Gate, made: list[int]) -> None:
    pool = new_pool()
    blocker = pool.submit(acts.pass_gate_and_tell_pid, gate.folder)
    gate.wait_until_arrived()
    for _ in range(10):
        assert pool.submit(blocks.give_back, blocks.block_of(1, SIZE)).cancel()
    gate.let_through()
    result_of(blocker)
    assert len(made) == 1


def test_task_that_was_sent_ahead_and_taken_back_runs_elsewhere_with_its_data(new_pool: Any, gate: Gate) -> None:
    pool = new_pool(2)
    for _ in range(40):
        result_of(pool.submit(acts.square, 2))
    blocker = pool.submit(acts.pass_gate_and_tell_pid, gate.folder)
    futures = [pool.submit(blocks.overwrite, blocks.block_of(1, THRESHOLD), byte) for byte in range(60)]
    gate.wait_until_arrived()
    assert [bytes(result_of(future)) for future in futures] == [bytes([byte]) * THRESHOLD for byte in range(60)]
    assert not blocker.done()
    gate.let_through()
    result_of(blocker)
    del futures
    shut_down(pool)


def test_task_that_was_sent_ahead_gives_its_segment_back_when_cancelled(
    new_pool: Any, gate: Gate, made: list[int]
) -> None:
    pool = new_pool(1)
    for _ in range(20):
        result_of(pool.submit(acts.square, 2))
    blocker = pool.submit(acts.pass_gate_and_tell_pid, gate.folder)
    futures = [pool.submit(blocks.give_back, blocks.block_of(1, SIZE)) for _ in range(20)]
    seen_ahead = any(future._task is not None and future._task.state is TaskState.SENT for future in futures)
    gate.wait_until_arrived()
    assert all(future.cancel() for future in futures)
    gate.let_through()
    result_of(blocker)
    count = len(made)
    for _ in range(20):
        result_of(pool.submit(blocks.first_and_length, blocks.block_of(2, SIZE)))
    assert len(made) == count, f"sent ahead: {seen_ahead}"


def test_want_of_descriptors_sends_the_data_by_the_channel(new_pool: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = new_pool()
    result_of(pool.submit(acts.square, 2))
    refused = []

    def refuse(_name: str, _flags: int) -> int:
        refused.append(_name)
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(os, "memfd_create", refuse)
    assert bytes(result_of(pool.submit(blocks.give_back, blocks.block_of(3, SIZE)))) == b"\3" * SIZE
    assert refused


def test_result_whose_segment_is_lost_fails_its_task_alone(new_pool: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = new_pool()
    with monkeypatch.context() as patch:
        patch.setattr(Exchange, "_adopt", lambda *_: None)
        error = pool.submit(blocks.block_of, 1, SIZE).exception(60)
    assert isinstance(error, TransferError)
    assert [len(result_of(pool.submit(blocks.block_of, 1, SIZE))) for _ in range(5)] == [SIZE] * 5


def test_argument_whose_segment_is_lost_fails_its_task_alone(new_pool: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = new_pool()

    def send_without(channel: Any, piece: Any, _segment: Segment) -> int:
        return int(channel.send(piece))

    with monkeypatch.context() as patch:
        patch.setattr("safepool._worker.channel.send_segment", send_without)
        error = pool.submit(blocks.first_and_length, blocks.block_of(1, SIZE)).exception(60)
    assert isinstance(error, LookupError)
    assert result_of(pool.submit(blocks.first_and_length, blocks.block_of(2, SIZE))) == (2, SIZE)


def test_tasks_whose_memory_is_watched_take_no_segments(new_pool: Any, made: list[int]) -> None:
    pool = new_pool(memory_limit="4GiB")
    assert bytes(result_of(pool.submit(blocks.give_back, blocks.block_of(3, SIZE)))) == b"\3" * SIZE
    assert not made
    assert not memory_files()


def test_memory_beyond_what_is_kept_goes_with_the_next_task(new_pool: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "_MOST_IDLE", SIZE)
    pool = new_pool()
    futures = [pool.submit(blocks.first_and_length, blocks.block_of(1, SIZE)) for _ in range(10)]
    for future in futures:
        result_of(future)
    eventually(lambda: memory_files() <= 2)


def test_numpy_arrays_there_and_back(new_pool: Any, made: list[int]) -> None:
    numpy = pytest.importorskip("numpy")
    pool = new_pool()
    array = numpy.arange(1 << 16, dtype="f8").reshape(256, 256)
    for sent in (array, numpy.asfortranarray(array), array[::2, ::3], array.T):
        result = result_of(pool.submit(blocks.give_back, sent))
        assert (result == sent).all()
        assert result.flags.writeable
    array.flags.writeable = False
    assert not result_of(pool.submit(blocks.give_back, array)).flags.writeable
    assert made
    parts = [result_of(pool.submit(blocks.give_back, numpy.full(SIZE, byte, "u1")))[7:9] for byte in range(30)]
    assert [part.tolist() for part in parts] == [[byte, byte] for byte in range(30)]
