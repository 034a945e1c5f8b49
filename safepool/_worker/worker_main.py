"""The worker: receive a call, run it, send back what came of it.

One channel to the host and nobody else on it; no lock, no queue, nothing shared with other workers. Calls may be here
before they may be run: each has a ticket, which is taken when the one before it is through. Everything that a call can
raise, SystemExit and KeyboardInterrupt included, is its outcome; what ends the worker is only the host's
word, the end of the channel, or a fault.
"""

from __future__ import annotations

import os
import pickle
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from multiprocessing.context import SpawnProcess
from types import FrameType, TracebackType

from safepool._os.lifeline import close_in_forked_children
from safepool._worker import identity, payload
from safepool._worker.boot import heed_host, on_soft_timeout
from safepool._worker.calls import CallReader, Parts, unpack_bundle
from safepool._worker.framing import Frame, FrameReader, Kind, header
from safepool._worker.record import StartRecord
from safepool._worker.segments import FD_ROOM, Exchange, Lender, Loan, Segment, pack, send_segment

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TypeAlias

__all__ = ["WorkerProcess"]

_Packed: TypeAlias = "Any"  # bytes or memoryview, as ``load`` takes it

_RECEIVE_SIZE = 1 << 16  # bytes per read, since each of 128 KiB and more maps fresh memory and unmaps it
_LARGE_RECEIVE_SIZE = 1 << 18  # where there is much: more than a socket's buffer
_TICKET_SIZE = 8  # bytes
_MOST_LENT = 16  # segments; each takes a descriptor in the host
_MOST_KEPT = 4  # borrowed ones that tasks may hold on to; the host has so many for all workers
_NUMBERS = frozenset({type(None), bool, int, float, complex})  # of plain types, those that are never lent
_BUNDLES = frozenset({Kind.RUN_BUNDLE, Kind.RUN_BUNDLE_WITHIN_LIMITS})
_NUDGE = header(Kind.NUDGE, 0, 0)
_JOINED_SIZE = 1 << 16  # bytes; up to here one copy costs less than a second system call


class WorkerProcess(SpawnProcess):
    """A worker as multiprocessing sees it; not daemonic, so that tasks may start processes of their own."""

    def __init__(self, number: int, fds: tuple[int, int, int], name: str) -> None:
        super().__init__(name=name, daemon=False)
        self._number = number
        self._fds = fds  # channel, tickets, record

    def run(self) -> None:
        """Serve until the host says to leave."""
        channel_fd, tickets_fd, record_fd = self._fds
        identity.become(self._number)
        for fd in (channel_fd, tickets_fd):
            os.set_inheritable(fd, False)
            close_in_forked_children(fd)  # what a forked child writes there, or reads, would be ours
        with socket.socket(fileno=channel_fd) as channel, socket.socket(fileno=tickets_fd) as tickets:
            record = StartRecord(record_fd)
            record.close()
            _Server(channel, tickets, record).serve()


class _Server:
    def __init__(self, channel: socket.socket, tickets: socket.socket, record: StartRecord) -> None:
        self._channel = channel
        self._tickets = tickets
        self._record = record
        self._ring = record.ring
        self._reader = FrameReader()
        self._frames: deque[Frame] = deque()
        self._exchange = Exchange(_MOST_KEPT)
        self._lender = Lender(_MOST_LENT)
        self._calls = CallReader(self._exchange)
        self._pid = os.getpid()
        self._reducers = payload.NO_REDUCERS
        self._in_task = False
        self._finalizer: payload.Call | None = None
        signal.signal(signal.SIGINT, self._on_interrupt)
        on_soft_timeout(self._on_soft_timeout)

    def serve(self) -> None:
        while ticket := self._tickets.recv(_TICKET_SIZE):
            frame = self._frame_for(int.from_bytes(ticket, sys.byteorder))
            if frame is None or not self._obey(frame):
                return
            del frame  # with it the arguments of the call, however long the next one is waited for

    def _frame_for(self, number: int) -> Frame | None:
        """Return the frame that a ticket is for; None if the host has closed the channel.

        Those before it are of tickets that were taken back.
        """
        size = _RECEIVE_SIZE
        while True:
            while self._frames:
                frame = self._frames.popleft()
                if frame.task == number:
                    return frame
            piece, ancillary, _, _ = self._channel.recvmsg(size, FD_ROOM, socket.MSG_CMSG_CLOEXEC)
            if not piece:
                return None
            if ancillary:
                self._exchange.receive_fds(ancillary)
            if len(piece) == size:
                size = _LARGE_RECEIVE_SIZE
            for frame in self._reader.feed(piece):
                if frame.task or frame.kind < Kind.SEGMENT:
                    self._frames.append(frame)
                else:
                    self._exchange.heed(frame)

    def _obey(self, frame: Frame) -> bool:
        if frame.kind is Kind.QUIT:
            self._finalize()
            return False
        if frame.kind is Kind.INITIALIZE:
            return self._initialize(frame)
        if frame.kind in _BUNDLES:
            self._run_bundle(frame)
            return True
        if frame.kind is not Kind.RUN:
            self._get_ready_for_signals()
            if frame.kind is Kind.RUN_MEASURED:
                self._lender.trim()  # what earlier tasks have left counts as well
        self._run(frame.task, self._calls.loads, frame.payload, lends=frame.kind is not Kind.RUN_MEASURED)
        return True

    def _run_bundle(self, frame: Frame) -> None:
        """Run one item after the other, until the host has the rest run elsewhere."""
        name, rows = unpack_bundle(frame.payload)
        load = partial(self._calls.loads_row, name)
        has_limits = frame.kind is Kind.RUN_BUNDLE_WITHIN_LIMITS
        for number, row in enumerate(rows, frame.task):
            if not self._record.may_go_on(frame.task, number):
                self._answer(Kind.PARTED, number, b"", 0.0, None)
                return
            if has_limits:
                self._get_ready_for_signals()
            self._run(number, load, row, lends=True)

    def _get_ready_for_signals(self) -> None:
        heed_host()
        on_soft_timeout(self._on_soft_timeout)

    def _run(self, number: int, load: Callable[[_Packed], Parts], packed: _Packed, *, lends: bool) -> None:
        """Run a call, and have the host know what came of it."""
        begun = self._record.note(number)
        kind, answer, loan = self._outcome(load, packed, lends=lends)
        if os.getpid() != self._pid:
            os._exit(0)  # a child that the task forked has come back through it: the channel is its parent's
        self._answer(kind, number, answer, begun, loan)

    def _initialize(self, frame: Frame) -> bool:
        """Get ready, with the pool's reducers and initializer; a worker that cannot says so and leaves."""
        try:
            self._in_task = True
            if frame.payload:
                self._reducers, initializer, self._finalizer = pickle.loads(frame.payload)
                if initializer is not None:
                    fn, args = initializer
                    fn(*args)
            self._in_task = False
        except BaseException as error:
            self._in_task = False
            _log_critical("Exception in initializer:", error)
            self._send(Kind.UNFIT, _describe(error, self._reducers))
            return False
        self._send(Kind.READY, b"")
        return True

    def _finalize(self) -> None:
        """Run the finalizer, if there is one. What it raises is nobody's result."""
        if self._finalizer is not None:
            fn, args = self._finalizer
            try:
                fn(*args)
            except BaseException as error:
                _log_critical("Exception in finalizer:", error)

    def _outcome(
        self, load: Callable[[_Packed], Parts], packed: _Packed, *, lends: bool
    ) -> tuple[Kind, bytes, Loan | None]:
        try:
            try:
                self._in_task = True
                fn, args, kwargs = load(packed)
                value = fn(*args, **kwargs)
                if type(value) in _NUMBERS and not self._reducers:
                    answer = pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
                    return (Kind.PLAIN_RESULT if len(answer) < _JOINED_SIZE else Kind.RESULT), answer, None
                envelope, answer, loan = self._pack(value, lends=lends)
            finally:
                self._in_task = False
        except BaseException as error:  # a signal's, too, that came an instant after the task's own
            self._in_task = False
            return Kind.RAISED, _describe(error, self._reducers), None
        if loan is not None:
            return Kind.LENT_RESULT, envelope + answer, loan
        is_plain = payload.is_plain(value, len(answer)) and type(value) not in self._reducers
        return (Kind.PLAIN_RESULT if is_plain else Kind.RESULT), answer, None

    def _pack(self, value: object, *, lends: bool) -> tuple[bytes, bytes, Loan | None]:
        if type(value) is bytes and len(value) >= payload.LARGE and bytes not in self._reducers:
            value = payload.LargeBytes(value)
        if not lends or type(value) in payload.PLAIN_TYPES:
            return b"", payload.dumps(value, self._reducers), None
        return pack(self._lender, self._dumps, value)

    def _dumps(self, value: object, buffers: list[memoryview] | None) -> bytes:
        return payload.dumps(value, self._reducers, buffers)

    def _answer(self, kind: Kind, task: int, content: bytes, begun: float, loan: Loan | None) -> None:
        """Have the host know what came of a task, before the next one begins."""
        head = self._exchange.notes() + header(kind, task, len(content), begun, time.monotonic() - begun)
        segment = None if loan is None else self._exchange.lend(loan)
        if segment is None and len(content) <= _JOINED_SIZE:
            frame = head + content
            if not self._ring.put(frame):
                self._ring.wakes_host()
                self._channel.sendall(frame)
            elif self._ring.wakes_host():
                self._channel.sendall(_NUDGE)
            return
        # All by the channel: what is in the ring could be read before a segment.
        self._ring.wakes_host()
        if segment is not None:
            self._send_segment(segment)
        self._channel.sendall(head)
        self._channel.sendall(content)

    def _send_segment(self, segment: Segment) -> None:
        piece = segment.frame()
        self._channel.sendall(piece[send_segment(self._channel, piece, segment) :])

    def _send(self, kind: Kind, content: bytes) -> None:
        self._channel.sendall(header(kind, 0, len(content)) + content)

    def _on_interrupt(self, _signum: int, _frame: FrameType | None) -> None:
        """SIGINT is meant for a task; between tasks it must not tear a frame."""
        if self._in_task:
            raise KeyboardInterrupt

    def _on_soft_timeout(self, _signum: int, _frame: FrameType | None) -> None:
        """The host says that a task has run for its soft timeout; by now it may be over, and another one run."""
        warning = self._record.warning()
        if self._in_task and warning is not None:
            # Lazily: with it comes the standard library's pool, 5 ms that most workers never need.
            from safepool.errors import SoftTimeoutError

            limit, begun = warning
            raise SoftTimeoutError(timeout=limit, elapsed=time.monotonic() - begun)


def _log_critical(message: str, error: BaseException) -> None:
    """Say it where the standard library's workers do."""
    try:
        import logging  # lazily: with ``traceback`` 3 ms, and most workers never say anything

        logging.getLogger("concurrent.futures").critical(message, exc_info=error)
    except (ImportError, OSError):  # no descriptor is left to import with: the host learns of it all the same
        pass


def _describe(error: BaseException, reducers: payload.Reducers) -> bytes:
    """Pack an exception so that something of it arrives whatever its class does: itself, its name, its traceback."""
    inner = error.__traceback__.tb_next if error.__traceback__ else None  # without our own frame
    try:
        text = _format(error, inner)
    except BaseException:  # of its ``__str__``, or of what a traceback looks at
        text = payload.one_line(error)
    try:
        itself = bytes(payload.dumps(error, reducers))
        reason = ""
    except BaseException as failure:  # its class defines how it is pickled, so anything may be raised
        itself = b""
        reason = f"pickling it raised {payload.one_line(failure)}"
    return payload.dumps((itself, reason, payload.one_line(error), text))


def _format(error: BaseException, trace: TracebackType | None) -> str:
    """Return an exception as the interpreter prints it; without lines of source if there is nothing to read with."""
    try:
        import traceback  # lazily: see ``_log_critical``
    except (ImportError, OSError):  # a task that has used up all descriptors is one whose traceback is wanted
        lines = ["Traceback (most recent call last):\n"]
        while trace is not None:
            code = trace.tb_frame.f_code
            lines.append(f'  File "{code.co_filename}", line {trace.tb_lineno}, in {code.co_name}\n')
            trace = trace.tb_next
        return "".join([*lines, payload.one_line(error), "\n"])
    return "".join(traceback.format_exception(type(error), error, trace))
