"""The worker: receive a call, run it, send back what came of it.

One channel to the host and nobody else on it; no lock, no queue, nothing shared with other workers. Everything that
a call can raise, SystemExit and KeyboardInterrupt included, is its outcome; what ends the worker is only the host's
word, the end of the channel, or a fault.
"""

from __future__ import annotations

import os
import pickle
import signal
import socket
import time
from multiprocessing.context import SpawnProcess
from types import FrameType, TracebackType

from safepool._os.lifeline import close_in_forked_children
from safepool._worker import identity, payload
from safepool._worker.boot import SOFT_TIMEOUT_SIGNAL, heed_host
from safepool._worker.framing import Frame, FrameReader, Kind, header
from safepool._worker.record import StartRecord

__all__ = ["WorkerProcess"]

_RECEIVE_SIZE = 1 << 18  # bytes per read: the usual size of a socket's buffer
_JOINED_SIZE = 1 << 16  # bytes; up to here one copy costs less than a second system call


class WorkerProcess(SpawnProcess):
    """A worker as multiprocessing sees it; not daemonic, so that tasks may start processes of their own."""

    def __init__(self, number: int, channel_fd: int, record_fd: int, name: str) -> None:
        super().__init__(name=name, daemon=False)
        self._number = number
        self._channel_fd = channel_fd
        self._record_fd = record_fd

    def run(self) -> None:
        """Serve until the host says to leave."""
        os.set_inheritable(self._channel_fd, False)
        identity.become(self._number)
        close_in_forked_children(self._channel_fd)  # what a forked child writes there would pass for ours
        with socket.socket(fileno=self._channel_fd) as channel:
            record = StartRecord(self._record_fd)
            record.close()
            _Server(channel, record).serve()


class _Server:
    def __init__(self, channel: socket.socket, record: StartRecord) -> None:
        self._channel = channel
        self._record = record
        self._reader = FrameReader()
        self._pid = os.getpid()
        self._reducers = payload.NO_REDUCERS
        self._in_task = False
        self._finalizer: payload.Call | None = None
        signal.signal(signal.SIGINT, self._on_interrupt)
        signal.signal(SOFT_TIMEOUT_SIGNAL, self._on_soft_timeout)

    def serve(self) -> None:
        while True:
            piece = self._channel.recv(_RECEIVE_SIZE)
            if not piece:
                return  # the host has closed the channel; its death would have ended us
            for frame in self._reader.feed(piece):
                if not self._obey(frame):
                    return
            del piece

    def _obey(self, frame: Frame) -> bool:
        if frame.kind is Kind.QUIT:
            self._finalize()
            return False
        if frame.kind is Kind.INITIALIZE:
            return self._initialize(frame)
        if frame.kind is Kind.RUN_WITHIN_LIMITS:
            heed_host()
            signal.signal(SOFT_TIMEOUT_SIGNAL, self._on_soft_timeout)
        kind, answer = self._run(frame)
        if os.getpid() != self._pid:
            os._exit(0)  # a child that the task forked has come back through it: the channel is its parent's
        self._send(kind, frame.task, answer)
        return True

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
            self._send(Kind.UNFIT, 0, _describe(error, self._reducers))
            return False
        self._send(Kind.READY, 0, b"")
        return True

    def _finalize(self) -> None:
        """Run the finalizer, if there is one. What it raises is nobody's result."""
        if self._finalizer is not None:
            fn, args = self._finalizer
            try:
                fn(*args)
            except BaseException as error:
                _log_critical("Exception in finalizer:", error)

    def _run(self, frame: Frame) -> tuple[Kind, bytes]:
        try:
            try:
                self._record.note(frame.task)
                self._in_task = True
                fn, args, kwargs = pickle.loads(frame.payload)
                value = fn(*args, **kwargs)
                answer = payload.dumps(value, self._reducers)
            finally:
                self._in_task = False
        except BaseException as error:  # a signal's, too, that came an instant after the task's own
            self._in_task = False
            return Kind.RAISED, _describe(error, self._reducers)
        is_plain = payload.is_plain(value, len(answer)) and type(value) not in self._reducers
        return (Kind.PLAIN_RESULT if is_plain else Kind.RESULT), answer

    def _send(self, kind: Kind, task: int, content: bytes) -> None:
        head = header(kind, task, len(content))
        if len(content) <= _JOINED_SIZE:
            self._channel.sendall(head + content)
        else:
            self._channel.sendall(head)
            self._channel.sendall(content)

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
