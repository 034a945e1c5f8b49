"""Bytes to frames and back. Fed any split of the stream; does no I/O.

A frame is a header of fixed size and a payload. The header says what the frame is and which task it is about, so
that a payload that cannot be unpickled still fails the right future; of an answer, when the task began and how long
it took, too. The first two bytes are a check: a task that writes to a descriptor that is not its own shows up as
foreign bytes, not as somebody's result.

A task's frame may be sent before its worker is free. Whether the worker may run it is told by a *claim ticket*, the
task's number in a stream of its own (``channel``): one that is taken back leaves its frame behind, for the worker to
step over.
"""

from __future__ import annotations

import enum
import struct
import sys

from safepool._plain import NamedTuple

__all__ = ["HEADER_SIZE", "ForeignBytesError", "Frame", "FrameReader", "Kind", "header"]

_HEADER = struct.Struct("=HBBQQdd")
_CHECK = 0x5AFE
_CHECKED = _CHECK.to_bytes(2, sys.byteorder)
HEADER_SIZE = _HEADER.size
_LARGEST = 2**64 - 1  # bytes; what a header can say


class Kind(enum.IntEnum):
    """What a frame says. To the worker: INITIALIZE, RUN and its kin, QUIT. To the host: the rest."""

    INITIALIZE = 1
    RUN = 2
    QUIT = 3
    READY = 4  # the initializer is through
    UNFIT = 5  # the initializer raised; payload as of RAISED
    RESULT = 6  # payload: the value
    PLAIN_RESULT = 7  # the same, of a type whose unpickling runs no code of the user's
    RAISED = 8  # payload: the exception, as ``worker_main`` packs it
    RUN_WITHIN_LIMITS = 9  # RUN, of a task that may have to be signalled
    NUDGE = 10  # there are answers in the ring
    RUN_MEASURED = 11  # RUN_WITHIN_LIMITS, of a task whose memory is watched
    LENT_RESULT = 12  # RESULT; payload: an envelope (``segments``), and the value
    SEGMENT = 13  # the four from here on go either way, and are about no task; payload as of ``segments``
    RETURN = 14  # segments that the receiver had lent
    FORGET = 15  # segments that the sender had lent
    SPOILT = 16  # segments that the receiver had lent, and must not lend again
    RUN_BUNDLE = 17  # many calls of one function; payload as of ``calls``
    RUN_BUNDLE_WITHIN_LIMITS = 18  # the same; each call may have to be signalled
    PARTED = 19  # this item of a bundle, and those behind it, will not be run here


class ForeignBytesError(Exception):
    """The stream holds what no frame begins with.

    Attributes:
        frames: Whole frames that came before.
    """

    def __init__(self, found: bytes, frames: list[Frame]) -> None:
        super().__init__(found)
        self.frames = frames


class Frame(NamedTuple):
    """One whole frame; ``begun`` (monotonic seconds) and ``elapsed`` (seconds) are of a task that has ended."""

    kind: Kind
    task: int
    payload: bytes | memoryview
    begun: float = 0.0
    elapsed: float = 0.0


class FrameReader:
    """Collects bytes, and hands out the frames that are complete.

    Args:
        largest: Bytes beyond which no payload is waited for: a frame that says it has more is none of ours.
    """

    def __init__(self, largest: int = _LARGEST) -> None:
        self._largest = largest
        self._torn: list[bytes] = []  # the beginning of a frame whose end is still to come
        self._missing = 0  # bytes without which that is not worth a look

    def feed(self, piece: bytes) -> list[Frame]:
        """Take the next piece of the stream; return the frames that it completes.

        Raises:
            ForeignBytesError: The stream is not ours. The reader is of no further use.
        """
        was_torn = bool(self._torn)
        if was_torn:
            self._torn.append(piece)
            self._missing -= len(piece)
            if self._missing > 0:
                return []
            piece = b"".join(self._torn)
            self._torn.clear()
        frames: list[Frame] = []
        position, end = 0, len(piece)
        needed = HEADER_SIZE
        while end - position >= HEADER_SIZE:
            check, kind, zero, task, size, begun, elapsed = _HEADER.unpack_from(piece, position)
            if check != _CHECK or zero or kind not in _KINDS:
                raise ForeignBytesError(piece[position : position + HEADER_SIZE], frames)
            start = position + HEADER_SIZE
            if start + size > end:
                if size > self._largest:
                    raise ForeignBytesError(piece[position:start], frames)
                needed = HEADER_SIZE + size
                break
            position = start + size
            # What came in many pieces is large, and has been copied once already.
            payload = memoryview(piece)[start:position] if was_torn else piece[start:position]
            frames.append(_new(Frame, (_KINDS[kind], task, payload, begun, elapsed)))
        if position < end:
            rest = piece[position:]
            if not _CHECKED.startswith(rest[: len(_CHECKED)]):
                raise ForeignBytesError(rest[:HEADER_SIZE], frames)
            self._torn.append(rest)
            self._missing = needed - len(rest)
        return frames


_new = tuple.__new__  # what NamedTuple's own does after a call in Python
_KINDS = {int(kind): kind for kind in Kind}


def header(kind: Kind, task: int, size: int, begun: float = 0.0, elapsed: float = 0.0) -> bytes:
    """Return the bytes that go before a payload of this size."""
    return _HEADER.pack(_CHECK, kind, 0, task, size, begun, elapsed)
