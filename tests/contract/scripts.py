"""Run a text as a program of its own: what happens at the end of an interpreter cannot be seen from inside."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def run_script(path: Path, text: str) -> subprocess.CompletedProcess[str]:
    """Write the program, run it to its end, and return what it said; it can import what this process can."""
    path.write_text(text, encoding="utf-8")
    return run_python(str(path))


def run_python(
    *arguments: str, directory: Path | None = None, python: Path | str = sys.executable, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run an interpreter to its end, with these arguments, in that directory, and return what it said."""
    return subprocess.run(
        [python, *arguments],
        cwd=directory,
        env={**environment(), **variables},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def start_script(path: Path, text: str) -> subprocess.Popen[str]:
    """Write the program and start it in a session of its own."""
    path.write_text(text, encoding="utf-8")
    return subprocess.Popen(
        [sys.executable, str(path)],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}
