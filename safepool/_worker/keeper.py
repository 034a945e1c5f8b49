"""Sees through the life of processes that have no pool: those of the multiprocessing context.

One thread per host, started with the first such process. When a process dies its tree is ended at once, whether or
not anybody asks after it; when it was told to terminate and does not, it is ended after a grace. The process itself
is left unreaped, as multiprocessing does: torch's SIGCHLD handler and others ask the kernel how it ended.
"""

from __future__ import annotations

import contextlib
import logging
import os
import selectors
import threading
import time

from safepool._os.contained import ContainedProcess
from safepool._os.janitor import janitor
from safepool._os.wakeup import Wakeup

__all__ = ["KeptProcess", "keep"]


_log = logging.getLogger("safepool")


class KeptProcess:
    """A contained process whose tree is ended with it, exactly once."""

    def __init__(self, contained: ContainedProcess) -> None:
        self.contained = contained
        self.end_at: float | None = None
        self._lock = threading.Lock()
        self._swept = False
        self._exit_status: int | None = None
        self._released = False

    def sweep(self) -> None:
        """End the tree, and wait until it is gone; a few milliseconds."""
        with self._lock:
            if not self._swept:
                self.contained.end_tree().run()
                self._swept = True

    def give_up(self) -> None:
        """Try no more to end its tree."""
        self._swept = True

    def bury(self) -> int | None:
        """End the tree, reap the process; return how it ended."""
        self.sweep()
        with self._lock:
            if not self._released:
                self._exit_status = self.contained.exit_status()
                self.contained.release()
                self._released = True
            return self._exit_status

    @property
    def is_over(self) -> bool:
        """True once the keeper has nothing left to do for it."""
        return self._swept

    @property
    def pidfd(self) -> int | None:
        """The process's pidfd for as long as there is something to wait for."""
        return None if self._swept else self.contained.pidfd

    def is_due(self, now: float) -> bool:
        """Return True if it is dead, or has not heeded SIGTERM for long enough, and its tree is still to be ended."""
        with self._lock:
            if self._swept:
                return False
            return self.contained.has_ended() or (self.end_at is not None and self.end_at <= now)


class _Keeper:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: set[KeptProcess] = set()
        self._wakeup = Wakeup()
        threading.Thread(target=self._run, name="safepool-keeper", daemon=True).start()

    def add(self, process: KeptProcess) -> None:
        with self._lock:
            self._kept.add(process)
        self._wakeup.set()

    def wake(self) -> None:
        self._wakeup.set()

    def _run(self) -> None:
        while True:
            with self._lock:
                self._kept = {process for process in self._kept if not process.is_over}
                kept = list(self._kept)
            now = time.monotonic()
            for process in kept:
                self._attend(process, now)
            self._wait(kept)
            with contextlib.suppress(OSError):  # no room for a new one just now: the next turn tries again
                janitor().ensure()

    def _attend(self, process: KeptProcess, now: float) -> None:
        try:
            if process.is_due(now):
                process.sweep()
        except Exception:  # one that cannot be ended must not keep the others from being
            _log.exception("ending the tree of process %d failed", process.contained.pid)
            process.give_up()

    def _wait(self, kept: list[KeptProcess]) -> None:
        with selectors.PollSelector() as selector:
            selector.register(self._wakeup.fd, selectors.EVENT_READ)
            if janitor().life_fd >= 0:
                selector.register(janitor().life_fd, selectors.EVENT_READ)
            for process in kept:
                pidfd = process.pidfd
                if pidfd is not None and pidfd >= 0:  # a joining thread may just have let go of it
                    selector.register(pidfd, selectors.EVENT_READ)
            instants = [process.end_at for process in kept if process.end_at is not None and not process.is_over]
            wait = max(0.0, min(instants) - time.monotonic()) if instants else None
            selector.select(wait)
        self._wakeup.clear()


_keeper: _Keeper | None = None
_keeper_lock = threading.Lock()


def keep(process: KeptProcess) -> None:
    """Have this process's tree ended when it dies, or when its ``end_at`` (monotonic seconds) has come."""
    global _keeper
    with _keeper_lock:
        if _keeper is None:
            _keeper = _Keeper()
    _keeper.add(process)


def _forget_in_child() -> None:
    global _keeper, _keeper_lock
    _keeper = None
    _keeper_lock = threading.Lock()


os.register_at_fork(after_in_child=_forget_in_child)
