"""Bytes become the same frames again, however the stream is cut; anything else is recognised as foreign."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safepool._worker.framing import HEADER_SIZE, ForeignBytesError, Frame, FrameReader, Kind, header

pytestmark = pytest.mark.timeout(60)

_CHECK = header(Kind.QUIT, 0, 0)[:2]
_NUMBERS = st.integers(0, 2**64 - 1)

_SECONDS = st.floats(allow_nan=False)

frames = st.builds(Frame, st.sampled_from(Kind), _NUMBERS, st.binary(max_size=40), _SECONDS, _SECONDS)


def bytes_of(*sent: Frame) -> bytes:
    return b"".join(
        header(frame.kind, frame.task, len(frame.payload), frame.begun, frame.elapsed) + frame.payload for frame in sent
    )


@given(st.lists(frames, max_size=4))
def test_stream_cut_in_two_at_any_byte_gives_the_same_frames(sent: list[Frame]) -> None:
    stream = bytes_of(*sent)
    for cut in range(len(stream) + 1):
        reader = FrameReader()
        assert reader.feed(stream[:cut]) + reader.feed(stream[cut:]) == sent


@given(st.lists(frames, max_size=6), st.data())
def test_stream_cut_into_any_pieces_gives_the_same_frames(sent: list[Frame], data: st.DataObject) -> None:
    stream = bytes_of(*sent)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=20)))
    reader = FrameReader()
    pieces = [stream[start:end] for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    assert [frame for piece in pieces for frame in reader.feed(piece)] == sent


@given(frames, frames)
def test_frame_comes_out_with_its_last_byte_and_not_earlier(first: Frame, second: Frame) -> None:
    reader = FrameReader()
    for frame in (first, second):
        stream = bytes_of(frame)
        assert [out for byte in stream[:-1] for out in reader.feed(bytes([byte]))] == []
        assert reader.feed(stream[-1:]) == [frame]


def test_header_alone_gives_no_frame() -> None:
    assert FrameReader().feed(header(Kind.RESULT, 1, 1)) == []


def test_empty_payload_is_complete_with_its_header() -> None:
    assert FrameReader().feed(header(Kind.READY, 0, 0)) == [Frame(Kind.READY, 0, b"")]


def test_kinds_interleaved_in_one_piece_keep_their_order() -> None:
    sent = [Frame(kind, task, bytes(task)) for task in range(3) for kind in Kind]
    assert FrameReader().feed(bytes_of(*sent)) == sent


@given(_NUMBERS)
def test_task_number_of_any_size_survives(task: int) -> None:
    (frame,) = FrameReader().feed(header(Kind.RAISED, task, 0))
    assert frame.task == task


def test_size_beyond_memory_is_only_waited_for_unless_there_is_a_limit() -> None:
    reader = FrameReader()
    assert reader.feed(header(Kind.RESULT, 1, 2**64 - 1)) == []
    assert reader.feed(b"more") == []


@given(st.binary(min_size=HEADER_SIZE, max_size=80).filter(lambda stream: not stream.startswith(_CHECK)))
def test_bytes_that_begin_like_no_frame_are_foreign(stream: bytes) -> None:
    with pytest.raises(ForeignBytesError):
        FrameReader().feed(stream)


@given(st.binary(max_size=HEADER_SIZE - 3))
def test_fewer_bytes_than_a_header_are_judged_by_the_check_alone(stream: bytes) -> None:
    assert FrameReader().feed(_CHECK + stream) == []
    assert FrameReader().feed(_CHECK[:1]) == []
    with pytest.raises(ForeignBytesError):
        FrameReader().feed(b"\0" + stream)


@given(frames, st.binary(min_size=HEADER_SIZE, max_size=80).filter(lambda stream: not stream.startswith(_CHECK)))
def test_foreign_bytes_after_a_whole_frame_are_foreign_and_shown(frame: Frame, stream: bytes) -> None:
    reader = FrameReader()
    with pytest.raises(ForeignBytesError) as caught:
        reader.feed(bytes_of(frame) + stream)
    assert caught.value.args == (stream[:HEADER_SIZE],)
    assert caught.value.frames == [frame]


def test_one_flipped_bit_in_the_check_or_the_padding_is_foreign() -> None:
    for position in (0, 1, 3):
        for bit in range(8):
            stream = bytearray(header(Kind.RESULT, 1, 0))
            stream[position] ^= 1 << bit
            with pytest.raises(ForeignBytesError):
                FrameReader().feed(stream)


def test_kind_that_does_not_exist_is_foreign() -> None:
    for kind in set(range(256)) - {int(kind) for kind in Kind}:
        stream = bytearray(header(Kind.RESULT, 1, 0))
        stream[2] = kind
        with pytest.raises(ForeignBytesError):
            FrameReader().feed(stream)


def test_what_a_stray_writer_is_likely_to_write_is_foreign() -> None:
    for text in (b"Traceback (most recent call last):\n", b"\0" * 40, b"\x80\x05\x95" + b"pickle" * 10):
        with pytest.raises(ForeignBytesError):
            FrameReader().feed(text)


# --- hostile streams ---


def test_payload_larger_than_any_that_is_waited_for_is_foreign_as_soon_as_it_is_announced() -> None:
    reader = FrameReader(largest=100)
    whole = Frame(Kind.RESULT, 1, b"x" * 100)
    assert reader.feed(bytes_of(whole)) == [whole]
    assert reader.feed(header(Kind.RESULT, 2, 100)) == []
    assert reader.feed(b"y" * 100) == [Frame(Kind.RESULT, 2, b"y" * 100)]
    with pytest.raises(ForeignBytesError) as caught:
        reader.feed(bytes_of(whole) + header(Kind.RESULT, 3, 101))
    assert caught.value.frames == [whole]


def read_all(stream: bytes, cuts: list[int], largest: int) -> tuple[list[Frame], bool]:
    """Feed a stream in pieces; return the frames, and whether it was all ours."""
    reader, frames = FrameReader(largest), []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        try:
            frames += reader.feed(stream[start:end])
        except ForeignBytesError as error:
            return frames + error.frames, False
    return frames, True


HOSTILE = st.one_of(
    st.binary(max_size=60),
    st.builds(bytes_of, frames),
    st.builds(header, st.sampled_from(Kind), _NUMBERS, _NUMBERS, st.floats(), st.floats()),
    st.just(_CHECK),
)


@given(st.lists(HOSTILE, max_size=6).map(b"".join), st.data())
def test_hostile_stream_gives_the_same_frames_and_the_same_judgement_however_it_is_cut(
    stream: bytes, data: st.DataObject
) -> None:
    """Nothing but whole frames comes out, and nothing else than a foreign stream is raised."""
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    at_once, is_ours = read_all(stream, [], 200)
    in_pieces, is_ours_in_pieces = read_all(stream, cuts, 200)
    assert repr(in_pieces) == repr(at_once) or all(  # a payload that came torn is a view
        (a.kind, a.task, bytes(a.payload)) == (b.kind, b.task, bytes(b.payload))
        for a, b in zip(in_pieces, at_once, strict=True)
    )
    assert is_ours_in_pieces == is_ours
    assert all(isinstance(frame.kind, Kind) and len(frame.payload) <= len(stream) for frame in at_once)


@given(st.lists(frames, min_size=1, max_size=3), st.integers(0, 2**64 - 1), st.data())
def test_one_changed_byte_gives_frames_or_a_foreign_stream_and_never_more_bytes_than_came(
    sent: list[Frame], number: int, data: st.DataObject
) -> None:
    stream = bytearray(bytes_of(*sent))
    position = data.draw(st.integers(0, len(stream) - 1))
    stream[position] = number & 0xFF
    found, _ = read_all(bytes(stream), [], 1000)
    assert sum(HEADER_SIZE + len(frame.payload) for frame in found) <= len(stream)
