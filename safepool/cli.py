"""``python -m safepool``, and the console script ``safepool``.

A command is a module with ``add_arguments(parser)`` and ``main(options, refuse)``: light to import, it loads what it
needs when it is asked for.
Wrong input is refused with one line on standard error and the exit status 2.

Where nobody is there any more to read what a command writes (EPIPE, since Python ignores SIGPIPE), it ends without a
word, with the status that a shell shows for a death by SIGPIPE. What cannot be written for another reason is one line,
and the status 1. After Ctrl-C it ends without a word, too, with a shell's status for that. Output is flushed here: when
the interpreter does it at its exit, it can only complain.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import os
import signal
import sys
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


_NOT_WRITTEN = 1
_NOT_READ = 128 + signal.SIGPIPE
_INTERRUPTED = 128 + signal.SIGINT
_OF_WRITING = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF}


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says; return the exit status."""
    try:
        try:
            status = _obey(arguments)
        except SystemExit:  # after --help, for one
            _flush()
            raise
        _flush()
    except BrokenPipeError:
        _let_go_of_output()
        return _NOT_READ
    except KeyboardInterrupt:
        return _INTERRUPTED
    except OSError as error:
        if error.errno not in _OF_WRITING:
            raise
        _let_go_of_output()
        with contextlib.suppress(OSError):  # nor may this be
            os.write(2, f"safepool: what there is to say cannot be written: {error.strerror}\n".encode())
        return _NOT_WRITTEN
    return status


def _obey(arguments: Sequence[str] | None) -> int:
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
    if sys.stdout is None and module is not run:  # it was closed (``>&-``), and only a command of ``run`` may do so
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))
    status: int = module.main(options, refuse)
    return status


def _flush() -> None:
    if sys.stdout is not None:
        sys.stdout.flush()


def _let_go_of_output() -> None:
    """What is left in the buffer goes nowhere, or it would be tried once more at exit, and complained of."""
    if sys.stdout is not None:
        fd = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        os.dup2(fd, sys.stdout.fileno())
        os.close(fd)
