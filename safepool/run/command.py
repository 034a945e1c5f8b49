"""``safepool run``: its options, and how it ends."""

from __future__ import annotations

import argparse
import contextlib
import os
from collections.abc import Callable
from typing import Any

__all__ = ["add_arguments", "main"]

_DEFAULT_GRACE = "5"

_EPILOG = """\
The command has its input, output, directory, environment and whatever descriptors the caller has passed on. Signals
sent to `safepool run` reach it. What it leaves running is ended when it ends, and when `safepool run` is killed.

TIME is a number of seconds, or one with a unit: 30, 1.5m, 2h. SIZE has a unit: 500MB, 2GiB.

exit status:
  that of the command, or death by the same signal (128+N to a shell);
  124  the command was ended because its time was up
  125  safepool run itself failed, or --strict cannot be had here; nothing was started
  126  the command was found, and could not be run
  127  the command was not found
  137  the command was ended because it held too much memory
  2    an option is wrong; nothing was started
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what the command takes."""
    parser.usage = "safepool run [--timeout TIME] [--grace TIME] [--memory SIZE] [--strict] -- COMMAND [ARGUMENT ...]"
    parser.epilog = _EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--timeout", metavar="TIME", help="end it after so long; it is sent SIGTERM first")
    parser.add_argument(
        "--grace",
        metavar="TIME",
        default=_DEFAULT_GRACE,
        help=f"from SIGTERM to the end, at the timeout; 0 for none (default: {_DEFAULT_GRACE})",
    )
    parser.add_argument("--memory", metavar="SIZE", help="end it when it holds more, with all that it has started")
    parser.add_argument(
        "--strict", action="store_true", help="give it a control group, which nothing that it starts can leave"
    )
    parser.add_argument("arguments", metavar="COMMAND", nargs=argparse.REMAINDER, help="what to run, and its arguments")


def main(options: argparse.Namespace, refuse: Callable[[str], Any]) -> int:
    """Run the command; ``refuse`` is called with what is wrong with the options, and does not return."""
    from safepool.run.limits import check_limits
    from safepool.run.supervision import run

    arguments: list[str] = options.arguments
    if arguments[:1] == ["--"]:
        arguments = arguments[1:]
    if not arguments:
        refuse("no command (safepool run -- COMMAND ARGUMENTS; --help says more)")
    try:
        limits = check_limits(options.timeout, options.grace, options.memory)
    except ValueError as error:
        refuse(str(error))
        raise
    return run(arguments, limits, _tell, is_strict=options.strict)


def _tell(line: str) -> None:
    """One line on standard error, if anybody reads it; unbuffered, since a child may say it."""
    with contextlib.suppress(OSError):
        os.write(2, f"safepool run: {line}\n".encode(errors="backslashreplace"))
