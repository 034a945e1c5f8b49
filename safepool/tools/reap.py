"""``safepool reap``: end what pools of this user have left behind whose host is gone."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import Any

__all__ = ["add_arguments", "main"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what the command takes."""
    parser.add_argument("--host", type=_pid, metavar="PID", help="only what the host with this number has left")
    parser.add_argument("--dry-run", action="store_true", help="show it, and end nothing")


def main(options: argparse.Namespace, refuse: Callable[[str], Any]) -> int:
    """Do what the options say; return 1 if something is left."""
    from safepool._os.features import why_not
    from safepool.tools.leftbehind import end, find
    from safepool.tools.units import printable

    if reason := why_not("proc"):
        refuse(f"there is no /proc to find anybody in ({reason})")
    left = find(options.host)
    if not left.processes:
        sys.stdout.write("nothing is left behind by pools of this user\n")
        return 0
    sys.stdout.write("left behind by pools whose host is gone:\n")
    sys.stdout.writelines(f"  {process.pid}  {printable(process.command)}\n" for process in left.processes)
    sys.stdout.flush()
    if options.dry_run:
        return 1
    survivors = end(left)
    for process in survivors:
        sys.stderr.write(f"safepool reap: process {process.pid} would not die: {printable(process.command)}\n")
    sys.stdout.write(f"ended: {len(left.processes) - len(survivors)} of {len(left.processes)}\n")
    return 1 if survivors else 0


def _pid(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is no process's number")
    return value
