"""Lent memory is used again when nobody looks at it any more, not before, and both ends agree on that."""

from __future__ import annotations

import fcntl
import gc
import mmap
import os
import pickle
import socket
import struct
import sys
from array import array
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safepool._worker import segments
from safepool._worker.framing import Frame, FrameReader, Kind, header
from safepool._worker.segments import FD_ROOM, Exchange, Lender, Loan, send_segment

pytestmark = pytest.mark.timeout(60)

SIZE = 1 << 17


class Ends:
    """A lender's and a borrower's end, in one process, with a real socket between them."""

    def __init__(self, most_kept: int = 4) -> None:
        self.lender = Lender(8)
        self.giving, self.taking = Exchange(most_kept), Exchange(most_kept)
        self.ours, self.theirs = socket.socketpair()
        self.reader = FrameReader()

    def lend(self, *contents: bytes) -> tuple[Loan, bytes]:
        """Lend buffers as a pool does, the segment ahead; return the loan and the envelope."""
        lent = self.lender.lend([memoryview(content) for content in contents])
        assert lent is not None
        loan, envelope = lent
        segment = self.giving.lend(loan)
        if segment is not None:
            piece = segment.frame()
            assert send_segment(self.ours, piece, segment) == len(piece)
            received, ancillary, _, _ = self.theirs.recvmsg(1 << 16, FD_ROOM, socket.MSG_CMSG_CLOEXEC)
            self.taking.receive_fds(ancillary)
            for frame in self.reader.feed(received):
                self.taking.heed(frame)
        self.tell(self.giving, self.taking)
        return loan, envelope

    def borrow(self, envelope: bytes) -> list[Any]:
        buffers, rest = self.taking.borrow(memoryview(envelope + b"rest"))
        assert rest == b"rest"
        return list(buffers)

    def report(self) -> None:
        """Have the borrower tell what it has done with."""
        self.tell(self.taking, self.giving)

    @staticmethod
    def tell(speaker: Exchange, listener: Exchange) -> None:
        for frame in FrameReader().feed(speaker.notes()):
            listener.heed(frame)

    def close(self) -> None:
        self.lender.close()
        for end in (self.giving, self.taking):
            end.close()
            end._mappings.clear()
            end._leases.clear()
        self.ours.close()
        self.theirs.close()


@pytest.fixture
def ends() -> Iterator[Ends]:
    ends = Ends()
    yield ends
    ends.close()


def memory_files() -> int:
    """Descriptors of segments that this process has open."""
    links = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            links.append(os.readlink(f"/proc/self/fd/{fd}"))
        except OSError:
            continue
    return sum("safepool-segment" in link for link in links)


def test_buffers_arrive_as_they_were(ends: Ends) -> None:
    contents = [os.urandom(SIZE), b"x", b"", os.urandom(SIZE + 1)]
    _loan, envelope = ends.lend(*contents)
    assert [bytes(buffer) for buffer in ends.borrow(envelope)] == contents


def test_segment_is_used_again_once_it_is_returned_and_let_go_of(ends: Ends) -> None:
    numbers = set()
    for turn in range(20):
        loan, envelope = ends.lend(bytes([turn]) * SIZE)
        numbers.add(loan.segment.number)
        (buffer,) = ends.borrow(envelope)
        assert bytes(buffer[:1]) == bytes([turn])
        del buffer, loan
        ends.report()
    assert len(numbers) == 1


def test_segment_is_not_used_again_while_its_sender_holds_the_loan(ends: Ends) -> None:
    loan, envelope = ends.lend(b"1" * SIZE)
    ends.borrow(envelope)
    ends.report()
    other, _ = ends.lend(b"2" * SIZE)
    assert other.segment is not loan.segment


@pytest.mark.parametrize(
    "derive",
    [
        lambda view: view[10:20],
        lambda view: view.cast("Q")[2:3],
        lambda view: memoryview(view)[10:20].toreadonly(),
        lambda view: pickle.PickleBuffer(view[10:20]).raw(),
    ],
)
def test_segment_is_not_used_again_while_something_made_of_a_buffer_is_alive(ends: Ends, derive: Any) -> None:
    loan, envelope = ends.lend(b"1" * SIZE)
    first = loan.segment
    del loan
    (buffer,) = ends.borrow(envelope)
    derived = derive(buffer)
    before = derived.tobytes()
    del buffer
    for _ in range(5):
        ends.report()
        loan, _ = ends.lend(b"2" * SIZE)
        assert loan.segment is not first
    assert derived.tobytes() == before
    del derived
    ends.report()
    assert ends.lend(b"3" * SIZE)[0].segment is first


def test_finalizer_that_a_collection_runs_still_finds_its_buffer_lent(ends: Ends) -> None:
    """All in the cycle counts as dead by then, and is looked at all the same; the finalizer even brings it back."""
    saved = []

    class Holder:
        def __init__(self, buffer: memoryview) -> None:
            self.buffer = buffer
            self.itself = self

        def __del__(self) -> None:
            ends.report()
            saved.append(self.buffer)

    loan, envelope = ends.lend(b"1" * SIZE)
    first = loan.segment
    del loan
    (buffer,) = ends.borrow(envelope)
    Holder(buffer)
    del buffer
    gc.collect()
    ends.report()
    assert len(saved) == 1
    loan, _ = ends.lend(b"2" * SIZE)
    assert loan.segment is not first
    assert bytes(saved[0]) == b"1" * SIZE


def test_loan_that_was_called_off_needs_no_return(ends: Ends) -> None:
    loan, _ = ends.lend(b"1" * SIZE)
    first = loan.segment
    ends.giving.call_off(loan)
    del loan
    again, envelope = ends.lend(b"2" * SIZE)
    assert again.segment is first
    ends.giving.call_off(Loan(first, lambda _: None))  # another one's: this one goes on
    del again
    assert ends.lend(b"3" * SIZE)[0].segment is not first
    assert bytes(ends.borrow(envelope)[0]) == b"2" * SIZE


def test_borrowed_buffers_beyond_a_few_are_copies_that_keep_nothing(ends: Ends) -> None:
    kept = [ends.borrow(ends.lend(bytes([turn]) * SIZE)[1])[0] for turn in range(4)]
    copies = []
    for turn in range(20):
        copies += ends.borrow(ends.lend(bytes([turn]) * SIZE)[1])
        ends.report()
    assert {type(buffer) for buffer in copies} == {bytearray}
    assert [buffer[0] for buffer in copies] == list(range(20))
    assert [buffer[0] for buffer in kept] == list(range(4))


def test_lender_gives_nothing_when_all_segments_are_out(ends: Ends) -> None:
    loans = [ends.lend(b"1" * SIZE)[0] for _ in range(8)]
    assert ends.lender.lend([memoryview(b"1" * SIZE)]) is None
    assert len({loan.segment.number for loan in loans}) == 8


def test_lender_makes_room_for_another_size(ends: Ends) -> None:
    ends.giving.close()
    loans = [ends.lend(b"1" * SIZE)[0] for _ in range(8)]
    ends.giving.close()
    loans.clear()
    assert ends.lender.lend([memoryview(bytes(10 * SIZE))]) is not None


def test_lender_gives_nothing_where_no_memory_file_can_be_made(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_name: str, _flags: int) -> int:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(os, "memfd_create", refuse)
    assert ends.lender.lend([memoryview(bytes(SIZE))]) is None


def test_idle_segments_are_kept_up_to_a_limit_and_the_other_end_lets_go_of_the_rest(
    ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segments, "_MOST_IDLE", 2 * SIZE)
    before = memory_files()
    envelopes = [ends.lend(b"1" * SIZE)[1] for _ in range(4)]
    for envelope in envelopes:
        ends.borrow(envelope)
    ends.report()
    assert len(ends.lender._idle) == 2
    ends.tell(ends.giving, ends.taking)
    assert len(ends.taking._mappings) == 2
    ends.lender.close()
    ends.tell(ends.giving, ends.taking)
    assert memory_files() == before


def test_segment_that_is_too_large_to_be_kept_goes_with_its_last_view(
    ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segments, "_MOST_IDLE", SIZE)
    before = memory_files()
    (buffer,) = ends.borrow(ends.lend(bytes(2 * SIZE))[1])
    assert not ends.taking._mappings
    del buffer
    ends.report()
    assert memory_files() == before


def test_what_a_dead_lender_lent_stays_and_then_goes(ends: Ends) -> None:
    before = memory_files()
    loan, envelope = ends.lend(b"1" * SIZE)
    (buffer,) = ends.borrow(envelope)
    del loan
    ends.giving.close()
    ends.taking.close()
    ends.lender.close()
    del ends.taking
    assert bytes(buffer) == b"1" * SIZE
    del buffer
    assert memory_files() == before
    ends.taking = ends.giving


@pytest.mark.parametrize("size", [0, 1, 15, 17, 40])
def test_envelope_that_makes_no_sense_is_refused(ends: Ends, size: int) -> None:
    _loan, envelope = ends.lend(b"1" * SIZE)
    with pytest.raises((ValueError, LookupError)):
        ends.taking.borrow(memoryview((envelope[:16] + b"\xff" * 64)[:size]))


def test_place_outside_of_the_segment_is_refused(ends: Ends) -> None:
    loan, envelope = ends.lend(b"1" * SIZE)
    outside = envelope[:16] + (SIZE).to_bytes(8, "little") + (1).to_bytes(8, "little")
    with pytest.raises(ValueError, match="no envelope"):
        ends.taking.borrow(memoryview(outside))
    first = loan.segment
    del loan
    ends.report()
    assert ends.lend(b"2" * SIZE)[0].segment is first, "the refused one was never returned"


def test_segment_that_has_not_arrived_is_never_lent_again(ends: Ends) -> None:
    lent = ends.lender.lend([memoryview(bytes(SIZE))])
    assert lent is not None
    loan, envelope = lent
    first = ends.giving.lend(loan)
    with pytest.raises(LookupError):
        ends.taking.borrow(memoryview(envelope))
    del loan, lent
    ends.report()
    loan, envelope = ends.lend(bytes(SIZE))
    assert loan.segment is not first
    assert len(ends.borrow(envelope)) == 1


def test_frame_is_not_given_another_ones_descriptor(ends: Ends) -> None:
    loans = [ends.lender.lend([memoryview(bytes([turn]) * SIZE)]) for turn in range(2)]
    (lost, lost_envelope), (there, there_envelope) = [lent for lent in loans if lent is not None]
    send_segment(ends.ours, b"x", there.segment)
    _, ancillary, _, _ = ends.theirs.recvmsg(1, FD_ROOM)
    ends.taking.receive_fds(ancillary)
    (lost_frame,) = FrameReader().feed(lost.segment.frame())
    ends.taking.heed(lost_frame)
    with pytest.raises(LookupError):
        ends.taking.borrow(memoryview(lost_envelope))
    with pytest.raises(LookupError):
        ends.taking.borrow(memoryview(there_envelope))
    assert memory_files() <= 4, "the descriptor that nobody claimed is open"


@pytest.mark.parametrize("kind", [Kind.SEGMENT, Kind.RETURN, Kind.FORGET, Kind.SPOILT])
@pytest.mark.parametrize("payload", [b"", b"x", bytes(8), bytes(23), bytes(24), b"\xff" * 24])
def test_note_that_makes_no_sense_says_nothing(ends: Ends, kind: Kind, payload: bytes) -> None:
    loan, envelope = ends.lend(b"1" * SIZE)
    ends.taking.heed(Frame(kind, 0, payload))
    ends.giving.heed(Frame(kind, 0, payload))
    assert bytes(ends.borrow(envelope)[0]) == b"1" * SIZE
    assert loan.segment is not None


def test_what_was_in_use_at_a_fork_is_not_used_again(ends: Ends) -> None:
    loan, envelope = ends.lend(b"1" * SIZE)
    first = loan.segment
    (buffer,) = ends.borrow(envelope)
    child = os.fork()
    if not child:
        os._exit(0)
    os.waitpid(child, 0)
    del buffer, loan
    ends.report()
    assert ends.lend(b"2" * SIZE)[0].segment is not first


def test_mapping_tells_of_views_before_it_looks_at_the_size() -> None:
    mapping = mmap.mmap(-1, mmap.PAGESIZE)
    assert not segments._is_viewed(mapping)
    view = memoryview(mapping)
    assert segments._is_viewed(mapping)
    part = view[5:6]
    view.release()
    del view
    assert segments._is_viewed(mapping)
    del part
    assert not segments._is_viewed(mapping)
    assert len(mapping) == mmap.PAGESIZE


# --- hostile ends ---


def memfd(size: int, *, sealed: bool = True) -> int:
    fd = os.memfd_create("safepool-segment", os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, size)
    if sealed:
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
    return fd


def offer(taking: Exchange, number: int, fd: int, size: int) -> None:
    """Have a segment arrive, as if the other end had sent it."""
    rights = array("i", [fd]).tobytes()
    inode = os.fstat(fd).st_ino
    taking.receive_fds([(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
    taking.heed(Frame(Kind.SEGMENT, 0, struct.pack("=QQQ", number, size, inode)))


def test_note_that_came_torn_is_read_as_one_that_came_whole(ends: Ends) -> None:
    """Its payload is a view then. A number above 255 shows it, since it has more than one byte that counts."""
    loans = {}
    for _ in range(300):
        loan, _envelope = ends.lend(bytes(SIZE))
        loans[loan.segment.number] = loan
        loan.segment.is_spoilt = True
        if loan.segment.number not in (1, 257):
            del loans[loan.segment.number], loan
            ends.giving._loans.clear()
    ends.giving._loans.update(loans)
    assert set(ends.giving._loans) == {1, 257}

    note = header(Kind.RETURN, 0, 8) + (257).to_bytes(8, sys.byteorder)
    reader = FrameReader()
    frames = [frame for byte in note for frame in reader.feed(bytes([byte]))]

    assert type(frames[0].payload) is memoryview
    ends.giving.heed(frames[0])
    assert set(ends.giving._loans) == {1}


def test_descriptors_that_nothing_is_said_about_are_kept_up_to_a_limit(ends: Ends) -> None:
    before = memory_files()
    for _ in range(1000):
        rights = array("i", [memfd(1), memfd(1)]).tobytes()
        ends.taking.receive_fds([(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
    assert memory_files() - before <= segments._MOST_TAKEN
    ends.taking.close()
    assert memory_files() == before


def test_segments_are_taken_up_to_a_limit_and_again_when_some_were_forgotten(ends: Ends) -> None:
    for number in range(segments._MOST_TAKEN + 50):
        offer(ends.taking, number, memfd(4096), 4096)
    assert len(ends.taking._mappings) == segments._MOST_TAKEN
    ends.taking.heed(Frame(Kind.FORGET, 0, array("Q", range(10)).tobytes()))
    offer(ends.taking, 5000, memfd(4096), 4096)
    assert 5000 in ends.taking._mappings


@pytest.mark.parametrize("shift", [46, 47, 62])
def test_segment_larger_than_any_memory_is_not_mapped(ends: Ends, shift: int) -> None:
    offer(ends.taking, 1, memfd(1 << shift), 1 << shift)
    assert not ends.taking._mappings


def test_segment_that_its_sender_could_cut_off_is_not_mapped(ends: Ends) -> None:
    offer(ends.taking, 1, memfd(SIZE, sealed=False), SIZE)
    assert not ends.taking._mappings


@given(st.sampled_from([Kind.SEGMENT, Kind.RETURN, Kind.FORGET, Kind.SPOILT]), st.binary(max_size=64), st.booleans())
def test_any_note_leaves_the_books_in_order(kind: Kind, payload: bytes, as_view: bool) -> None:
    ends = Ends()
    try:
        _loan, envelope = ends.lend(b"1" * SIZE)
        for end in (ends.giving, ends.taking):
            end.heed(Frame(kind, 0, memoryview(payload) if as_view else payload))
            end.notes()
        try:
            (buffer,) = ends.borrow(envelope)
        except LookupError:
            assert kind is Kind.FORGET
        else:
            assert bytes(buffer) == b"1" * SIZE
            buffer.release()
    finally:
        ends.close()


@given(st.binary(max_size=80), st.integers(0, 2**64 - 1), st.lists(st.integers(0, 2**64 - 1), max_size=6))
def test_any_envelope_gives_buffers_inside_the_segment_or_is_refused(
    junk: bytes, count: int, places: list[int]
) -> None:
    ends = Ends()
    try:
        _loan, envelope = ends.lend(b"1" * SIZE)
        forged = envelope[:8] + count.to_bytes(8, sys.byteorder) + array("Q", places).tobytes() + junk
        try:
            buffers, _rest = ends.taking.borrow(memoryview(forged))
        except (ValueError, LookupError):
            return
        assert all(len(buffer) <= SIZE for buffer in buffers)
        del buffers
    finally:
        ends.close()
