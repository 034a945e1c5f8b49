"""Start a bare interpreter with a small program of ours, no worker: the janitor, or a guardian.

It is a bare interpreter, isolated and without site-packages, since it is to be up in milliseconds; so it is told where
this package is. It is in a session of its own, out of reach of a terminal's signals, and carries no marker.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from multiprocessing import spawn
from os.path import abspath, dirname

from safepool._os.environment import for_bare

__all__ = ["PACKAGE_ROOT", "start_bare"]

PACKAGE_ROOT = dirname(
    dirname(dirname(abspath(__file__)))
)  # the directory (or archive) that ``import safepool`` comes from

_OPENING = f"import sys; sys.path.append({PACKAGE_ROOT!r}); "  # last: a standard module is never looked for there


def start_bare(program: str, pass_fds: Sequence[int], output: int | None = None) -> subprocess.Popen[bytes]:
    """Start a program, given as text in Python; it may import this package, and reads nothing.

    Args:
        program: What it runs.
        pass_fds: What it inherits.
        output: Where its output and errors go, as ``subprocess`` has it; by default where ours do.

    Raises:
        OSError: There is no room for a process or a descriptor, or no interpreter.
    """
    return subprocess.Popen(
        [os.fsdecode(spawn.get_executable()), "-I", "-S", "-c", _OPENING + program],
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        start_new_session=True,
        pass_fds=pass_fds,
        env=for_bare(),
    )
