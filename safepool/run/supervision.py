"""From the start of one command to the end of everything that it has started.

One thread, one wait: for a signal, until the nearest instant at which something is due. The death of the command and
its stops come as SIGCHLD, the death of the janitor as SIGIO.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Sequence

from safepool._os.contained import ContainedProgram
from safepool._os.control_group import make_sure
from safepool._os.features import is_shortage
from safepool._os.janitor import janitor
from safepool._os.memory import FIRST_LOOK, measure_trees, pause_after
from safepool._os.process_exit import read_stop, reap_adopted
from safepool._os.program import start_program
from safepool._os.signal_inbox import SignalInbox, Signalled, die_of, is_from_kernel
from safepool._os.terminal import find_terminal
from safepool._plain import NamedTuple
from safepool.run.foreground import Foreground, is_alone_in_foreground
from safepool.run.limits import Limits

__all__ = ["run"]

_TIMED_OUT = 124  # as timeout(1) has it
_FAILED = 125  # likewise
_NOT_INVOKED = 126  # as a shell has it
_NOT_FOUND = 127  # likewise
_OUTGROWN = 128 + signal.SIGKILL  # what the kernel's own OOM killer would have left
_SIGNALLED = 128

_STOPS = (signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU)
_LONGEST_WAIT = 86_400.0  # seconds
_JANITOR_RETRY = 1.0  # seconds until the next try to have a janitor, where there is none
_STANDARD_ERROR = 2
_MIB = 1 << 20
_NOT_STARTED = "{} could not be started: {}"
_REMEDY = "To get one: systemd-run --user --scope -p Delegate=yes safepool run --strict ..."


class _Verdict(NamedTuple):
    """Why the command is ended."""

    status: int
    reason: str


def run(command: Sequence[str], limits: Limits, tell: Callable[[str], None], *, is_strict: bool = False) -> int:
    """Run a command to its end; return the status to exit with, or die of the signal that it died of.

    Args:
        command: The program and its arguments.
        limits: What it may take.
        tell: Called with a line for whoever has called us.
        is_strict: It gets a control group of its own, or is not started.
    """
    name = repr(command[0])
    if is_strict:
        try:
            make_sure()  # before signals are blocked: it starts a process of its own
        except OSError as error:
            if is_shortage(error):
                tell(_NOT_STARTED.format(name, error.strerror))
            else:
                tell(f"--strict needs a control group (version 2) that it may divide: {error}. {_REMEDY}")
            return _FAILED
    try:
        contained, inbox, foreground = _start(command, tell, is_strict=is_strict)
    except OSError as error:
        tell(_NOT_STARTED.format(name, error.strerror))
        return _FAILED
    supervision = _Supervision(contained, inbox, foreground, limits)
    try:
        _let_go_of_standard_streams()
        supervision.wait()
    finally:
        survivors = contained.end_tree().run()
        status = contained.exit_status()
        if foreground is not None:
            foreground.leave(was_ended=supervision.verdict is not None)
        contained.release()
    if survivors:
        tell(f"of {name} and what it has started these would not die: {', '.join(map(str, survivors))}")
    if supervision.verdict is not None:
        tell(f"{name} {supervision.verdict.reason}")
        return supervision.verdict.status
    if status is None:
        tell(f"{name} has ended, and nobody can say how")
        return _FAILED
    if status < 0:
        die_of(-status)
        return _SIGNALLED - status  # we are the first process of a container
    return status


def _start(
    command: Sequence[str], tell: Callable[[str], None], *, is_strict: bool
) -> tuple[ContainedProgram, SignalInbox, Foreground | None]:
    """Start the command in its place: at our terminal if we have one, else in a session of its own."""

    def explain(error: OSError, is_of_exec: bool) -> int:
        if not is_of_exec:  # not the command's fault: a group that it cannot be put into is not found, either
            tell(_NOT_STARTED.format(repr(command[0]), error.strerror))
            return _FAILED
        tell(f"{command[0]!r}: {error.strerror}")
        return _NOT_FOUND if isinstance(error, FileNotFoundError | NotADirectoryError) else _NOT_INVOKED

    _occupy_standard_descriptors()
    inbox, terminal = SignalInbox(), find_terminal()
    if terminal is None:
        return start_program(command, inbox, explain, new_session=True, in_group=is_strict), inbox, None
    is_taken = is_alone_in_foreground(terminal)
    to_take = terminal if is_taken else None
    contained = start_program(command, inbox, explain, new_session=False, terminal=to_take, in_group=is_strict)
    return contained, inbox, Foreground(terminal, contained, inbox, is_taken=is_taken)


class _Supervision:
    """One command while it runs.

    Attributes:
        verdict: Why it is to end, once that is so.
    """

    def __init__(
        self, command: ContainedProgram, inbox: SignalInbox, foreground: Foreground | None, limits: Limits
    ) -> None:
        self.verdict: _Verdict | None = None
        self._command = command
        self._inbox = inbox
        self._foreground = foreground
        self._limits = limits
        now = time.monotonic()
        self._deadline = None if limits.timeout is None else now + limits.timeout
        self._measure_at = None if limits.memory is None else now + FIRST_LOOK

    def wait(self) -> None:
        """Wait until the command has ended, or is to be ended."""
        self._watch_janitor()
        while not self._command.has_ended():
            if self._is_to_end(time.monotonic()):
                break
            sent = self._inbox.next(self._wake_at() - time.monotonic())
            if sent is not None:
                self._attend(sent)
            if janitor().life_fd < 0:
                self._watch_janitor()

    def _wake_at(self) -> float:
        now = time.monotonic()
        instants = [now + _LONGEST_WAIT, self._deadline, self._measure_at]
        if janitor().life_fd < 0:
            instants.append(now + _JANITOR_RETRY)
        return min(instant for instant in instants if instant is not None)

    def _is_to_end(self, now: float) -> bool:
        if self._measure_at is not None and now >= self._measure_at and self._has_outgrown():
            return True
        if self._deadline is None or now < self._deadline:
            return False
        if self.verdict is None:
            self.verdict = _Verdict(_TIMED_OUT, f"was still running after {self._limits.timeout:g} s, and was ended")
            self._deadline = now + self._limits.grace
            if self._limits.grace:
                self._command.signal_group(signal.SIGTERM)
                self._command.signal_group(signal.SIGCONT)  # who is stopped cannot obey
        return now >= self._deadline

    def _has_outgrown(self) -> bool:
        limit = self._limits.memory
        assert limit is not None
        began = time.thread_time()
        try:
            (size,) = measure_trees([(self._command.members, limit)])
        except OSError:  # no descriptor to be had: the next look is soon enough
            size = 0
        self._measure_at = time.monotonic() + pause_after(time.thread_time() - began)
        if size > limit and self.verdict is None:
            self.verdict = _Verdict(
                _OUTGROWN,
                f"held {size / _MIB:.0f} MiB with all that it had started, above its limit of {limit / _MIB:.0f} MiB, "
                "and was ended",
            )
        return size > limit

    def _attend(self, sent: Signalled) -> None:
        if sent.si_signo == signal.SIGCHLD:
            self._on_child()
        elif sent.si_signo == signal.SIGIO:
            self._watch_janitor()
        elif sent.si_signo == signal.SIGCONT:
            self._continue()
        elif sent.si_signo in _STOPS and self._foreground is None:
            self._pause()
        else:
            self._pass_on(signal.SIGTSTP if sent.si_signo in _STOPS else sent.si_signo, is_from_kernel(sent))

    def _pass_on(self, signum: int, to_group: bool) -> None:
        """What a terminal sends is for a group; what a process sends is for the command, in whose place we stand."""
        if not (to_group and self._command.signal_group(signum)):
            self._command.send_signal(signum)

    def _on_child(self) -> None:
        reap_adopted(self._command.pid)
        stop = read_stop(self._command.pidfd)
        if stop is not None and self._foreground is not None:
            self._discount(self._foreground.on_stop(stop))

    def _continue(self) -> None:
        if self._foreground is not None:
            self._foreground.on_continue()
        else:
            self._command.signal_group(signal.SIGCONT)

    def _pause(self) -> None:
        """Without a terminal the command is in a session of its own, where SIGTSTP stops nobody."""
        began = time.monotonic()
        self._command.signal_group(signal.SIGSTOP)
        self._inbox.stop_ourselves(signal.SIGSTOP, with_group=False)
        self._command.signal_group(signal.SIGCONT)
        self._discount(time.monotonic() - began)

    def _discount(self, seconds: float) -> None:
        """Time in which it was stopped with us does not count."""
        if self._deadline is not None:
            self._deadline += seconds

    def _watch_janitor(self) -> None:
        with contextlib.suppress(OSError):  # no room for a process or a descriptor just now
            janitor().ensure()
            if janitor().life_fd >= 0:
                self._inbox.announce(janitor().life_fd)
                janitor().ensure()  # what happened before nobody would announce


def _occupy_standard_descriptors() -> None:
    """Where the caller has closed one of them, something of ours would take its number, and be taken for it."""
    while (fd := os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)) <= _STANDARD_ERROR:
        pass  # the command gets it closed
    os.close(fd)


def _let_go_of_standard_streams() -> None:
    """They are the command's: whoever reads or writes at their other ends is to notice when it closes them."""
    fd = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    os.dup2(fd, 0, inheritable=False)
    os.dup2(fd, 1, inheritable=False)
    os.close(fd)
