"""Large buffers, which go through memory that both sides have mapped instead of through the channel.

A *segment* is a piece of memory without a name. Who sends makes it, copies the buffers of one call or result into it,
and *lends* it to the other side, which works in that memory itself and returns the segment when nobody looks at it any
more. Then it is used again: a copy into memory that is there already takes a tenth of the time that fresh memory does,
and to map a segment anew costs as much as fresh memory. So both sides keep what they have mapped.

A segment is lent to one worker at a time, and nobody else writes into it meanwhile: what arrives is private, and may
be changed. It stays lent for as long as anything that came with it is alive, however long that is.

Nothing here has to be undone: who interrupts, cancels, dies or forgets lets go of references, and what nobody refers to
is closed. The kernel frees the memory with the last descriptor and the last mapping; a memfd has no name to be left.

Facts:
* A ``mmap`` counts the views of it, those of slices, copies of views and arrays on top of them included, and refuses to
  be resized while there are any. It says so before it looks at the new size. (``test_segments.py``)
* A weak reference, or ``__del__``, would tell of the end of a lease too early: a collection runs finalizers, which are
  user code and may look at an array, when all they can reach counts as dead already.
* A forked child shares such memory with its parent, and may write into it whenever it likes: what was lent to the
  parent at that time is never used again.
* Descriptors on a stream socket arrive with the first byte that they were sent with (unix(7)). Those for which there is
  no room are lost, so each is told by its inode.
"""

from __future__ import annotations

import errno
import fcntl
import io
import itertools
import mmap
import os
import socket
import struct
import sys
import weakref
from array import array
from collections import deque
from collections.abc import Callable, Sequence

from safepool._os.features import has
from safepool._worker.framing import Frame, Kind, header

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["FD_ROOM", "LARGEST", "Exchange", "Lender", "Loan", "Segment", "pack", "send_segment"]

_SMALLEST = 1 << 16  # bytes; the sizes are the powers of two from there on, whose ends cost nothing until they are used
_ALIGNMENT = 64  # bytes: what vector instructions like best
_MOST_IDLE = 1 << 28  # bytes that are kept to be used again
_MOST_TAKEN = 128  # segments, or descriptors of some, that are taken from the other end; twice what any of them makes
LARGEST = 4 * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")  # bytes; more than memory and swap come to
_MAPS_WITHOUT_FD = {"trackfd": False} if sys.version_info >= (3, 13) else {}

_SEGMENT = struct.Struct("=QQQ")  # number, size, inode
_ENVELOPE = struct.Struct("=QQ")  # number of the segment, count of the buffers; the place and size of each follow
FD_ROOM = socket.CMSG_SPACE(4 * struct.calcsize("i"))  # for one; more would be somebody else's

Buffers = list[memoryview]


class _MemoryFile(io.FileIO):
    """A memfd; closed with its last reference, and no warning."""

    def __del__(self) -> None:
        self.close()


class Segment:
    """Memory that can be lent; in the process that made it."""

    def __init__(self, number: int, size: int) -> None:
        self.number = number
        self.size = size
        self.is_spoilt = False  # not to be used again
        if not has("memfd"):  # nothing else can be sealed, and be safe from who has it on loan
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
        # One call into C: Ctrl-C finds no descriptor that nobody owns.
        name, flags = "safepool-segment", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
        self._file = next(map(_MemoryFile, map(os.memfd_create, (name,), (flags,)), ("r+b",)))
        self.fd = self._file.fileno()
        os.ftruncate(self.fd, size)
        fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)  # else who has it could take it from under us
        self.memory = mmap.mmap(self.fd, size, **_MAPS_WITHOUT_FD)

    def frame(self) -> bytes:
        """Return the frame that goes with the descriptor to who has not seen the segment yet."""
        head = header(Kind.SEGMENT, 0, _SEGMENT.size)
        return head + _SEGMENT.pack(self.number, self.size, os.fstat(self.fd).st_ino)


class Loan:
    """A segment in use: as long as anybody holds this, its contents stay."""

    def __init__(self, segment: Segment, take_in: Callable[[Segment], None]) -> None:
        self.segment = segment
        self._take_in = take_in

    def __del__(self) -> None:
        self._take_in(self.segment)


class Lender:
    """Makes segments, and uses them again. Used by any thread, without a lock: the steps are single calls into C.

    Args:
        most: How many segments there may be at a time; each takes one or two descriptors here, and one there.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._numbers = itertools.count(1)
        self._alive: weakref.WeakValueDictionary[int, Segment] = weakref.WeakValueDictionary()
        self._idle: deque[Segment] = deque()  # the one that was used last is the last
        self._is_closed = False

    def lend(self, buffers: Sequence[memoryview]) -> tuple[Loan, bytes] | None:
        """Copy buffers into a segment; return it, and the envelope that tells of them; None if none can be had."""
        places: list[int] = []
        end = 0
        for buffer in buffers:
            start = -(-end // _ALIGNMENT) * _ALIGNMENT
            end = start + buffer.nbytes
            places += (start, buffer.nbytes)
        try:
            loan = Loan(self._take(max(_SMALLEST, 1 << (end - 1).bit_length())), self._take_in)
        except (OSError, MemoryError):  # no descriptor or no memory
            return None
        memory = loan.segment.memory
        for buffer, start, size in zip(buffers, places[::2], places[1::2], strict=True):
            memory[start : start + size] = buffer
        return loan, _ENVELOPE.pack(loan.segment.number, len(buffers)) + array("Q", places).tobytes()

    def trim(self) -> None:
        """Let go of what is not in use."""
        self._idle.clear()

    def close(self) -> None:
        """Keep nothing any more."""
        self._is_closed = True
        self._idle.clear()

    def _take(self, size: int) -> Segment:
        for segment in reversed(list(self._idle)):
            if segment.size == size:
                try:
                    self._idle.remove(segment)
                except ValueError:  # another thread was quicker
                    continue
                return segment
        if len(self._alive) >= self._most:
            self.trim()  # they are of other sizes
        if len(self._alive) >= self._most:
            raise MemoryError
        number = next(self._numbers)
        segment = self._alive[number] = Segment(number, size)
        return segment

    def _take_in(self, segment: Segment) -> None:
        """Keep a segment that is not in use any more, instead of those that have not been used for the longest."""
        if segment.is_spoilt or segment.size > _MOST_IDLE:
            return
        self._idle.append(segment)
        while self._is_closed or sum(idle.size for idle in list(self._idle)) > _MOST_IDLE:
            try:
                self._idle.popleft()
            except IndexError:  # another thread was quicker
                return


class Exchange:
    """What the two ends of a channel have lent each other: one end's books. Both ends keep the same.

    ``borrow`` may run in a thread of its own.

    Args:
        most_kept: How many borrowed segments may stay in use at a time; beyond that their contents are copied.
    """

    def __init__(self, most_kept: int) -> None:
        self._most_kept = most_kept
        self._loans: dict[int, Loan] = {}
        self._known: dict[int, weakref.ref[Segment]] = {}  # those that the other end has mapped
        self._gone: deque[int] = deque()  # those of them that are no more
        self._mappings: dict[int, mmap.mmap] = {}  # the other end's segments
        self._leases: dict[int, mmap.mmap] = {}  # those that may be in use
        self._spoilt: deque[int] = deque()  # those that must not be lent again
        self._fds: deque[int] = deque()  # received, but their frames are still to come
        key = id(self)
        _exchanges[key] = weakref.ref(self, lambda _: _exchanges.pop(key, None))

    # --- who lends ---

    def lend(self, loan: Loan) -> Segment | None:
        """Take note of a loan; return its segment if that is to be sent first."""
        segment = loan.segment
        number, gone = segment.number, self._gone
        self._loans[number] = loan
        if number in self._known:
            return None
        self._known[number] = weakref.ref(segment, lambda _: gone.append(number))
        return segment

    def call_off(self, loan: Loan) -> None:
        """Take note that the other end will never turn to what was lent with this."""
        if self._loans.get(loan.segment.number) is loan:
            del self._loans[loan.segment.number]

    # --- who borrows ---

    def borrow(self, packed: memoryview) -> tuple[Sequence[memoryview | bytearray], memoryview]:
        """Open an envelope; return the buffers that it is about, and what follows it.

        Raises:
            LookupError: The segment is not here.
            ValueError: The envelope makes no sense.
        """
        try:
            number, count = _ENVELOPE.unpack_from(packed)
            end = _ENVELOPE.size + 16 * count
            places = array("Q", packed[_ENVELOPE.size : end].tobytes()).tolist()
        except (struct.error, ValueError, OverflowError):
            raise ValueError("what came is no envelope") from None
        mapping = self._mappings.get(number)
        if mapping is None:
            self._spoilt.append(number)
            raise LookupError(f"the memory segment {number} has not arrived: there may be too many open files")
        memory = memoryview(mapping)
        assert _is_viewed(mapping)
        is_kept = len(self._leases) < self._most_kept
        self._leases[number] = mapping
        if len(mapping) > _MOST_IDLE:  # it will not be used again
            self._mappings.pop(number, None)
        if len(places) != 2 * count or any(
            start + size > len(memory) for start, size in zip(places[::2], places[1::2], strict=True)
        ):
            raise ValueError("what came is no envelope")
        views = [memory[start : start + size] for start, size in zip(places[::2], places[1::2], strict=True)]
        return (views if is_kept else [*map(bytearray, views)]), packed[end:]

    # --- both ---

    def notes(self) -> bytes:
        """Return frames that tell the other end what it has to know, to be sent ahead of whatever is sent next."""
        if not (self._leases or self._gone or self._spoilt):
            return b""
        returned = [number for number, mapping in list(self._leases.items()) if not _is_viewed(mapping)]
        for number in returned:
            self._leases.pop(number, None)
        gone = _drain(self._gone)
        for number in gone:
            self._known.pop(number, None)
        return _note(Kind.RETURN, returned) + _note(Kind.FORGET, gone) + _note(Kind.SPOILT, _drain(self._spoilt))

    def receive_fds(self, ancillary: list[tuple[int, int, bytes]]) -> None:
        """Take what ``recvmsg`` has returned beside the bytes."""
        for level, kind, content in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                fds = array("i")
                fds.frombytes(content[: len(content) - len(content) % fds.itemsize])
                self._fds.extend(fds)
        while len(self._fds) > _MOST_TAKEN:
            os.close(self._fds.popleft())

    def heed(self, frame: Frame) -> None:
        """Take note of what the other end's frame says. One that makes no sense says nothing."""
        if frame.kind is Kind.SEGMENT:
            if len(frame.payload) == _SEGMENT.size:
                self._adopt(*_SEGMENT.unpack(frame.payload))
            return
        for number in array("Q", bytes(frame.payload[: len(frame.payload) & ~7])):
            if frame.kind is Kind.FORGET:
                self._mappings.pop(number, None)
                continue
            loan = self._loans.pop(number, None)
            if loan is not None and frame.kind is Kind.SPOILT:
                loan.segment.is_spoilt = True
                self._known.pop(number, None)

    def spoil_leases(self) -> None:
        """What is in use now must not be lent again: somebody else has it, too."""
        for number in list(self._leases):
            self._leases.pop(number, None)
            self._mappings.pop(number, None)
            self._spoilt.append(number)

    def close(self) -> None:
        """The other end is no more: what was lent to it is free. What it has lent stays as long as it is looked at."""
        self._loans.clear()
        self._known.clear()
        for fd in _drain(self._fds):
            os.close(fd)

    def _adopt(self, number: int, size: int, inode: int) -> None:
        """Map a segment. One that cannot be mapped is missed when it is needed."""
        is_welcome = size <= LARGEST and (number in self._mappings or len(self._mappings) < _MOST_TAKEN)
        while self._fds:
            fd = self._fds.popleft()
            try:
                found = os.fstat(fd)
                is_sealed = fcntl.fcntl(fd, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK
                if found.st_ino == inode and found.st_size == size and is_sealed and is_welcome:
                    self._mappings[number] = mmap.mmap(fd, size, **_MAPS_WITHOUT_FD)
                    return
            except (OSError, ValueError, OverflowError):
                pass
            finally:
                os.close(fd)


_exchanges: dict[int, weakref.ref[Exchange]] = {}  # of this process


def _before_fork() -> None:
    for reference in list(_exchanges.values()):
        if (exchange := reference()) is not None:
            exchange.spoil_leases()


os.register_at_fork(before=_before_fork)


def pack(
    lender: Lender, dumps: Callable[[Any, Buffers | None], bytes], value: object
) -> tuple[bytes, bytes, Loan | None]:
    """Pickle a value, with its large buffers in a segment if it has some; return the envelope, the pickle and the loan.

    Raises:
        Exception: What ``dumps`` raised.
    """
    buffers: Buffers = []
    packed = dumps(value, buffers)
    if not buffers:
        return b"", packed, None
    lent = lender.lend(buffers)
    if lent is None:
        return b"", dumps(value, None), None
    loan, envelope = lent
    return envelope, packed, loan


def send_segment(channel: socket.socket, piece: bytes | memoryview, segment: Segment) -> int:
    """Send the beginning of a segment's frame, and with it the descriptor; return how much of it went."""
    rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", [segment.fd]).tobytes())
    try:
        return channel.sendmsg([piece], [rights])
    except OSError as error:
        if error.errno != errno.ETOOMANYREFS:
            raise
        return channel.send(piece)  # it will be missed there, which fails one task


def _is_viewed(mapping: mmap.mmap) -> bool:
    try:
        mapping.resize(-1)
    except BufferError:
        return True
    except ValueError:
        return False
    raise AssertionError("a mapping cannot be resized to less than nothing")


def _drain(numbers: deque[int]) -> list[int]:
    return [numbers.popleft() for _ in range(len(numbers))]


def _note(kind: Kind, numbers: list[int]) -> bytes:
    content = array("Q", numbers).tobytes()
    return header(kind, 0, len(content)) + content if numbers else b""
