"""The first code that runs in a contained process, before anything of the user's.

1. Hold on to the lifeline and the switch (``_os.lifeline``); where the kernel does not watch the lifeline, have a
   thread do so (``_os.host_watch``).
2. Let faulthandler write stacks to the switch when the host asks: a signal handler in C, so it works while the GIL
   is held, in a loop in C, in a regex.
3. Go on as multiprocessing's own spawn does: preparation data, ``__main__``, then the process object.
"""

from __future__ import annotations

# What ``signal`` wraps: for each task that has a limit, its conversions to enums would take longer than the task.
import _signal  # type: ignore[import-not-found]  # private, and unknown to typeshed
import faulthandler
import gc
import os
import signal
import sys

from safepool._os import lifeline
from safepool._os.features import has

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType
    from typing import NoReturn

__all__ = ["SOFT_TIMEOUT_SIGNAL", "STACK_SIGNAL", "heed_host", "main", "on_soft_timeout"]

STACK_SIGNAL = signal.SIGRTMAX - 7  # near the end of the range that nothing claims; glibc takes from its beginning
SOFT_TIMEOUT_SIGNAL = signal.SIGRTMAX - 6
_HEEDED = {STACK_SIGNAL, SOFT_TIMEOUT_SIGNAL}

_switch_fd = -1
_BOOT_THRESHOLD = 100_000  # objects that are made before the first search for garbage


def main(lifeline_fd: int, switch_fd: int, program_fd: int, tracker_fd: int, *other_fds: int, host: int) -> NoReturn:
    """Run the program that the host, our parent, wrote into ``program_fd``; never returns."""
    lifeline.adopt_lifeline(lifeline_fd)
    watch = None
    if not has("setsig"):
        from safepool._os.host_watch import HostWatch  # lazily: few need it

        watch = HostWatch(lifeline_fd, host)
        watch.start()
    lifeline.adopt_switch(switch_fd)
    global _switch_fd
    _switch_fd = switch_fd
    heed_host()
    os.register_at_fork(after_in_child=_forget_stacks)
    for fd in (program_fd, tracker_fd, *other_fds):  # what was given to us is nobody else's, unless it is passed on
        os.set_inheritable(fd, False)

    thresholds = _collect_rarely()

    from multiprocessing import resource_tracker

    resource_tracker._resource_tracker._fd = tracker_fd  # type: ignore[attr-defined]  # as spawn_main does
    status = _run(program_fd, lifeline_fd, thresholds)  # the lifeline ends with the host
    if watch is not None:
        watch.look_once_more()
    sys.exit(status)


def _run(program_fd: int, parent_sentinel: int, thresholds: tuple[int, int, int]) -> int:
    """Do as ``multiprocessing.spawn._main`` does, but for how a script is imported (``main_module``)."""
    import pickle
    from multiprocessing import process, spawn

    from safepool._worker.main_module import import_script

    with open(program_fd, "rb") as program:
        process.current_process()._inheriting = True  # type: ignore[attr-defined]  # what is unpickled asks for it
        try:
            facts = pickle.load(program)
            script = facts.pop("init_main_from_path", None)
            spawn.prepare(facts)
            if script is not None:
                import_script(script)
            itself = pickle.load(program)
        finally:
            del process.current_process()._inheriting  # type: ignore[attr-defined]
    _collect_again(thresholds)
    status: int = itself._bootstrap(parent_sentinel)
    return status


def _collect_rarely() -> tuple[int, int, int]:
    """Imports make much that stays: to look through it for garbage takes 1 ms of the 30 of a start."""
    thresholds = gc.get_threshold()
    if thresholds[0]:  # zero is never
        gc.set_threshold(_BOOT_THRESHOLD)  # not ``disable``: where a program does that itself, it is to stay so
    return thresholds


def _collect_again(thresholds: tuple[int, int, int]) -> None:
    if gc.get_threshold()[0] == _BOOT_THRESHOLD:  # else the program has its own idea of it
        gc.set_threshold(*thresholds)


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
