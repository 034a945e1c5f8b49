"""Where user code runs in the host: unpickling of results, done-callbacks, the repr of arguments in messages.

Threads beside the supervisor, one for what makes outcomes and one for callbacks, so that a result that takes seconds
to unpickle delays other such results at most, a callback that sleeps other callbacks, and neither a deadline. Started
at the first need; they end when told, after the last call.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
from collections.abc import Callable

__all__ = ["Delivery"]

_log = logging.getLogger("safepool")


class Delivery:
    """Runs what it is given, in order."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.RLock()  # re-entrant, for calls that run right here because no thread is to be had
        self._queue: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def put(self, call: Callable[[], None]) -> None:
        """Have this run soon."""
        self._queue.put(call)
        with self._lock:
            self._ensure_thread()

    def _ensure_thread(self) -> None:
        if self._thread is None:
            thread = threading.Thread(target=self._run_as_thread, name=self._name, daemon=True)
            try:
                thread.start()
            except RuntimeError:  # the interpreter is ending, or the system has no room: better here than never
                self._queue.put(None)
                self._run()
            else:
                self._thread = thread  # it has said so itself, or is about to

    @property
    def thread_id(self) -> int | None:
        """The identity of the thread, once there is one."""
        return None if self._thread is None else self._thread.ident

    def stop(self, then: Callable[[], None] | None = None) -> None:
        """Have the thread end when everything that was given is done, and ``then`` with it."""
        if self._thread is None:
            if then is not None:
                then()
            return
        if then is not None:
            self._queue.put(then)
        self._queue.put(None)

    def join(self) -> None:
        """Wait for the thread's end; returns at once in the thread itself."""
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()

    def _run_as_thread(self) -> None:
        self._thread = threading.current_thread()  # before the first call, which may ask who it is that runs it
        self._run()

    def _run(self) -> None:
        while (call := self._queue.get()) is not None:
            try:
                call()
            except BaseException:
                with contextlib.suppress(BaseException):  # of the program's own log handler: there is more to deliver
                    _log.exception("delivering an outcome failed")
            del call  # with it, the last reference to a result may go
