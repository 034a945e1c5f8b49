"""The register is a file of records that outlives its writer."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safepool._os import process_exit
from safepool._os.process_tree import Leader
from safepool._os.register import Register, read_leaders
from unit.brood import Brood

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def register() -> Iterator[Register]:
    register = Register()
    yield register
    os.close(register.fd)


def test_new_register_is_empty(register: Register) -> None:
    assert read_leaders(register.fd) == []


def test_entered_trees_are_on_record_until_they_are_struck_off(register: Register) -> None:
    leaders = [Leader(pid, pid * 10) for pid in (11, 12, 13)]
    slots = [register.enter(leader) for leader in leaders]
    assert read_leaders(register.fd) == leaders
    register.strike(slots[1])
    assert read_leaders(register.fd) == [leaders[0], leaders[2]]


def test_trees_in_which_some_are_to_be_left_alone_are_read_by_themselves(register: Register) -> None:
    slots = [register.enter(Leader(pid, pid * 10), sparing=pid % 2 == 0) for pid in (11, 12, 13, 14)]
    assert read_leaders(register.fd) == [Leader(11, 110), Leader(13, 130)]
    assert read_leaders(register.fd, sparing=True) == [Leader(12, 120), Leader(14, 140)]
    register.strike(slots[1])
    assert read_leaders(register.fd, sparing=True) == [Leader(14, 140)]


def test_free_records_are_used_again(register: Register) -> None:
    slots = [register.enter(Leader(pid, 1)) for pid in range(1, 101)]
    size = os.fstat(register.fd).st_size
    for slot in slots:
        register.strike(slot)
    assert read_leaders(register.fd) == []
    again = {register.enter(Leader(pid, 2)) for pid in range(201, 301)}
    assert again == set(slots)
    assert os.fstat(register.fd).st_size == size
    assert set(read_leaders(register.fd)) == {Leader(pid, 2) for pid in range(201, 301)}


@given(st.lists(st.booleans(), max_size=60))
def test_register_holds_what_was_entered_and_not_struck_off(steps: list[bool]) -> None:
    register = Register()
    present: dict[int, Leader] = {}
    for number, enters in enumerate(steps, 1):
        if enters or not present:
            leader = Leader(number, number + 1000)
            slot = register.enter(leader)
            assert slot not in present
            present[slot] = leader
        else:
            slot, _ = present.popitem()
            register.strike(slot)
        assert sorted(read_leaders(register.fd)) == sorted(present.values())
    os.close(register.fd)


def test_threads_that_enter_at_the_same_time_get_records_of_their_own(register: Register) -> None:
    slots: list[int] = []
    together = threading.Barrier(4)

    def enter(base: int) -> None:
        together.wait(30)
        slots.extend(register.enter(Leader(base + number, 1)) for number in range(1, 51))

    threads = [threading.Thread(target=enter, args=(base,)) for base in (0, 100, 200, 300)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(set(slots)) == 200
    assert len(read_leaders(register.fd)) == 200


def test_record_that_is_cut_short_counts_for_nothing(register: Register) -> None:
    register.enter(Leader(11, 110))
    os.pwrite(register.fd, b"\1" * 7, 16)
    assert read_leaders(register.fd) == [Leader(11, 110)]


def test_reader_that_outlives_the_writer_finds_the_register(register: Register, brood: Brood) -> None:
    source = """
    from safepool._os.register import read_leaders
    sys.stdin.read()
    say("read", read_leaders(int(sys.argv[1])))
    """
    end, until = os.pipe()
    brood.python(source, register.fd, stdin=end, pass_fds=[register.fd])
    writer = brood.python(
        """
        from safepool._os.process_tree import Leader
        from safepool._os.register import Register
        register = Register()
        os.dup2(int(sys.argv[1]), register.fd)
        register.enter(Leader(11, 110))
        register.strike(register.enter(Leader(12, 120)))
        os.abort()
        """,
        register.fd,
        pass_fds=[register.fd],
        stderr=subprocess.DEVNULL,
    )
    assert writer.wait(30) < 0
    os.close(until)
    os.close(end)
    assert brood.meeting.expect("read").detail == "[Leader(pid=11, start=110)]"


def test_register_has_no_name_and_is_not_inherited_unless_asked_for(register: Register) -> None:
    assert not os.get_inheritable(register.fd)
    assert os.fstat(register.fd).st_nlink == 0


@given(st.binary(max_size=400))
def test_any_content_is_read_as_trees_that_can_be_asked_for(content: bytes) -> None:
    """The register is the host's own; but whoever writes to it by mistake must not keep the janitor from its work."""
    fd = os.memfd_create("register")
    try:
        os.write(fd, content)
        for leader in read_leaders(fd):
            pidfd = process_exit.open_pidfd(leader.pid)
            if pidfd is not None:
                os.close(pidfd)
    finally:
        os.close(fd)
