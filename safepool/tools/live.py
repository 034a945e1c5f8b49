"""``safepool ps --watch`` at a terminal, with rich: one picture that fills the screen and is kept up to date.

On the terminal's other screen, which leaves the one with the shell's history as it was. Whatever names a process goes
in as plain text: no markup, no control character of somebody else's reaches the terminal.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import termios
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NoReturn

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from safepool.tools.ps import HEAD, cells, remarks, title, tree_lines
from safepool.tools.units import size

if TYPE_CHECKING:
    from types import FrameType

    from safepool.tools.pools import Host, Overview, Worker

__all__ = ["watch"]

_AWAITED = {signal.SIGWINCH, signal.SIGTSTP}
_SOON = 5.0  # seconds until something happens to a worker
_COLOURS = {"busy": "green", "idle": "dim", "starting": "yellow", "leaving": "yellow", "process": "green"}


def watch(look: Callable[[], Overview], every: float, *, with_trees: bool) -> None:
    """Draw anew each time that so many seconds are over, or the terminal has another size; until Ctrl-C.

    SIGTERM and the like end the program in order, so that the terminal is given back; so it is while we are stopped.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, _AWAITED)  # not handled: no picture is half drawn when one is met
    for signum in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, _leave)
    _wait_for_foreground()
    live = Live(console=Console(), screen=True, auto_refresh=False, redirect_stdout=False, redirect_stderr=False)
    with contextlib.suppress(KeyboardInterrupt), live:
        while True:
            live.update(_picture(look(), with_trees=with_trees), refresh=True)
            sent = signal.sigtimedwait(_AWAITED, every)
            if sent is not None and sent.si_signo == signal.SIGTSTP:
                live.stop()
                signal.raise_signal(signal.SIGTSTP)
                signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTSTP})  # here we are stopped
                signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTSTP})
                _wait_for_foreground()
                live.start()


def _wait_for_foreground() -> None:
    """Be stopped as long as the terminal is somebody else's, whom the picture would disturb.

    To wait from the background until a terminal's output is written stops us (SIGTTOU, tcdrain(3)), as often as need
    be. It changes nothing, as setting modes would: those are the shell's then. Where nobody could continue us it is an
    error.
    """
    with contextlib.suppress(termios.error):
        termios.tcdrain(sys.stdout.fileno())


def _leave(signum: int, _frame: FrameType | None) -> NoReturn:
    sys.exit(128 + signum)


def _picture(overview: Overview, *, with_trees: bool) -> Group:
    workers = [worker for host in overview.hosts for worker in host.workers]
    busy = sum(worker.state == "busy" for worker in workers)
    head = f"{len(overview.hosts)} hosts, {len(workers)} workers, {busy} busy; Ctrl-C to leave"
    parts = [Text(head, style="dim")]
    for host in overview.hosts:
        parts += [Text(), Text(title(host), style="bold"), *_lines(host, with_trees=with_trees)]
    parts += [Text(), *(Text(remark, style="yellow") for remark in remarks(overview))]
    for part in parts:
        part.no_wrap, part.overflow = True, "crop"  # an ellipsis is no character of every terminal
    return Group(*parts)


def _lines(host: Host, *, with_trees: bool) -> Iterator[Text]:
    rows = [HEAD, *(_cells(worker) for worker in host.workers)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    yield _line(rows[0], widths, ["dim"] * len(HEAD))
    for row, worker in zip(rows[1:], host.workers, strict=True):
        yield _line(row, widths, _styles(worker))
        if with_trees:
            yield from (Text(line, style="dim") for line in tree_lines(worker.pid, worker, "    "))


def _line(row: tuple[str, ...], widths: list[int], styles: list[str]) -> Text:
    padded = (f"  {cell:<{width}}" for cell, width in zip(row, widths, strict=True))
    return Text.assemble(*zip(padded, styles, strict=True))


def _cells(worker: Worker) -> tuple[str, ...]:
    *most, below = cells(worker)
    return *most, f"{below}, {size(sum(process.memory for process in worker.below))}" if worker.below else below


def _styles(worker: Worker) -> list[str]:
    styles = dict.fromkeys(HEAD, "")
    styles["STATE"] = _COLOURS.get(worker.state, "red")
    if worker.left is not None and worker.left < _SOON:
        styles["LEFT"] = "red"
    return list(styles.values())
