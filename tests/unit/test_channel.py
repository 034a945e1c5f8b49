"""A channel takes and gives what fits, never waits, and does not mistake a torn frame for a whole one."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from safepool._worker.channel import Channel, Inflow
from safepool._worker.framing import HEADER_SIZE, ForeignBytesError, Frame, FrameReader, Kind, header
from safepool._worker.ring import AnswerRing
from safepool._worker.segments import Segment, send_segment
from unit.brood import Brood

pytestmark = pytest.mark.timeout(60)

LARGE = os.urandom(1 << 10) * 10_240  # 10 MB; no socket takes that at once


@pytest.fixture
def channel() -> Iterator[Channel]:
    channel = new_channel()
    channel.theirs.setblocking(False)
    yield channel
    channel.close()
    channel.theirs.close()


def new_channel() -> Channel:
    return Channel(AnswerRing(memoryview(bytearray(64 + 1024))))


def framed(kind: Kind, task: int, payload: bytes) -> bytes:
    return header(kind, task, len(payload)) + payload


def take(theirs: socket.socket) -> bytes:
    """What lies ready at the worker's end."""
    pieces = []
    try:
        while piece := theirs.recv(1 << 16):
            pieces.append(piece)
    except BlockingIOError:
        pass
    return b"".join(pieces)


def test_large_payload_goes_in_parts_while_the_other_end_reads(channel: Channel) -> None:
    assert not channel.send(Kind.RUN, 7, LARGE)
    assert channel.has_outgoing
    reader, frames, turns = FrameReader(), [], 1
    while not channel.flush():
        frames += reader.feed(take(channel.theirs))
        turns += 1
    frames += reader.feed(take(channel.theirs))
    assert turns > 2
    assert frames == [Frame(Kind.RUN, 7, LARGE)]
    assert not channel.has_outgoing


def test_frames_behind_a_large_one_keep_their_order(channel: Channel) -> None:
    assert not channel.send(Kind.RUN, 1, memoryview(LARGE))
    assert not channel.send(Kind.RUN, 2, b"two")
    assert not channel.send(Kind.QUIT, 0)
    received = b""
    while not channel.flush():
        received += take(channel.theirs)
    received += take(channel.theirs)
    assert FrameReader().feed(received) == [
        Frame(Kind.RUN, 1, LARGE),
        Frame(Kind.RUN, 2, b"two"),
        Frame(Kind.QUIT, 0, b""),
    ]


@pytest.mark.parametrize("size", [0, 1, (1 << 16) - 1, 1 << 16, (1 << 16) + 1])
def test_payload_of_any_size_arrives_whole(channel: Channel, size: int) -> None:
    assert channel.send(Kind.RUN, 3, bytes(size))
    assert take(channel.theirs) == framed(Kind.RUN, 3, bytes(size))


def test_receive_gives_whole_frames_and_keeps_the_torn_one_for_later(channel: Channel) -> None:
    stream = framed(Kind.READY, 0, b"") + framed(Kind.RESULT, 4, b"value")
    channel.theirs.send(stream[:-2])
    assert (channel.receive(), channel.inflow) == ([Frame(Kind.READY, 0, b"")], Inflow.DRAINED)
    channel.theirs.send(stream[-2:])
    assert (channel.receive(), channel.inflow) == ([Frame(Kind.RESULT, 4, b"value")], Inflow.DRAINED)
    assert (channel.receive(), channel.inflow) == ([], Inflow.DRAINED)


def test_receive_from_a_closed_peer_gives_what_it_left_and_then_the_end(channel: Channel) -> None:
    channel.theirs.send(framed(Kind.RESULT, 4, b"value"))
    channel.theirs.close()
    frames = channel.receive()
    assert frames == [Frame(Kind.RESULT, 4, b"value")]
    assert channel.inflow is not Inflow.CLOSED
    assert (channel.receive(), channel.inflow) == ([], Inflow.CLOSED)


def test_peer_that_closed_with_our_bytes_unread_is_closed(channel: Channel) -> None:
    channel.send(Kind.RUN, 1, b"unread")
    channel.theirs.close()
    assert (channel.receive(), channel.inflow) == ([], Inflow.CLOSED)
    assert channel.receive_rest() == []


def test_send_to_a_closed_peer_is_dropped_and_leaves_nothing_to_send(channel: Channel) -> None:
    channel.send(Kind.RUN, 1, LARGE)
    channel.theirs.close()
    assert channel.flush()
    assert channel.send(Kind.RUN, 2, LARGE)
    assert not channel.has_outgoing


def test_foreign_bytes_raise_and_the_frames_before_them_are_not_lost(
    channel: Channel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A result that was complete counts, whatever its worker has written after it."""
    monkeypatch.setattr("safepool._worker.channel._RECEIVE_SIZE", 48)
    sent = [Frame(Kind.RESULT, task, b"value") for task in range(3)]
    channel.theirs.send(b"".join(framed(*frame[:3]) for frame in sent) + b"x" * HEADER_SIZE)
    with pytest.raises(ForeignBytesError) as caught:
        channel.receive()
    assert caught.value.frames == sent


def test_receive_says_so_when_one_turn_was_not_enough(channel: Channel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("safepool._worker.channel._RECEIVE_SIZE", HEADER_SIZE // 6)
    monkeypatch.setattr("safepool._worker.channel._LARGE_RECEIVE_SIZE", HEADER_SIZE // 6)
    monkeypatch.setattr("safepool._worker.channel._MOST_PER_TURN", 2)
    channel.theirs.send(framed(Kind.RESULT, 4, b""))
    assert (channel.receive(), channel.inflow) == ([], Inflow.MORE)
    channel.receive()
    assert channel.receive() == [Frame(Kind.RESULT, 4, b"")]


def test_read_that_ends_with_a_descriptor_is_not_taken_for_all_there_was(channel: Channel) -> None:
    segments = [Segment(number, 1 << 16) for number in range(3)]
    for segment in segments:
        send_segment(channel.theirs, segment.frame(), segment)
    channel.theirs.send(framed(Kind.RESULT, 4, b"behind"))
    results = [frame for frame in channel.receive() if frame.kind is Kind.RESULT]
    assert (results, channel.inflow) == ([Frame(Kind.RESULT, 4, b"behind")], Inflow.DRAINED)


# --- after a worker's death ---


@pytest.mark.parametrize("size", [1, HEADER_SIZE - 1, HEADER_SIZE, HEADER_SIZE + 3])
def test_torn_frame_of_a_dead_worker_counts_for_nothing(channel: Channel, size: int) -> None:
    channel.theirs.send(framed(Kind.RESULT, 4, b"whole") + framed(Kind.RESULT, 5, b"torn")[:size])
    channel.theirs.close()
    assert channel.receive_rest() == [Frame(Kind.RESULT, 4, b"whole")]


def test_rest_of_a_dead_worker_is_read_whatever_its_size(channel: Channel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("safepool._worker.channel._RECEIVE_SIZE", 64)
    monkeypatch.setattr("safepool._worker.channel._MOST_PER_TURN", 2)
    sent = [Frame(Kind.RESULT, task, bytes(100)) for task in range(50)]
    for frame in sent:
        channel.theirs.send(framed(*frame[:3]))
    channel.theirs.close()
    assert channel.receive_rest() == sent


def test_rest_is_read_without_waiting_for_a_descendant_that_holds_the_other_end(brood: Brood) -> None:
    channel = new_channel()
    holder = brood.sleeper(pass_fds=[channel.theirs.fileno()])
    channel.theirs.send(framed(Kind.RESULT, 4, b"value") + framed(Kind.RESULT, 5, b"torn")[:-1])
    channel.theirs.close()

    assert channel.receive_rest() == [Frame(Kind.RESULT, 4, b"value")]

    assert (channel.receive(), channel.inflow) == ([], Inflow.DRAINED), (
        "nobody held the other end: the test proves nothing"
    )
    holder.kill()
    holder.wait()
    assert (channel.receive(), channel.inflow) == ([], Inflow.CLOSED)
    channel.close()


# --- closing ---


def test_send_after_close_reaches_nobody_who_was_given_the_number(channel: Channel) -> None:
    number = channel.fileno()
    channel.send(Kind.RUN, 1, LARGE)
    channel.close()
    assert not channel.has_outgoing
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert number in (ours.fileno(), theirs.fileno())
        assert channel.flush()
        assert channel.send(Kind.RUN, 2, b"stray")
        for end in (ours, theirs):
            end.setblocking(False)
            with pytest.raises(BlockingIOError):
                end.recv(1)


def test_descriptors_are_not_inherited_unless_asked_for(channel: Channel) -> None:
    assert not os.get_inheritable(channel.fileno())
    assert not channel.theirs.get_inheritable()


# --- tickets ---


def tickets_of(channel: Channel) -> list[int]:
    """What the worker would take, one after the other."""
    numbers = []
    try:
        while ticket := channel.their_tickets.recv(8, socket.MSG_DONTWAIT):
            numbers.append(int.from_bytes(ticket, sys.byteorder))
    except BlockingIOError:
        pass
    return numbers


def frames_of(*numbers: int) -> list[Any]:
    return [(Kind.RUN, number, b"call") for number in numbers]


def test_each_frame_has_a_ticket_and_they_come_in_its_order(channel: Channel) -> None:
    assert channel.send_ahead(frames_of(5, 3, 2**64 - 1)) == 3
    assert [frame.task for frame in FrameReader().feed(take(channel.theirs))] == [5, 3, 2**64 - 1]
    assert tickets_of(channel) == [5, 3, 2**64 - 1]


def test_tickets_that_were_not_taken_are_taken_back_once(channel: Channel) -> None:
    channel.send_ahead(frames_of(1, 2, 3))
    assert int.from_bytes(channel.their_tickets.recv(8), sys.byteorder) == 1
    assert channel.take_back() == [2, 3]
    assert channel.take_back() == []
    assert tickets_of(channel) == []
    channel.send_ahead(frames_of(3, 4))
    assert channel.take_back() == [3, 4]


def test_tickets_of_a_closed_channel_are_nobody_s(channel: Channel) -> None:
    channel.send_ahead(frames_of(1))
    channel.close()
    assert channel.take_back() == []
    assert channel.send_ahead(frames_of(2)) == 1


def test_tickets_for_which_there_is_no_room_are_as_if_taken_back(channel: Channel) -> None:
    number = 0
    while channel.send_ahead(frames_of(number + 1)):
        number += 1
        take(channel.theirs)
    assert number > 100
    assert channel.take_back() == list(range(1, number + 1))
    assert channel.send_ahead(frames_of(7)) == 1


def test_half_a_ticket_spoils_the_rest(channel: Channel) -> None:
    channel.send_ahead(frames_of(1, 2))
    channel.their_tickets.recv(3)
    assert channel.take_back() == []
    assert channel.is_spoilt
