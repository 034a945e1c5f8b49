"""The first code that runs in a contained process, before anything of the user's.

1. Hold on to the lifeline and the switch (``_os.lifeline``).
2. Let faulthandler write stacks to the switch when the host asks: a signal handler in C, so it works while the GIL
   is held, in a loop in C, in a regex.
3. Go on as multiprocessing's own spawn does: preparation data, ``__main__``, then the process object.
"""

from __future__ import annotations

# What ``signal`` wraps: for each task that has a limit, its conversions to enums would take longer than the task.
import _signal  # type: ignore[import-not-found]  # private, and unknown to typeshed
import faulthandler
import os
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import NoReturn

from safepool._os import lifeline

__all__ = ["SOFT_TIMEOUT_SIGNAL", "STACK_SIGNAL", "heed_host", "main", "on_soft_timeout"]

STACK_SIGNAL = signal.SIGRTMAX - 7  # near the end of the range that nothing claims; glibc takes from its beginning
SOFT_TIMEOUT_SIGNAL = signal.SIGRTMAX - 6
_HEEDED = {STACK_SIGNAL, SOFT_TIMEOUT_SIGNAL}

_switch_fd = -1


def main(lifeline_fd: int, switch_fd: int, program_fd: int, tracker_fd: int) -> NoReturn:
    """Run the program that the host wrote into ``program_fd``; never returns."""
    lifeline.adopt_lifeline(lifeline_fd)
    lifeline.adopt_switch(switch_fd)
    global _switch_fd
    _switch_fd = switch_fd
    heed_host()
    os.register_at_fork(after_in_child=_forget_stacks)
    os.set_inheritable(program_fd, False)

    from multiprocessing import resource_tracker, spawn

    resource_tracker._resource_tracker._fd = tracker_fd  # type: ignore[attr-defined]  # as spawn_main does
    sys.exit(spawn._main(program_fd, lifeline_fd))  # the lifeline ends with the host


def on_soft_timeout(handler: Callable[[int, FrameType | None], None]) -> None:
    """Have this called, from the main thread, when the host says that a task has used up its soft timeout."""
    _signal.signal(SOFT_TIMEOUT_SIGNAL, handler)


def heed_host() -> None:
    """Let the host's signals through.

    The host may have handed down a mask that blocks them, and a task may have reset every signal there is: the next
    one is to have its stacks and its soft timeout all the same.
    """
    _signal.pthread_sigmask(_signal.SIG_UNBLOCK, _HEEDED)
    faulthandler.unregister(STACK_SIGNAL)  # else ``register`` takes its own word for it that the handler is in place
    faulthandler.register(STACK_SIGNAL, file=_switch_fd, all_threads=True)


def _forget_stacks() -> None:
    """A forked child has no switch: its stacks would go to whatever is given the number next."""
    faulthandler.unregister(STACK_SIGNAL)
