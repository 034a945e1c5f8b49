"""The host's end of one worker's socket pair; never blocks.

Used by the supervisor's thread alone, and therefore without a lock.
"""

from __future__ import annotations

import enum
import socket
from collections import deque

from safepool._worker.framing import ForeignBytesError, Frame, FrameReader, Kind, header

__all__ = ["Channel", "Inflow"]

_RECEIVE_SIZE = 1 << 18  # bytes per read
_MOST_PER_TURN = 64  # reads, so that one worker's 300 MB result does not hold up another's deadline
_JOINED_SIZE = 1 << 16  # bytes; up to here one copy costs less than a second system call


class Inflow(enum.Enum):
    """What is to be expected of a channel after a read."""

    MORE = "there may be more at once"
    DRAINED = "nothing more for now"
    CLOSED = "nothing more ever"


class Channel:
    """Frames to and from one worker."""

    def __init__(self) -> None:
        ours, self.theirs = socket.socketpair()
        ours.setblocking(False)
        self._socket = ours
        self._reader = FrameReader()
        self._outgoing: deque[memoryview] = deque()

    def fileno(self) -> int:
        """Return the descriptor, for a selector."""
        return self._socket.fileno()

    @property
    def has_outgoing(self) -> bool:
        """True while something is still to be sent: wait until the channel is writable, then ``flush``."""
        return bool(self._outgoing)

    def send(self, kind: Kind, task: int, content: bytes | memoryview = b"") -> bool:
        """Send a frame, as far as it fits; return True if all of it went."""
        head = header(kind, task, len(content))
        if len(content) <= _JOINED_SIZE:
            self._outgoing.append(memoryview(head + content))
        else:
            self._outgoing.extend((memoryview(head), memoryview(content)))
        return self.flush()

    def flush(self) -> bool:
        """Send what is left, as far as it fits; return True if nothing is."""
        while self._outgoing:
            piece = self._outgoing[0]
            try:
                sent = self._socket.send(piece)
            except BlockingIOError:
                return False
            except OSError:  # the worker is dead or has closed its end: its pidfd will say so
                self._outgoing.clear()
                return True
            if sent == len(piece):
                self._outgoing.popleft()
            else:
                self._outgoing[0] = piece[sent:]
        return True

    def receive(self) -> tuple[list[Frame], Inflow]:
        """Return the frames that have come in, and what can be expected of the channel.

        Raises:
            ForeignBytesError: Something else than a worker has written to the channel.
        """
        frames: list[Frame] = []
        for _ in range(_MOST_PER_TURN):
            piece = self._receive_piece()
            if not piece:
                return frames, Inflow.DRAINED if piece is None else Inflow.CLOSED
            frames += self._feed(piece, frames)
            if len(piece) < _RECEIVE_SIZE:  # all there was; if more came meanwhile, the selector says so
                return frames, Inflow.DRAINED
        return frames, Inflow.MORE

    def receive_rest(self) -> list[Frame]:
        """Return every whole frame that a dead worker has left; a torn one counts for nothing.

        Never waits for the end of the stream, which a descendant may hold open.
        """
        frames: list[Frame] = []
        while piece := self._receive_piece():
            frames += self._feed(piece, frames)
        return frames

    def close(self) -> None:
        """Close our end; what was still to be sent is dropped."""
        self._outgoing.clear()
        self._socket.close()

    def _feed(self, piece: bytes, earlier: list[Frame]) -> list[Frame]:
        try:
            return self._reader.feed(piece)
        except ForeignBytesError as error:
            error.frames = earlier + error.frames
            raise

    def _receive_piece(self) -> bytes | None:
        """Return what there is, nothing at the end of the stream, None if there is nothing for now."""
        try:
            return self._socket.recv(_RECEIVE_SIZE)
        except BlockingIOError:
            return None
        except OSError:  # reset: the other end died with our bytes unread
            return b""
