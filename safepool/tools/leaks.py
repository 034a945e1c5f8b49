"""Has a block of code left processes running? ``with no_leaks():`` fails if it has.

Whoever was there before the block is nobody's leak. Of those that have come since, it counts who descends from this
process, as far as parents tell, and who carries the marker of one of its pools, wherever it went. It is looked at this
process as a whole: what another thread starts meanwhile counts, too.

Not counted is who cleans up after others and leaves with this process (multiprocessing's resource tracker), for it is
meant to stay; nor a janitor.

Facts: a process is the same one as long as number and start time are (proc_pid_stat(5)). In the middle of an exec it
shows neither environment nor command line, so nobody can tell an orphan from a stranger just then, nor whether it
cleans up: it is looked again.
"""

from __future__ import annotations

import os
import signal
import time
from types import TracebackType

from safepool._os.command_line import NO_COMMAND, is_attendant
from safepool._os.marker import host_marker
from safepool._os.process_exit import has_ended, open_pidfd, send_signal
from safepool._os.process_table import (
    ProcessRow,
    command_of,
    environment_of,
    has_program,
    has_variable,
    list_rows,
    read_row,
    with_descendants,
)
from safepool._pool.door import check_proc, check_seconds
from safepool.errors import EndedProcess, LeakError

__all__ = ["NoLeaks", "no_leaks"]

_EXEC = 0.005  # seconds until somebody in the middle of an exec is looked at again
_PATIENCE = 5.0  # seconds for those that are killed to die
_LONGEST_EXEC = 1.0  # seconds; who shows nothing of itself for longer has made itself so


def no_leaks(*, patience: float = 2.0, end: bool = False) -> NoLeaks:
    """Return a context manager that fails if processes that were started within its block are alive after it.

    An exception that leaves the block passes on as it is, whatever was left: what matters is why the block failed.

    ::

        with safepool.no_leaks():
            my_library.run()

    Args:
        patience: Seconds within which those that are just leaving may leave. It is waited only while there are any.
        end: End what is left, with all beneath it, also where the block raised. By default nothing is touched.

    Raises:
        TypeError: An argument has the wrong type; the message names it.
        ValueError: ``patience`` is negative or not finite.
        RuntimeError: There is no /proc here, which alone tells who is there.
        LeakError: From the end of the block: something was left. Its ``processes`` say what.
    """
    check_proc("no_leaks()", "used")
    seconds = check_seconds("patience", patience, allow_zero=True)
    if seconds is None:
        raise TypeError("patience must be a number of seconds, not None: nobody would be told of what never leaves")
    if not isinstance(end, bool):
        raise TypeError(f"end must be True or False, not {end!r}")
    return NoLeaks(seconds, end=end)


class NoLeaks:
    """What ``no_leaks`` returns; can be entered again and again, one after the other."""

    def __init__(self, patience: float, *, end: bool) -> None:
        self._patience = patience
        self._end = end
        self._before: frozenset[tuple[int, int]] = frozenset()  # (pid, start) of everybody on the machine

    def __enter__(self) -> None:
        self._before = frozenset((row.pid, row.start) for row in list_rows())

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if kind is not None and not self._end:
            return
        left = self._wait()
        processes = tuple(EndedProcess(row.pid, command_of(row.pid) or NO_COMMAND) for row in left)
        ended = self._end_all(left) if self._end else ()
        if left and kind is None:
            raise LeakError(processes=processes, patience=self._patience, ended=ended)

    def _wait(self) -> list[ProcessRow]:
        """Return who is left when nobody is, or when patience is over."""
        began = time.monotonic()
        while True:
            left, unknown = self._look()
            passed = time.monotonic() - began
            if unknown and passed < _LONGEST_EXEC:
                _wait_for(unknown[0], _EXEC)
            elif not left or passed >= self._patience:
                return left
            else:
                _wait_for(left[0], self._patience - passed)

    def _look(self) -> tuple[list[ProcessRow], list[ProcessRow]]:
        """Return those of ours that have come since; and of everybody, who shows nothing of itself now."""
        rows = [row for row in list_rows() if not row.is_dead]
        fresh = [row for row in rows if (row.pid, row.start) not in self._before]
        marker = host_marker().encode()
        commands = {row.pid: command_of(row.pid) for row in fresh}  # first: who shows one has an exec behind him
        environments = {row.pid: environment_of(row.pid) for row in fresh}
        marked = {pid for pid, environment in environments.items() if has_variable(environment, marker)}
        ours = with_descendants({os.getpid(), *marked}, rows) - {os.getpid()}
        left = [row for row in fresh if row.pid in ours and not is_attendant(commands[row.pid])]
        blank = [row for row in fresh if not environments[row.pid] and not commands[row.pid] and has_program(row.pid)]
        return left, blank

    def _end_all(self, left: list[ProcessRow]) -> tuple[EndedProcess, ...]:
        """End them, with what they start meanwhile; return who was ended.

        Everybody is stopped before anybody is killed: with its parent an orphan would lose the only trace of it.
        """
        met: set[tuple[int, int]] = set()  # (pid, start)
        held: dict[int, EndedProcess] = {}  # by pidfd
        try:
            while fresh := [row for row in left if (row.pid, row.start) not in met]:
                met |= {(row.pid, row.start) for row in fresh}
                for row in fresh:
                    pidfd = _hold(row)
                    if pidfd is not None:
                        held[pidfd] = EndedProcess(row.pid, command_of(row.pid) or NO_COMMAND)
                        send_signal(pidfd, signal.SIGSTOP)
                left, _ = self._look()
            for pidfd in held:
                send_signal(pidfd, signal.SIGKILL)
            until = time.monotonic() + _PATIENCE
            return tuple(held[pidfd] for pidfd in held if has_ended(pidfd, max(0.0, until - time.monotonic())))
        finally:
            for pidfd in held:
                os.close(pidfd)


def _hold(row: ProcessRow) -> int | None:
    """Return a pidfd of this process; None if it is gone, or its number another's."""
    pidfd = open_pidfd(row.pid)
    if pidfd is None:
        return None
    now = read_row(row.pid)
    if now is None or now.start != row.start:
        os.close(pidfd)
        return None
    return pidfd


def _wait_for(row: ProcessRow, seconds: float) -> None:
    """Wait until it has ended, so many seconds at most."""
    pidfd = _hold(row)
    if pidfd is not None:
        try:
            has_ended(pidfd, seconds)
        finally:
            os.close(pidfd)
