"""Bytes to frames and back. Fed any split of the stream; does no I/O.

A frame is a header of fixed size and a payload. The header says what the frame is and which task it is about, so
that a payload that cannot be unpickled still fails the right future. The first two bytes are a check: a task that
writes to a descriptor that is not its own shows up as foreign bytes, not as somebody's result.
"""

from __future__ import annotations

import enum
import struct

from safepool._plain import NamedTuple

__all__ = ["HEADER_SIZE", "ForeignBytesError", "Frame", "FrameReader", "Kind", "header"]

_HEADER = struct.Struct("=HBBQQ")
_CHECK = 0x5AFE
HEADER_SIZE = _HEADER.size


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


class ForeignBytesError(Exception):
    """The stream holds what no frame begins with.

    Attributes:
        frames: Whole frames that came before.
    """

    def __init__(self, found: bytes) -> None:
        super().__init__(found)
        self.frames: list[Frame] = []


class Frame(NamedTuple):
    """One whole frame."""

    kind: Kind
    task: int
    payload: bytes


class FrameReader:
    """Collects bytes, and hands out the frames that are complete."""

    def __init__(self) -> None:
        self._bytes = bytearray()

    def feed(self, piece: bytes | memoryview) -> list[Frame]:
        """Take the next piece of the stream; return the frames that it completes.

        Raises:
            ForeignBytesError: The stream is not ours. The reader is of no further use.
        """
        self._bytes += piece
        frames: list[Frame] = []
        position = 0
        while len(self._bytes) - position >= HEADER_SIZE:
            try:
                kind, task, size = self._parse(position)
            except ForeignBytesError as error:
                error.frames = frames
                raise
            end = position + HEADER_SIZE + size
            if end > len(self._bytes):
                break
            frames.append(Frame(kind, task, bytes(memoryview(self._bytes)[position + HEADER_SIZE : end])))
            position = end
        del self._bytes[:position]
        return frames

    def _parse(self, position: int) -> tuple[Kind, int, int]:
        check, kind, zero, task, size = _HEADER.unpack_from(self._bytes, position)
        if check != _CHECK or zero or kind not in _KINDS:
            raise ForeignBytesError(bytes(self._bytes[position : position + HEADER_SIZE]))
        return _KINDS[kind], task, size


_KINDS = {int(kind): kind for kind in Kind}


def header(kind: Kind, task: int, size: int) -> bytes:
    """Return the bytes that go before a payload of this size."""
    return _HEADER.pack(_CHECK, kind, 0, task, size)
