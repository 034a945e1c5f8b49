"""The host's end of one worker's channel; never blocks.

Used by the supervisor's thread alone, and therefore without a lock.
"""

from __future__ import annotations

import contextlib
import enum
import errno
import socket
from array import array
from collections import deque
from collections.abc import Sequence

from safepool._worker.framing import ForeignBytesError, Frame, FrameReader, Kind, header
from safepool._worker.ring import AnswerRing
from safepool._worker.segments import FD_ROOM, LARGEST, Exchange, Loan, Segment, send_segment

__all__ = ["Channel", "Inflow"]

_RECEIVE_SIZE = 1 << 16  # bytes per read, since each of 128 KiB and more maps fresh memory and unmaps it
_LARGE_RECEIVE_SIZE = 1 << 18  # where there is much: more than a socket's buffer
_MOST_PER_TURN = 64  # reads, so that one worker's 300 MB result does not hold up another's deadline
_TICKET_SIZE = 8  # bytes
_DEAD = {errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN, errno.EBADF}  # of the other end, or of ours
_MOST_KEPT = 8  # results of one worker that may stay in its segments, each of which takes a descriptor here
_JOINED_SIZE = 1 << 16  # bytes; up to here one copy costs less than a second system call


class Inflow(enum.Enum):
    """What is to be expected of a channel after a read."""

    MORE = "there may be more at once"
    DRAINED = "nothing more for now"
    CLOSED = "nothing more ever"


class Channel:
    """Frames to and from one worker, and the tickets that let it run them.

    A ticket is the number of a task whose frame was sent. The worker takes the next one when it is free, from a socket
    that the host can read as well: the kernel gives each ticket to one of the two, so a task that was sent ahead is
    taken back surely, or surely not, whether its worker runs, hangs or is dead.

    Facts: what is sent to a stream socket in one piece of up to 32 KiB is one buffer; a read takes from it under the
    socket's lock (unix(7), af_unix.c). Tickets are written whole and read eight bytes at a time, so nobody sees half of
    one. MSG_DONTWAIT is the call's, not the socket's: the worker waits where the host does not. A read of a stream ends
    with the piece that brings descriptors (unix(7)), however much more there is.
    """

    def __init__(self, ring: AnswerRing) -> None:
        with contextlib.ExitStack() as undo:
            ours, self.theirs = socket.socketpair()
            undo.callback(ours.close)
            undo.callback(self.theirs.close)
            self._tickets, self.their_tickets = socket.socketpair()
            undo.pop_all()
        ours.setblocking(False)
        self._tickets.setblocking(False)
        self._socket = ours
        self._ring = ring
        self._reader = FrameReader(LARGEST)
        self._ring_reader = FrameReader(ring.size)
        self._outgoing: deque[tuple[memoryview, Segment | None]] = deque()
        self.exchange = Exchange(_MOST_KEPT)
        self.inflow = Inflow.DRAINED
        self.is_spoilt = False  # the tickets do not tell any more what the worker may begin
        self.leaves_answers = False  # the worker takes the host to be awake, and leaves its answers in the ring
        self._brought_fds = False  # the last piece had descriptors with it: a read ends there, whatever comes behind

    def fileno(self) -> int:
        """Return the descriptor, for a selector."""
        return self._socket.fileno()

    @property
    def has_outgoing(self) -> bool:
        """True while something is still to be sent: wait until the channel is writable, then ``flush``."""
        return bool(self._outgoing)

    def send(self, kind: Kind, task: int, content: bytes | memoryview = b"") -> bool:
        """Send a frame with its ticket, as far as it fits; return True if all of it went."""
        self.send_ahead([(kind, task, content)])
        return not self._outgoing

    def lend(self, loan: Loan) -> None:
        """Let the worker have a segment, before the task that is about it is sent."""
        segment = self.exchange.lend(loan)
        if segment is not None:
            self._outgoing.append((memoryview(segment.frame()), segment))

    def send_ahead(self, frames: Sequence[tuple[Kind, int, bytes | memoryview]]) -> int:
        """Send frames, as far as they fit, and their tickets; return for how many of them a ticket went.

        The rest of the frames are as if they had been taken back.
        """
        joined: list[bytes | memoryview] = [self.exchange.notes()]
        for kind, task, content in frames:
            head = header(kind, task, len(content))
            if len(content) <= _JOINED_SIZE:
                joined += (head, content)
            else:
                self._outgoing.append((memoryview(b"".join((*joined, head))), None))
                self._outgoing.append((memoryview(content), None))
                joined.clear()
        if joined:
            self._outgoing.append((memoryview(b"".join(joined)), None))
        self.flush()
        try:
            sent = self._tickets.send(array("Q", [task for _, task, _ in frames]).tobytes())
        except OSError as error:
            return len(frames) if error.errno in _DEAD else 0  # else: as many as there may be are unread
        assert sent == len(frames) * _TICKET_SIZE
        return len(frames)

    def take_back(self) -> list[int]:
        """Take back the tickets that the worker has not taken; return their numbers, in the order of sending."""
        pieces = []
        with contextlib.suppress(OSError):
            while piece := self.their_tickets.recv(_RECEIVE_SIZE, socket.MSG_DONTWAIT):
                pieces.append(piece)
        tickets = b"".join(pieces)
        if len(tickets) % _TICKET_SIZE:  # somebody has read part of one
            self.is_spoilt = True
            return []
        return memoryview(tickets).cast("Q").tolist()

    def flush(self) -> bool:
        """Send what is left, as far as it fits; return True if nothing is."""
        while self._outgoing:
            piece, segment = self._outgoing[0]
            try:
                sent = self._socket.send(piece) if segment is None else send_segment(self._socket, piece, segment)
            except OSError as error:
                if error.errno not in _DEAD:  # no room, in the socket or in the kernel
                    return False
                self._outgoing.clear()  # its pidfd will say so
                return True
            if sent == len(piece):
                self._outgoing.popleft()
            else:
                self._outgoing[0] = (piece[sent:], None)
        return True

    def receive(self) -> list[Frame]:
        """Return the frames that have come in; ``inflow`` says what can be expected of the channel.

        Those of the ring come last: whatever was sent before something that is here now is here, too.

        Raises:
            ForeignBytesError: Something else than a worker has written to the channel.
        """
        frames: list[Frame] = []
        self.inflow = Inflow.MORE
        size = _RECEIVE_SIZE
        for _ in range(_MOST_PER_TURN):
            piece = self._receive_piece(size)
            if not piece:
                self.inflow = Inflow.DRAINED if piece is None else Inflow.CLOSED
                break
            self.leaves_answers = True
            frames += self._feed(piece, frames)
            if len(piece) == size:
                size = _LARGE_RECEIVE_SIZE
            elif not self._brought_fds:  # all there was; if more came meanwhile, the selector says so
                self.inflow = Inflow.DRAINED
                break
        return self._with_left(frames)

    def receive_left(self) -> list[Frame]:
        """Return the frames that the worker has left in the ring.

        Raises:
            ForeignBytesError: Something else than a worker has written there.
        """
        piece = self._ring.take()
        return self._ring_reader.feed(piece) if piece else []

    def fall_asleep(self) -> bool:
        """Have the worker send its next answer; return False if there is one in the ring already."""
        if not self._ring.fall_asleep():
            return False
        self.leaves_answers = False
        return True

    def receive_rest(self) -> list[Frame]:
        """Return every whole frame that a dead worker has left; a torn one counts for nothing.

        Never waits for the end of the stream, which a descendant may hold open.
        """
        frames: list[Frame] = []
        while piece := self._receive_piece(_RECEIVE_SIZE):
            frames += self._feed(piece, frames)
        return self._with_left(frames)

    def close(self) -> None:
        """Close our ends; what was still to be sent is dropped."""
        self._outgoing.clear()
        self.exchange.close()
        self._socket.close()
        self._tickets.close()
        self.their_tickets.close()

    def _feed(self, piece: bytes, earlier: list[Frame]) -> list[Frame]:
        try:
            return self._reader.feed(piece)
        except ForeignBytesError as error:
            error.frames = earlier + error.frames
            with contextlib.suppress(ForeignBytesError):
                error.frames = self._with_left(error.frames)
            raise

    def _with_left(self, earlier: list[Frame]) -> list[Frame]:
        try:
            return earlier + self.receive_left()
        except ForeignBytesError as error:
            error.frames = earlier + error.frames
            raise

    def _receive_piece(self, size: int) -> bytes | None:
        """Return what there is, nothing at the end of the stream, None if there is nothing for now."""
        try:
            piece, ancillary, _, _ = self._socket.recvmsg(size, FD_ROOM, socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            return None
        except OSError:  # reset: the other end died with our bytes unread
            return b""
        self._brought_fds = bool(ancillary)
        if ancillary:
            self.exchange.receive_fds(ancillary)
        return piece
