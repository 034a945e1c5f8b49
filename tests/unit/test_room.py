"""So many places, and callers who wait for one: none is lost, none is given twice, whoever is interrupted."""

from __future__ import annotations

import _thread
import itertools
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import pytest

from safepool import QueueFullError
from safepool._pool.room import Room
from support.eventually import eventually

pytestmark = pytest.mark.timeout(60)

_LONGEST = 30.0  # seconds for anything that takes microseconds

SetHandler = Callable[[Callable[[], object]], None]


@pytest.fixture
def on_signal() -> Iterator[SetHandler]:
    """Let a test say what the handler of SIGUSR1 does."""
    before = signal.getsignal(signal.SIGUSR1)

    def install(act: Callable[[], object]) -> None:
        signal.signal(signal.SIGUSR1, lambda *_: act())

    yield install
    signal.signal(signal.SIGUSR1, before)


def is_open() -> None:
    """Answer for a pool that is open."""


def interrupt() -> None:
    raise KeyboardInterrupt


def waiting(room: Room) -> int:
    """Count those who stand at a gate; who has put up one is about to ask for room once more, and then to wait."""
    return len(room._waiters)


def take_in_thread(room: Room, number: int, check_open: Callable[[], None] = is_open) -> tuple[Any, list[object]]:
    """Take a place in another thread; return the thread, and what came of it once it has ended."""
    outcome: list[object] = []

    def take() -> None:
        try:
            room.take(number, wait=True, check_open=check_open)
            room.let_go(number)
            outcome.append(number)
        except BaseException as error:
            outcome.append(error)

    thread = threading.Thread(target=take, daemon=True)
    thread.start()
    return thread, outcome


def take(room: Room, number: int) -> None:
    """Take a place, as a caller does who hands the task over."""
    room.take(number, wait=False, check_open=is_open)
    room.let_go(number)


def taken_in_vain(room: Room, number: int) -> None:
    with pytest.raises(QueueFullError):
        room.take(number, wait=False, check_open=is_open)


# --- places ---


def test_places_are_there_up_to_the_limit_and_not_beyond() -> None:
    places: set[int] = set()
    room = Room(places, 2)
    take(room, 1)
    take(room, 2)

    with pytest.raises(QueueFullError) as caught:
        room.take(3, wait=False, check_open=is_open)

    assert caught.value.max_pending == 2
    assert places == {1, 2}


def test_place_given_back_is_there_for_another() -> None:
    places: set[int] = set()
    room = Room(places, 1)
    take(room, 1)
    taken_in_vain(room, 2)

    room.leave(1)
    take(room, 2)

    assert places == {2}


def test_giving_back_a_place_that_was_never_taken_makes_no_room() -> None:
    room = Room({1}, 1)
    room.leave(2)
    taken_in_vain(room, 3)


def test_room_without_a_limit_takes_everybody_and_keeps_no_book() -> None:
    places: set[int] = set()
    room = Room(places, None)
    for number in range(100):
        room.take(number, wait=False, check_open=is_open)
    assert not places
    assert not room.has_news


# --- waiting ---


def test_waiter_gets_the_place_that_another_gives_back() -> None:
    places = {1}
    room = Room(places, 1)
    thread, outcome = take_in_thread(room, 2)
    eventually(lambda: waiting(room) == 1, within=_LONGEST)
    assert not outcome

    room.leave(1)

    thread.join(_LONGEST)
    assert outcome == [2]
    assert places == {2}


def test_waiter_is_woken_when_somebody_else_made_room_and_opens() -> None:
    """The supervisor takes a number out by itself, when its task begins, and sees that there are news."""
    places = {1}
    room = Room(places, 1)
    thread, outcome = take_in_thread(room, 2)
    eventually(lambda: waiting(room) == 1, within=_LONGEST)
    assert not room.has_news
    places.discard(1)
    assert room.has_news

    room.open()

    thread.join(_LONGEST)
    assert outcome == [2]


def test_waiters_that_are_woken_for_one_place_wait_again_but_for_one() -> None:
    places = {0}
    room = Room(places, 1)
    waiters = [take_in_thread(room, number) for number in (1, 2, 3)]
    threads = [thread for thread, _ in waiters]
    eventually(lambda: waiting(room) == 3, within=_LONGEST)

    for served in (1, 2, 3):
        room.leave(next(iter(places)))
        eventually(lambda served=served: sum(len(outcome) for _, outcome in waiters) == served, within=_LONGEST)  # type: ignore[misc]
        assert len(places) == 1

    for thread in threads:
        thread.join(_LONGEST)
    assert sorted(outcome[0] for _, outcome in waiters) == [1, 2, 3]  # type: ignore[type-var]


def test_room_that_is_made_just_before_the_wait_is_not_missed() -> None:
    """1. A caller finds no room. 2. Somebody makes some, and opens. 3. The caller waits, and nobody opens again."""
    places = {1}
    room = Room(places, 1)
    room.take(2, wait=True, check_open=lambda: room.leave(1))
    assert places == {2}


def test_opening_wakes_nobody_for_good_while_the_room_is_full() -> None:
    room = Room({1}, 1)
    asked: list[int] = []
    thread, outcome = take_in_thread(room, 2, lambda: asked.append(1))
    eventually(lambda: len(asked) == 1 and waiting(room) == 1, within=_LONGEST)

    room.open()
    eventually(lambda: len(asked) == 2, within=_LONGEST)  # it was awake, and has asked before it waits again
    assert not outcome

    room.leave(1)
    thread.join(_LONGEST)
    assert outcome == [2]


def test_pool_that_closes_meanwhile_is_seen_by_a_waiter_that_is_woken() -> None:
    closed = threading.Event()
    places = {1}
    room = Room(places, 1)

    def check_open() -> None:
        if closed.is_set():
            raise RuntimeError("closed")

    thread, outcome = take_in_thread(room, 2, check_open)
    eventually(lambda: waiting(room) == 1, within=_LONGEST)
    closed.set()
    room.open()

    thread.join(_LONGEST)
    assert [str(error) for error in outcome] == ["closed"]
    assert places == {1}


def test_caller_who_does_not_have_to_wait_is_not_held_up_by_the_question() -> None:
    """Whether the pool is open was asked before; it is asked again only where time has passed since."""
    Room(set(), 1).take(1, wait=True, check_open=interrupt)


# --- interrupts ---


def test_interrupt_in_the_wait_takes_no_place_and_the_next_caller_is_served(on_signal: SetHandler) -> None:
    places = {1}
    room = Room(places, 1)
    on_signal(interrupt)

    def strike() -> None:
        eventually(lambda: waiting(room) == 1, within=_LONGEST)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)

    striker = threading.Thread(target=strike)
    striker.start()
    with pytest.raises(KeyboardInterrupt):
        room.take(2, wait=True, check_open=is_open)
    striker.join(_LONGEST)

    assert places == {1}
    thread, outcome = take_in_thread(room, 3)
    eventually(lambda: waiting(room) == 2, within=_LONGEST)  # the gate of the one who is gone is still there
    room.leave(1)
    thread.join(_LONGEST)
    assert outcome == [3]
    assert places == {3}


def test_signal_handler_may_wait_for_a_place_while_it_interrupts_one_that_waits(on_signal: SetHandler) -> None:
    places = {0, 1}
    room = Room(places, 2)
    on_signal(lambda: room.take(3, wait=True, check_open=is_open))

    def strike_and_make_room() -> None:
        eventually(lambda: waiting(room) == 1, within=_LONGEST)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)
        eventually(lambda: waiting(room) == 2, within=_LONGEST)
        room.leave(0)  # for the handler: nothing else of this thread goes on before it has ended
        eventually(lambda: 3 in places, within=_LONGEST)
        room.leave(1)

    striker = threading.Thread(target=strike_and_make_room)
    striker.start()
    room.take(2, wait=True, check_open=is_open)
    striker.join(_LONGEST)

    assert places == {2, 3}


@pytest.mark.parametrize("act", ["interrupt", "open"])
def test_opening_that_is_interrupted_anywhere_leaves_no_waiter_behind(act: str) -> None:
    """Ctrl-C, or somebody else who opens, before each single step: whoever opens next wakes all that are left."""
    for step in itertools.count():
        room = Room(set(), 1)
        gates = [threading.Lock() for _ in range(3)]
        for gate in gates:
            gate.acquire()
            room._waiters.append(gate)

        reached = interrupt_at(step, Room.open, interrupt if act == "interrupt" else room.open, room)

        assert act == "interrupt" or not any(gate.locked() for gate in gates)
        room.open()
        assert not any(gate.locked() for gate in gates), f"interrupted at step {step}"
        assert not waiting(room)
        if not reached:
            break
    assert step > 10  # it was interrupted indeed


def interrupt_at(step: int, function: Callable[..., object], act: Callable[[], object], *args: object) -> bool:
    """Call the function, and act before its so many-th instruction; return False if it has fewer."""
    seen = itertools.count()
    reached = False

    def trace(frame: FrameType, event: str, _arg: object) -> Any:
        nonlocal reached
        if frame.f_code is not function.__code__ or reached:  # type: ignore[attr-defined]
            return None
        frame.f_trace_opcodes = True
        if event == "opcode" and next(seen) == step:
            reached = True
            act()
        return trace

    before = sys.gettrace()
    sys._getframe().f_trace_opcodes = True  # Python 3.12 asks for it once, when tracing begins
    sys.settrace(trace)
    try:
        function(*args)
    except KeyboardInterrupt:
        pass
    finally:
        sys.settrace(before)
    return reached


# --- many at once ---


def test_limit_holds_and_everybody_is_served_when_many_come_at_once() -> None:
    places: set[int] = set()
    room = Room(places, 3)
    numbers = itertools.count()
    most = _thread.allocate_lock()
    seen: list[int] = []
    served: list[int] = []

    def come_and_go() -> None:
        for _ in range(200):
            number = next(numbers)
            room.take(number, wait=True, check_open=is_open)
            room.let_go(number)
            with most:
                seen.append(len(places))
                served.append(number)
            room.leave(number)

    threads = [threading.Thread(target=come_and_go, daemon=True) for _ in range(8)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(_LONGEST)
    finally:
        sys.setswitchinterval(interval)

    assert not any(thread.is_alive() for thread in threads)
    assert sorted(served) == list(range(1600))
    assert 1 <= max(seen) <= 3
    assert not places
    assert not waiting(room)


def test_holder_of_a_place_that_is_interrupted_gets_one_beyond_the_limit_and_nobody_else_does() -> None:
    places: set[int] = set()
    room = Room(places, 1)
    room.take(1, wait=True, check_open=is_open)
    for number in (2, 3):  # as signal handlers, one after another, before the first was handed over
        room.take(number, wait=True, check_open=is_open)
        room.let_go(number)
    assert places == {1, 2, 3}
    room.let_go(1)
    taken_in_vain(room, 4)
