"""Compile the whole standard library on a pool that is being sabotaged.

    python examples/quickstart.py [--limit N]

Every .py file of the running interpreter's standard library is parsed and compiled on a SafeProcessPoolExecutor. Into
the same pool, between the files, go three tasks that must never run in a program worth keeping: a regular expression
that backtracks until the end of time, a segmentation fault, and one that starts `sleep 1000` and hangs.

The claims, each checked, with exit status 0 only if all of them hold:

* every file's result equals the one that a plain loop in this process gives: no neighbour was harmed;
* each saboteur's future tells what happened to it;
* after the pool is gone a census, taken by another process, finds nothing that it left behind. That the census can
  see is shown first: it finds the `sleep 1000` while that is alive.
"""

from __future__ import annotations

import argparse
import ast
import ctypes
import hashlib
import os
import re
import select
import subprocess
import sysconfig
import tempfile
import threading
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, NoReturn

import census

from safepool import SafeProcessPoolExecutor, TaskTimeoutError, WorkerDiedError
from safepool._os.marker import host_marker

if TYPE_CHECKING:
    from types import CodeType

    from safepool import SafeFuture

    Saboteurs = list[SafeFuture[object]]

TASK_TIMEOUT = 30.0  # seconds; for the files, which need a tenth of a second or so
REGEX_TIMEOUT = 1.0
HANG_TIMEOUT = 5.0  # long enough for the census to be taken meanwhile
PATIENCE = 60.0  # seconds within which the hanging saboteur must have had its turn


class Compiled(NamedTuple):
    """What is compared: any difference in how a file was read, parsed or compiled shows here."""

    nodes: int
    bytecode: int
    digest: str


# --- tasks: these run in workers ----------------------------------------------------------------------------------


def compile_file(path: Path) -> Compiled | str:
    """Parse and compile one file; for those of the test suite that are broken on purpose, name the error."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # old test files are full of invalid escapes
        try:
            tree = ast.parse(path.read_bytes(), path)
            code = compile(tree, path, "exec")
        except (SyntaxError, ValueError) as error:
            return type(error).__name__
    digest = hashlib.sha256()
    size = _absorb(code, digest)
    return Compiled(sum(1 for _ in ast.walk(tree)), size, digest.hexdigest())


def _absorb(code: CodeType, digest: hashlib._Hash) -> int:
    digest.update(code.co_name.encode() + code.co_code)
    return len(code.co_code) + sum(_absorb(inner, digest) for inner in code.co_consts if isinstance(inner, type(code)))


def match_catastrophically() -> bool:
    """Try 2**64 ways to split a run of letters, in C, without ever letting go of the GIL."""
    return re.match(r"(a+)+$", "a" * 64 + "b") is not None


def read_address_zero() -> bytes:
    """Crash the interpreter."""
    return ctypes.string_at(0)


def start_sleeper_and_hang(doorbell: Path) -> NoReturn:
    """Leave a grandchild behind that outlives everything, say so, and never return."""
    sleeper = subprocess.Popen(["sleep", "1000"])
    doorbell.write_text(f"{sleeper.pid}\n")
    threading.Event().wait()
    raise AssertionError("unreachable: nobody sets that event")


# --- host ---------------------------------------------------------------------------------------------------------


def main() -> None:
    """Run everything; a claim that does not hold ends the program with status 1."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", type=int, help="compile only so many files (default: all)")
    files = standard_library()[: parser.parse_args().limit]

    print(f"{len(files)} files to compile, in a plain loop and then on a pool: give it a minute", flush=True)
    began = time.monotonic()
    expected = [compile_file(path) for path in files]
    print(f"in a plain loop: {time.monotonic() - began:.1f} s", flush=True)

    results, saboteurs = compile_beside_saboteurs(files)
    claim(results == expected, f"all {len(files)} files: the same results from the pool as from the loop")
    report(saboteurs)

    left = census.from_outside(host_marker(), os.getpid())
    print(*left, sep="\n", end="\n" if left else "")
    claim(not left, "census after the shutdown: no worker and no descendant is left")


def compile_beside_saboteurs(files: list[Path]) -> tuple[list[Compiled | str], Saboteurs]:
    """Submit the saboteurs in the middle of the files, and wait for everything."""
    middle = len(files) // 2
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, SafeProcessPoolExecutor(task_timeout=TASK_TIMEOUT) as pool:
        doorbell = Path(folder, "doorbell")
        os.mkfifo(doorbell)
        ahead = [pool.submit(compile_file, path) for path in files[:middle]]
        saboteurs: Saboteurs = [
            pool.submit(start_sleeper_and_hang, doorbell, task_timeout=HANG_TIMEOUT),
            pool.submit(match_catastrophically, task_timeout=REGEX_TIMEOUT),
            pool.submit(read_address_zero),
        ]
        behind = [pool.submit(compile_file, path) for path in files[middle:]]
        find_sleeper(wait_for_ring(doorbell))
        results = [future.result() for future in ahead + behind]
    print(f"on the pool, beside three saboteurs: {time.monotonic() - began:.1f} s")
    return results, saboteurs


def wait_for_ring(doorbell: Path) -> int:
    """Wait until the hanging saboteur has its grandchild, and return the grandchild's pid."""
    # Opened without waiting for the other end, so that a saboteur which never comes cannot hang this process.
    reader = os.open(doorbell, os.O_RDONLY | os.O_NONBLOCK)
    with open(reader) as ring:
        readable, _, _ = select.select([ring], [], [], PATIENCE)
        claim(bool(readable), "the saboteur started its grandchild")
        return int(ring.readline())


def find_sleeper(sleeper: int) -> None:
    """Show that the census sees a grandchild that is alive."""
    for _ in range(5):  # in the middle of its exec a process shows no environment: on a busy machine, for a while
        found = {resident.pid: resident for resident in census.from_outside(host_marker(), os.getpid())}
        if sleeper in found:
            break
    claim(sleeper in found, f"census meanwhile: it sees {found.get(sleeper)}")


def report(saboteurs: Saboteurs) -> None:
    """Print the three errors in full, and check that each tells its own story."""
    hung, backtracked, crashed = (saboteur.exception() for saboteur in saboteurs)
    for error in (hung, backtracked, crashed):
        print(f"\n{type(error).__name__}: {error}")
    print()
    claim(
        isinstance(hung, TaskTimeoutError) and any("sleep" in process.command for process in hung.ended),
        "the hanging task timed out, and its error names the grandchild that was ended with it",
    )
    claim(
        isinstance(backtracked, TaskTimeoutError) and "match_catastrophically" in backtracked.stack,
        "the regular expression timed out, and its error shows the line it hung on",
    )
    claim(
        isinstance(crashed, WorkerDiedError) and "SIGSEGV" in str(crashed),
        "the crash became the error of its own task",
    )


def standard_library() -> list[Path]:
    """List the .py files of the running interpreter's standard library, without what was installed into it."""
    root = Path(sysconfig.get_path("stdlib"))
    foreign = {"site-packages", "dist-packages"}
    return [path for path in sorted(root.rglob("*.py")) if foreign.isdisjoint(path.parts)]


def claim(holds: bool, what: str) -> None:
    """Print a claim that holds; end the program with the one that does not."""
    if not holds:
        raise SystemExit(f"FAILED: {what}")
    print(f"ok: {what}")


if __name__ == "__main__":
    main()
