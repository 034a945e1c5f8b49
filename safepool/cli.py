"""``python -m safepool``, and the console script ``safepool``.

A command is a module with ``add_arguments(parser)`` and ``main(options, refuse)``: light to import, it loads what it
needs when it is asked for.
Wrong input is refused with one line on standard error and the exit status 2.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import NoReturn

from safepool._os import features
from safepool.bench import command as bench
from safepool.run import command as run
from safepool.tools import doctor, ps, reap

__all__ = ["main"]

_COMMANDS = {
    "bench": (bench, "measure this library and others at the same work"),
    "run": (run, "run a command of which nothing is left, whoever dies"),
    "doctor": (doctor, "try what this machine can promise, and say what is missing"),
    "ps": (ps, "show the live pools of this user"),
    "reap": (reap, "end what pools of this user have left behind whose host is gone"),
}


class _Parser(argparse.ArgumentParser):
    """A parser that complains in one line."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong, and leave."""
        self.exit(2, f"{self.prog}: {' '.join(message.split())}\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says; return the exit status."""
    parser = _Parser(prog="safepool", description="A process pool in which nothing is left behind.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    parsers: dict[str, _Parser] = {}
    for name, (module, summary) in _COMMANDS.items():
        parsers[name] = commands.add_parser(name, help=summary, description=f"{summary.capitalize()}.")
        module.add_arguments(parsers[name])
    options = parser.parse_args(arguments)
    module, _ = _COMMANDS[options.command]
    refuse = parsers[options.command].error
    try:
        features.disabled()
    except ValueError as error:
        refuse(str(error))
    status: int = module.main(options, refuse)
    return status
