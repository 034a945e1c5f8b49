"""``safepool ps``: the live pools of this user, seen from outside."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import select
import shutil
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from safepool.tools.pools import Below, Host, Overview, Worker

__all__ = ["HEAD", "add_arguments", "cells", "main", "remarks", "title", "tree_lines"]

_EVERY = 1.0  # seconds between two looks
HEAD = ("PID", "STATE", "TASK", "FOR", "LEFT", "RUNS", "MEMORY", "CPU", "BELOW")
_HOME, _CLEAR_LINE, _CLEAR_REST = "\x1b[H", "\x1b[K", "\x1b[J"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what the command takes."""
    parser.add_argument("--tree", action="store_true", help="show the processes beneath each worker")
    parser.add_argument("--json", action="store_true", help="write everything that is known, for programs")
    parser.add_argument("--watch", action="store_true", help="look again every second, until Ctrl-C")


def main(options: argparse.Namespace, refuse: Callable[[str], Any]) -> int:
    """Do what the options say; ``refuse`` is called with what is wrong with them, and does not return."""
    from safepool._os.features import why_not
    from safepool.tools.pools import look

    if reason := why_not("proc"):
        refuse(f"there is no /proc to find anybody in ({reason})")
    if options.json and options.watch:
        refuse("--json shows one moment: it cannot be had with --watch")
    if options.json:
        sys.stdout.write(json.dumps(_as_json(look()), indent=1) + "\n")
    elif options.watch:
        live = _live_view()
        if live is None:
            _watch(lambda: _render(look(), with_trees=options.tree))
        else:
            live(look, _EVERY, with_trees=options.tree)
    else:
        sys.stdout.write(_render(look(), with_trees=options.tree))
    return 0


def _live_view() -> Callable[..., None] | None:
    """Return what draws on a terminal; None where there is none, or without rich, which is not required."""
    if not sys.stdout.isatty() or os.environ.get("TERM", "dumb") == "dumb":
        return None
    try:
        from safepool.tools.live import watch
    except ImportError:
        return None
    return watch


def _watch(picture: Callable[[], str]) -> None:
    """Draw anew until Ctrl-C; a terminal is drawn over, and all else gets one picture after the other."""
    is_terminal = sys.stdout.isatty()
    with contextlib.suppress(KeyboardInterrupt):
        while True:
            text = picture()
            if is_terminal:
                size = shutil.get_terminal_size()
                lines = [line[: size.columns] + _CLEAR_LINE for line in text.splitlines()[: size.lines - 1]]
                text = _HOME + "\n".join(lines) + "\n" + _CLEAR_REST
            else:
                text += "\n"
            sys.stdout.write(text)
            sys.stdout.flush()
            select.select([], [], [], _EVERY)


def _render(overview: Overview, *, with_trees: bool) -> str:
    lines: list[str] = []
    for host in overview.hosts:
        lines += [*_lines_of(host, with_trees=with_trees), ""]
    return "\n".join([*lines, *remarks(overview)]).rstrip() + "\n"


def remarks(overview: Overview) -> Iterator[str]:
    """Yield what is to be said beside the hosts."""
    if not overview.hosts:
        yield "no live pools of this user"
    if overview.left_behind:
        yield f"left behind by pools whose host is gone: {overview.left_behind} (safepool reap --dry-run)"
    if overview.elsewhere:
        yield f"of pools whose host cannot be told from here (a container's, perhaps): {overview.elsewhere}"


def _lines_of(host: Host, *, with_trees: bool) -> Iterator[str]:
    yield title(host)
    table = [HEAD, *(cells(worker) for worker in host.workers)]
    widths = [max(len(row[column]) for row in table) for column in range(len(HEAD))]
    for row, worker in zip(table, (None, *host.workers), strict=True):
        yield "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        if worker is not None and with_trees:
            yield from tree_lines(worker.pid, worker, "    ")


def title(host: Host) -> str:
    """Return the line above a host's workers."""
    from safepool.tools.units import duration, printable, size

    use = f"{size(host.memory)}, {duration(host.cpu)} of CPU"
    return f"host {host.pid}{' (stopped)' if host.is_stopped else ''}: {printable(host.command)}  [{use}]"


def cells(worker: Worker) -> tuple[str, ...]:
    """Return what stands below each word of ``HEAD``."""
    from safepool.tools.units import duration, size

    return (
        str(worker.pid),
        worker.state,
        "-" if worker.task is None else f"#{worker.task}",
        "-" if worker.running is None else duration(worker.running),
        "-" if worker.left is None else duration(worker.left),
        "-" if worker.runs is None else str(worker.runs),
        size(worker.memory),
        duration(worker.cpu),
        str(len(worker.below)),
    )


def tree_lines(pid: int, worker: Worker, indent: str) -> Iterator[str]:
    """Yield a line for each child, its own children beneath it; those whose parent has gone stand beside the first."""
    present = {below.pid for below in worker.below}
    for below in worker.below:
        if below.parent == pid or (pid == worker.pid and below.parent not in present):
            yield f"{indent}{_line(below)}"
            yield from tree_lines(below.pid, worker, indent + "  ")


def _line(below: Below) -> str:
    from safepool.tools.units import duration, printable, size

    return f"{below.pid} {printable(below.command)}  [{size(below.memory)}, {duration(below.cpu)} of CPU]"


def _as_json(overview: Overview) -> dict[str, Any]:
    return {
        "hosts": [
            {**vars(host), "workers": [_worker_as_json(worker) for worker in host.workers]} for host in overview.hosts
        ],
        "left_behind": overview.left_behind,
        "elsewhere": overview.elsewhere,
    }


def _worker_as_json(worker: Worker) -> dict[str, Any]:
    return {**vars(worker), "below": [vars(below) for below in worker.below]}
