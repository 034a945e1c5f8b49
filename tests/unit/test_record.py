"""Host and worker see the same two words of memory."""

from __future__ import annotations

import errno
import itertools
import os
import threading
import time
from typing import NoReturn

import pytest

from safepool._worker.record import NAME, StartRecord, Words, read_words
from support import census
from unit.brood import Brood, in_forked_child
from unit.turns import Turns, Word, schedules

pytestmark = pytest.mark.timeout(60)


def test_task_has_not_begun_before_it_is_noted() -> None:
    record = StartRecord()
    record.close()
    assert [record.begun_at(number) for number in (1, 2, 2**64 - 1)] == [None, None, None]


def test_noted_task_has_begun_and_no_other_has() -> None:
    record = StartRecord()
    record.close()
    for number in (1, 2**64 - 1, 3):
        before = time.monotonic()
        record.note(number)
        begun = record.begun_at(number)
        assert begun is not None
        assert before <= begun <= time.monotonic()
        assert record.begun_at(number - 1) is None


def test_process_that_attaches_by_descriptor_shares_the_record(brood: Brood) -> None:
    record = StartRecord()
    before = time.monotonic()
    worker = brood.python(
        """
        from safepool._worker.record import StartRecord
        record = StartRecord(int(sys.argv[1]))
        record.close()
        say("attached", record.begun_at(5) is not None)
        record.note(6)
        say("noted")
        stay()
        """,
        record.fd,
        pass_fds=[record.fd],
    )
    record.note(5)
    record.close()

    assert brood.meeting.expect("attached").detail in {"True", "False"}  # whichever was quicker
    assert brood.meeting.expect("noted").pid == worker.pid
    begun = record.begun_at(6)
    assert begun is not None
    assert before <= begun <= time.monotonic()  # one clock for all processes


def test_record_that_cannot_be_mapped_costs_no_descriptor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is room for one descriptor, and the mapping takes a second."""

    def refuse(*_: object) -> NoReturn:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr("safepool._worker.record.mmap.mmap", refuse)
    before = census.open_files()
    with pytest.raises(OSError, match="Too many open files"):
        StartRecord()
    assert census.open_files() == before


def test_host_s_note_is_seen_by_the_worker() -> None:
    record = StartRecord()
    record.note(7)
    seen = in_forked_child(lambda: str(StartRecord(record.fd).begun_at(7)))
    record.close()
    assert seen == str(record.begun_at(7))


def test_descriptor_is_not_inherited_unless_asked_for() -> None:
    record = StartRecord()
    assert not os.get_inheritable(record.fd)
    record.close()


def test_memory_stays_when_the_descriptor_is_closed() -> None:
    record = StartRecord()
    record.note(8)
    record.close()
    assert record.begun_at(8) is not None
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(record.fd)


# --- the soft timeout ---


def test_nobody_is_warned_before_the_first_warning() -> None:
    record = StartRecord()
    record.close()
    record.note(1)
    assert record.warning() is None


def test_warning_of_the_running_task_tells_its_limit_and_its_start() -> None:
    record = StartRecord()
    record.close()
    record.note(3)
    record.warn(3, 1.5)
    assert record.warning() == (1.5, record.begun_at(3))


def test_warning_that_comes_late_is_not_the_next_task_s() -> None:
    """1. The host warns of a task. 2. That is over, and the next has begun, before the worker looks."""
    record = StartRecord()
    record.close()
    record.note(3)
    record.warn(3, 1.5)
    record.note(4)
    assert record.warning() is None


def test_warning_of_one_task_takes_the_place_of_the_one_before() -> None:
    record = StartRecord()
    record.close()
    record.note(3)
    record.warn(3, 1.5)
    record.note(2**64 - 1)
    record.warn(2**64 - 1, 0.25)
    assert record.warning() == (0.25, record.begun_at(2**64 - 1))


def test_warning_does_not_change_when_the_task_began() -> None:
    record = StartRecord()
    record.close()
    record.note(3)
    begun = record.begun_at(3)
    record.warn(3, 1e9)
    assert record.begun_at(3) == begun


def test_host_s_warning_is_seen_by_the_worker() -> None:
    record = StartRecord()
    record.note(7)
    record.warn(7, 2.5)
    seen = in_forked_child(lambda: str(StartRecord(record.fd).warning()))
    record.close()
    assert seen == str((2.5, record.begun_at(7)))


def test_limit_stands_before_the_number_that_it_belongs_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that looks between the two words must not find its number with another task's limit."""
    record = StartRecord()
    record.close()
    record.note(3)
    seen: list[object] = []

    class Word:
        """The word that is written first, and a look at what a worker finds then."""

        def __init__(self, word: memoryview) -> None:
            self._word = word

        def __getitem__(self, index: int) -> float:
            return self._word[index]

        def __setitem__(self, index: int, value: float) -> None:
            seen.append(record.warning())
            self._word[index] = value
            seen.append(record.warning())

    monkeypatch.setattr(record, "_limit", Word(record._limit))
    monkeypatch.setattr(record, "_warned", Word(record._warned))
    record.warn(3, 1.5)

    assert seen == [None, None, None, (1.5, record.begun_at(3))]


# --- bundles ---


ITEMS = 3


@pytest.mark.parametrize("schedule", [*schedules(2 * ITEMS, host_touches=2)])
def test_each_item_is_somebody_s_in_whatever_order_the_words_are_touched(schedule: tuple[str, ...]) -> None:
    """The worker runs what it may, or says where it stops; the host has what lies behind the last it was told of."""
    record, turns = StartRecord(), Turns(schedule)
    record.close()
    first = 100
    for name in ("_next", "_stopped"):
        setattr(record, name, Word(getattr(record, name), turns))
    run: list[int] = []
    parted: list[int] = []
    last: list[int] = []

    def work() -> None:
        for item in range(first, first + ITEMS):
            if not record.may_go_on(first, item):
                parted.append(item)
                break
            run.append(item)
        turns.leave("worker")

    def stop() -> None:
        last.append(record.stop(first))
        turns.leave("host")

    threads = [threading.Thread(target=work, name="worker"), threading.Thread(target=stop, name="host")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    left_to_worker = range(first, max(first, last[0]) + 1)
    taken_back = range(left_to_worker.stop, first + ITEMS)
    comes_back = [item for item in parted if item in left_to_worker]
    assert sorted([*run, *comes_back, *taken_back]) == [*range(first, first + ITEMS)]


def test_stop_is_for_one_bundle() -> None:
    record = StartRecord()
    record.close()
    record.stop(7)
    assert not record.may_go_on(7, 9)
    assert record.may_go_on(100, 100)
    assert record.stop(100) == 100


def test_record_cannot_be_cut_off_by_who_has_a_descriptor_of_it() -> None:
    """Else the host's next look would be its end, by SIGBUS."""
    record = StartRecord()
    with pytest.raises(PermissionError):
        os.ftruncate(record.fd, 0)
    record.note(7)
    assert record.begun_at(7) is not None
    record.close()


# --- for those who look from outside ---


def test_what_worker_and_host_write_is_read_by_whoever_opens_the_memory() -> None:
    record = StartRecord()
    record.assign(os.getpid())
    begun = record.note(3)
    record.tell(state=3, runs=9, task=3, handed=1.5, due=2.5)
    found = next(
        words
        for name in os.listdir("/proc/self/fd")
        if os.path.realpath(f"/proc/self/fd/{name}").startswith(f"/memfd:{NAME}")
        and (words := words_at(f"/proc/self/fd/{name}")) is not None
        and words.number == 3
    )
    assert found == Words(number=3, begun=begun, pid=os.getpid(), state=3, runs=9, task=3, handed=1.5, due=2.5)
    record.close()


def words_at(path: str) -> Words | None:
    fd = os.open(path, os.O_RDONLY)
    try:
        return read_words(fd)
    finally:
        os.close(fd)


def test_what_the_host_tells_leaves_clock_and_warning_alone() -> None:
    record = StartRecord()
    record.close()
    begun = record.note(3)
    record.warn(3, 1.5)
    record.tell(2**64 - 1, 2**64 - 1, 2**64 - 1, 1e300, 1e300)
    record.assign(os.getpid())
    assert record.begun_at(3) == begun
    assert record.warning() == (1.5, begun)
    assert record.ring.take() == b""


@pytest.mark.parametrize("size", [0, 50], ids=["just being made", "short"])
def test_memory_that_is_too_small_is_no_record(size: int) -> None:
    fd = os.memfd_create("short")
    os.write(fd, bytes(size))
    assert read_words(fd) is None
    os.close(fd)


def test_words_that_change_at_every_look_are_not_taken_for_a_moment_s(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = itertools.count()
    monkeypatch.setattr(os, "pread", lambda _fd, size, _at: next(looks).to_bytes(size, "little"))
    assert read_words(0) is None
