"""Where user code runs in the host: unpickling of results, done-callbacks, the repr of arguments in messages.

A thread beside the supervisor, so that a callback that sleeps, or a result that takes seconds to unpickle, delays
other such results at most, and nobody's deadline. Started at the first need; ends when told, after the last.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable

__all__ = ["Delivery"]

_log = logging.getLogger("safepool")


class Delivery:
    """Runs what it is given, in order."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def put(self, call: Callable[[], None]) -> None:
        """Have this run soon. Only the supervisor calls it."""
        self._queue.put(call)
        if self._thread is None:
            thread = threading.Thread(target=self._run, name="safepool-delivery", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # the interpreter is ending, or the system has no room: better here than never
                self._queue.put(None)
                self._run()
            else:
                self._thread = thread

    def stop(self) -> None:
        """Have the thread end when everything that was given is done."""
        if self._thread is not None:
            self._queue.put(None)

    def join(self, timeout: float | None = None) -> None:
        """Wait for the thread's end; returns at once in the thread itself."""
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout)

    def _run(self) -> None:
        while (call := self._queue.get()) is not None:
            try:
                call()
            except BaseException:
                _log.exception("delivering an outcome failed")
            del call  # with it, the last reference to a result may go
