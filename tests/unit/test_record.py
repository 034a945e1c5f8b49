"""Host and worker see the same two words of memory."""

from __future__ import annotations

import os
import time

import pytest

from safepool._worker.record import StartRecord
from unit.brood import Brood, in_forked_child

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
