"""Workers as programs look at them that were written for the standard library's executor.

They take them from its ``_processes``, to show their numbers or to end one. What is ended here is ended as if from
outside: its task fails with ``WorkerDiedError``, and the pool goes on.
"""

from __future__ import annotations

import signal

from safepool._os.contained import ContainedProcess

__all__ = ["WorkerHandle"]


class WorkerHandle:
    """A worker, with as much of ``multiprocessing.Process`` as makes sense for one that belongs to a pool."""

    def __init__(self, contained: ContainedProcess, number: int) -> None:
        self._contained = contained
        self.pid = contained.pid
        self.name = f"SafeProcessPoolWorker-{number}"
        self.daemon = False

    @property
    def sentinel(self) -> int:
        """A descriptor that is readable once the worker is dead; -1 when the pool has let go of it."""
        return self._contained.pidfd

    @property
    def exitcode(self) -> int | None:
        """How it ended; None while it lives."""
        return self._contained.exit_status()

    def is_alive(self) -> bool:
        """Return True until the worker is dead."""
        return not self._contained.has_ended()

    def join(self, timeout: float | None = None) -> None:
        """Wait for the worker's death, or for so many seconds."""
        self._contained.wait_until_ended(timeout)

    def terminate(self) -> None:
        """Send the worker SIGTERM."""
        self._contained.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send the worker SIGKILL."""
        self._contained.send_signal(signal.SIGKILL)
