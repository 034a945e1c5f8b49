"""Answers in shared memory: all arrive, in order and whole, and nobody sleeps through one."""

from __future__ import annotations

import contextlib
import struct
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safepool._worker.ring import AnswerRing
from unit.turns import Turns, Word, schedules

pytestmark = pytest.mark.timeout(60)

ROOM = 64  # bytes for data


@pytest.fixture
def ring() -> AnswerRing:
    """Make a ring whose reader is awake."""
    ring = new_ring()
    assert ring.wakes_host()
    return ring


def new_ring() -> AnswerRing:
    return AnswerRing(memoryview(bytearray(64 + ROOM)))


def test_host_sleeps_at_first_and_is_to_be_sent_its_answer() -> None:
    ring = new_ring()
    assert not ring.put(b"answer")
    assert ring.wakes_host()
    assert not ring.wakes_host()
    assert ring.take() == b""


def test_answers_to_a_host_that_is_awake_are_left_in_order(ring: AnswerRing) -> None:
    assert ring.put(b"one")
    assert ring.put(b"two")
    assert not ring.wakes_host()
    assert ring.take() == b"onetwo"
    assert ring.take() == b""


def test_answer_that_finds_no_room_is_to_be_sent_and_changes_nothing(ring: AnswerRing) -> None:
    assert ring.put(bytes(ROOM - 3))
    assert not ring.put(b"four")
    assert not ring.wakes_host()
    assert ring.put(b"abc")
    assert not ring.put(b"d")
    assert ring.take() == bytes(ROOM - 3) + b"abc"
    assert ring.put(b"four")


def test_host_does_not_fall_asleep_over_an_answer(ring: AnswerRing) -> None:
    ring.put(b"answer")
    assert not ring.fall_asleep()
    assert ring.take() == b"answer"
    assert ring.fall_asleep()
    assert not ring.put(b"next")


def test_answer_that_fills_the_ring_to_the_last_byte_is_left() -> None:
    for shift in (0, 1, ROOM - 1):
        ring = new_ring()
        ring.wakes_host()
        assert ring.put(bytes(shift))
        assert ring.take() == bytes(shift)
        assert ring.put(b"x" * ROOM)
        assert not ring.put(b"y")
        assert ring.take() == b"x" * ROOM


@given(st.lists(st.binary(max_size=ROOM), max_size=40), st.data())
def test_whatever_is_left_comes_out_whole_and_in_order(answers: list[bytes], data: st.DataObject) -> None:
    ring = new_ring()
    ring.wakes_host()
    left, taken = b"", b""
    for answer in answers:
        if ring.put(answer):
            left += answer
        if data.draw(st.booleans()):
            taken += ring.take()
    assert taken + ring.take() == left


# --- every order in which the two can come upon each other ---


@pytest.mark.parametrize("is_awake", [True, False])
def test_one_of_the_two_sees_the_other_in_whatever_order(is_awake: bool) -> None:
    """Else an answer lies there, and the host sleeps until something else happens.

    Every order of the steps, that is; that a machine keeps to the order of each is the fence's business.
    """
    seen = set()
    for schedule in schedules(6, host_touches=3):
        ring, turns = new_ring(), Turns(schedule)
        if is_awake:
            ring.wakes_host()
        for name in ("_written", "_read", "_is_awake"):
            setattr(ring, name, Word(getattr(ring, name), turns))
        found: dict[str, bool] = {}

        def answer(ring: AnswerRing = ring, turns: Turns = turns, found: dict[str, bool] = found) -> None:
            found["left"] = ring.put(b"answer")
            found["sent"] = not found["left"] or ring.wakes_host()
            turns.leave("worker")

        def sleep(ring: AnswerRing = ring, turns: Turns = turns, found: dict[str, bool] = found) -> None:
            found["asleep"] = ring.fall_asleep()
            turns.leave("host")

        threads = [threading.Thread(target=answer, name="worker"), threading.Thread(target=sleep, name="host")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert found["sent"] or not found["asleep"], schedule
        seen.add((found["left"], found["sent"], found["asleep"]))
    assert len(seen) > 1 or not is_awake, "no order made a difference"


# --- hostile words ---

_WORD = st.integers(0, 2**64 - 1)


@given(st.lists(st.tuples(st.sampled_from([0, 1, 2]), _WORD), max_size=8), st.binary(min_size=ROOM, max_size=ROOM))
def test_whatever_stands_in_the_memory_host_takes_no_more_than_there_is_room_for(
    words: list[tuple[int, int]], content: bytes
) -> None:
    """A task can write there: neither end may crash, wait, or take more than the ring holds."""
    memory = bytearray(64) + content
    ring = AnswerRing(memoryview(memory))
    view = memoryview(memory)[:64].cast("Q")
    for index, word in words:
        view[index] = word
        before = view[1]
        taken = ring.take()
        assert len(taken) <= ROOM
        assert bool(taken) == (view[0] != before)
        assert ring.take() == b""
        assert ring.fall_asleep()


@given(_WORD, _WORD, st.binary(max_size=2 * ROOM))
def test_worker_whose_ring_was_spoilt_does_not_write_beyond_it(written: int, read: int, frame: bytes) -> None:
    memory = bytearray(64 + ROOM + 64)
    ring = AnswerRing(memoryview(memory)[: 64 + ROOM])
    view = memoryview(memory)[:64].cast("Q")
    view[0], view[1], view[2] = written, read, 1
    with contextlib.suppress(struct.error, ValueError, OverflowError):
        ring.put(frame)
    assert bytes(memory[64 + ROOM :]) == bytes(64)
