"""A bundle: divided anywhere, each item in one place, never two of a number."""

from __future__ import annotations

import itertools
import pickle
import threading
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import Mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safepool._pool.answers import Answers
from safepool._pool.bundle import PENDING, Bundle, Outcomes
from safepool._pool.feeding import Feeding, _part_rest
from safepool._pool.task import TaskState
from safepool._pool.terms import Terms
from safepool._pool.worker import Worker, WorkerState
from safepool._worker.calls import unpack_bundle
from safepool._worker.framing import Frame, Kind
from safepool._worker.record import StartRecord
from unit.records import new_state

pytestmark = pytest.mark.timeout(60)


def new_bundle(size: int, outcomes: Outcomes | None = None) -> Bundle:
    outcomes = outcomes or Outcomes()
    outcomes.slots += [PENDING] * size
    rows: list[Any] = [(b"%d" % item, (item,), item % 2 == 0) for item in range(size)]
    return Bundle(abs, b"\x03m\nf", rows, outcomes, Terms(), base=0, index=0, size=size)


def items_of(bundle: Bundle | None) -> list[int]:
    """What a worker would be sent."""
    if bundle is None:
        return []
    name, rows = unpack_bundle(bundle.pack())
    assert name == b"m\nf"
    return [int(bytes(row)) for row in rows]


def test_bundle_that_is_given_out_again_has_a_higher_number_each_time() -> None:
    bundle, other = new_bundle(3), new_bundle(3)
    numbers = []
    for _ in range(3):
        for each in (bundle, other):
            each.renew()
            numbers.append(each.number)
    assert numbers == sorted(numbers)
    assert all(later - earlier > 3 for earlier, later in itertools.pairwise(numbers))


@given(st.integers(1, 20), st.data())
def test_wherever_a_bundle_is_divided_each_item_is_in_one_part(size: int, data: st.DataObject) -> None:
    bundle = new_bundle(size)
    done = data.draw(st.integers(0, size - 1))
    bundle.step(done)
    last = bundle.number + data.draw(st.integers(-2, size + 2))
    rest = bundle.cut_behind(last)
    assert items_of(bundle) + items_of(rest) == list(range(done, size))
    assert bundle.size >= 1
    if rest is not None:
        assert bundle.size == max(1, last - bundle.number + 1)
        some = data.draw(st.integers(1, rest.size))
        first = rest.cut(some)
        assert items_of(first) + items_of(rest) == list(range(done + bundle.size, size))


def test_items_that_are_over_give_back_the_arguments_that_are_not_plain() -> None:
    bundle = new_bundle(5)
    number = bundle.number
    assert bundle.step(3) == [(1,)]
    assert (bundle.number, bundle.index, bundle.size) == (number + 3, 3, 2)
    assert bundle.ticket == number
    assert items_of(bundle) == [3, 4]


def test_item_that_leaves_is_a_task_whose_future_the_consumer_finds() -> None:
    outcomes = Outcomes()
    bundle = new_bundle(2, outcomes)
    bundle.attempts, bundle.state = 1, TaskState.RUNNING
    task = bundle.take_first()
    assert outcomes.slots == [task.future, PENDING]
    assert task.future.running()
    assert (task.payload, task.call, task.attempts, task.state) == (
        b"\x03m\nf0",
        (abs, (0,), {}),
        1,
        TaskState.RUNNING,
    )
    waiting = new_bundle(1).take_first()
    assert waiting.future.cancel()


@pytest.mark.parametrize(("ahead", "leaving"), [(-5, 1), (-1, 1), (0, 1), (1, 2), (3, 4), (9, 4)])
def test_of_a_dead_worker_s_bundle_what_had_begun_leaves(ahead: int, leaving: int) -> None:
    bundle = new_bundle(4)
    assert len(bundle.take_begun(bundle.number + ahead)) == leaving
    assert bundle.size == 4 - leaving


def test_items_go_on_their_own_ways_one_by_one() -> None:
    bundle = new_bundle(4)
    bundle.step(1)
    assert [task.call[1] for task in bundle.each()] == [(1,), (2,), (3,)]
    assert bundle.size == 0


def new_worker() -> Worker:
    """One that has two bundles, of three items and of five."""
    nothing: Any = None
    record = StartRecord()
    record.close()
    worker = Worker(1, cast("Any", SimpleNamespace(pid=0)), nothing, record, None, runs=8)
    worker.task = new_bundle(3)
    worker.line_up(new_bundle(5))
    return worker


def test_worker_that_has_come_to_its_next_bundle_unseen_is_stopped_in_that_one() -> None:
    """It has said how the last item of the first bundle went, but nobody has read it yet."""
    worker = new_worker()
    first, second = worker.sent()
    worker.record.may_go_on(second.number, second.number)
    worker.record.may_go_on(second.number, second.number + 1)
    rest = _part_rest(worker, set())
    assert (first.size, second.size, items_of(rest)) == (3, 2, [2, 3, 4])
    assert (worker.ahead_size, worker.runs) == (2, 5)
    assert not worker.record.may_go_on(second.number, second.number + 2)


def test_stop_that_the_worker_has_not_seen_stays_when_a_later_bundle_is_taken_back() -> None:
    """Else it would run what was given to others meanwhile."""
    worker = new_worker()
    worker.turn()
    first = worker.task
    assert isinstance(first, Bundle)
    worker.record.may_go_on(first.number, first.number)
    assert items_of(_part_rest(worker, set())) == [1, 2]
    worker.task = later = new_bundle(5)
    assert items_of(_part_rest(worker, {later.number})) == [1, 2, 3, 4]
    assert not worker.record.may_go_on(first.number, first.number + 1)


def test_bundles_of_items_that_follow_one_another_become_one() -> None:
    outcomes = Outcomes()
    rows: list[Any] = [(b"%d" % item, (item,), True) for item in range(5)]

    def part(first: int, last: int) -> Bundle:
        return Bundle(abs, b"\x03m\nf", rows[first:last], outcomes, Terms(), base=first, index=first, size=last - first)

    bundle = part(0, 1)
    assert bundle.absorb(part(1, 3))
    assert not bundle.absorb(part(4, 5)), "an item in between was lost"
    assert bundle.absorb(part(3, 4))
    assert items_of(bundle) == [0, 1, 2, 3]
    assert not bundle.absorb(new_bundle(4)), "it is another map's"


@pytest.mark.parametrize("is_closed", [True, False])
def test_items_that_come_back_are_run_elsewhere_unless_nobody_wants_them_any_more(is_closed: bool) -> None:
    worker = new_worker()
    bundle = worker.task
    assert isinstance(bundle, Bundle)
    state, calls, nothing = new_state(), [], cast("Any", None)
    feeding = Feeding(state, threading.RLock(), nothing, cast("Any", SimpleNamespace(put=calls.append)), nothing)
    bundle.outcomes.is_closed = is_closed
    feeding.on_parted(worker, bundle)
    assert (state.waiting_count, len(calls)) == ((0, 1) if is_closed else (3, 0))
    for call in calls:
        call()
    slots = bundle.outcomes.slots
    assert [slot is PENDING or slot.cancelled() for slot in slots] == [True] * 3
    assert (PENDING in slots) != is_closed


def test_item_may_come_back_while_the_answers_before_it_are_still_unread() -> None:
    """1. The worker is stopped in its second bundle. 2. All that it has said comes in one go."""
    worker, desk = new_worker(), new_state()
    first, second = worker.sent()
    assert isinstance(first, Bundle)
    assert isinstance(second, Bundle)
    worker.state = WorkerState.BUSY
    assert worker.record.may_go_on(second.ticket, second.number + 1)
    rest = _part_rest(worker, set())
    assert items_of(rest) == [2, 3, 4]
    lock, nothing = threading.RLock(), cast("Any", Mock())
    feeding = Feeding(desk, lock, nothing, nothing, nothing)
    answers = Answers(desk, lock, nothing, nothing, nothing, feeding, nothing)
    said = [*range(first.number, first.number + 3), second.number]
    frames = [Frame(Kind.PLAIN_RESULT, number, pickle.dumps(number)) for number in said]
    answers.take(worker, [*frames, Frame(Kind.PARTED, second.number + 1, b"")])
    assert [PENDING in outcomes.slots for outcomes in (first.outcomes, second.outcomes)] == [False, True]
    assert desk.take_waiting() is second
    assert items_of(second) == [1]
    assert worker.task is None


def test_item_that_nobody_was_told_to_send_back_does_not_come_back() -> None:
    """A task can write whatever it likes; what runs would be run once more."""
    worker = new_worker()
    worker.state = WorkerState.BUSY
    bundle = worker.task
    assert isinstance(bundle, Bundle)
    nothing = cast("Any", Mock())
    answers = Answers(new_state(), threading.RLock(), nothing, nothing, nothing, nothing, nothing)
    answers.take(worker, [Frame(Kind.PARTED, bundle.number, b"")])
    assert (worker.task, worker.answers) == (bundle, {})
