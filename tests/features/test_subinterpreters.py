"""A pool in a second interpreter of the same process: where daemon threads may be, it works as in the first."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from support import census

pytestmark = pytest.mark.timeout(120)

MARK = f"UNDER_TEST_{os.urandom(8).hex()}"
# What the two names of the module have in common is little: before 3.13 an error is raised, from then on returned.
_RUN = """
import sys
try:
    import _interpreters as interpreters
except ImportError:
    import _xxsubinterpreters as interpreters
kind, code = sys.argv[1:]
if sys.version_info >= (3, 13):
    failure = interpreters.exec(interpreters.create("legacy" if kind == "shared" else "isolated"), code)
    print("failed:", failure.formatted) if failure else None
else:
    try:
        interpreters.run_string(interpreters.create(isolated=kind != "shared"), code)
    except interpreters.RunFailedError as failure:
        print("failed:", failure)
"""
_POOL = """
import safepool
with safepool.SafeProcessPoolExecutor(2) as pool:
    print(list(pool.map(abs, [-1, -2, -3])))
    hung = pool.submit(sum, __import__("itertools").repeat(1, 2**42), task_timeout=0.5)
    print(type(hung.exception(60)).__name__)
    print(pool.submit(pow, 2, 5).result(60))
"""


def run(kind: str) -> str:
    """Run the pool in a new interpreter of a new process; what is printed there."""
    path = os.pathsep.join(entry for entry in sys.path if entry)
    done = subprocess.run(
        [sys.executable, "-c", _RUN, kind, _POOL],
        env={**os.environ, "PYTHONPATH": path, MARK: "1"},
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
    )
    return done.stdout + done.stderr


def test_pool_in_an_interpreter_that_shares_the_lock_works_and_leaves_nothing() -> None:
    assert run("shared").splitlines() == ["[1, 2, 3]", "TaskTimeoutError", "32"]
    census.nobody(lambda: census.carrying(MARK))


@pytest.mark.skipif(sys.version_info < (3, 12), reason="interpreters with a lock of their own came with Python 3.12")
def test_interpreter_with_a_lock_of_its_own_is_told_that_it_cannot_have_a_pool() -> None:
    said = run("isolated")
    assert "failed:" in said
    assert "subinterpreter" in said
    census.nobody(lambda: census.carrying(MARK))
