"""Programs whose ``__main__`` workers cannot import, or had better not: by value, in one namespace per worker."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from contract.scripts import environment, run_script

PROGRAM = """
from safepool import SafeProcessPoolExecutor

STATE = None
LIMIT = 3

class Point:
    def __init__(self, x):
        self.x = x

class OwnError(Exception):
    pass

def initialize(value):
    global STATE
    STATE = value

def state():
    return STATE, LIMIT

def make(x):
    return Point(x + LIMIT)

def fail():
    raise OwnError("raised")

def factorial(n):
    return 1 if n < 2 else n * factorial(n - 1)

print("the program runs")
with SafeProcessPoolExecutor(1, initializer=initialize, initargs=(5,)) as pool:
    print(pool.submit(state).result())
    point = pool.submit(make, 4).result()
    print(isinstance(point, Point), point.x)
    LIMIT = 10
    print(pool.submit(state).result())
    print(pool.submit(factorial, 5).result(), pool.submit(lambda: LIMIT + 1).result())
    print(isinstance(pool.submit(fail).exception(), OwnError))

    def factorial(n):
        return "redefined"

    print(pool.submit(factorial, 5).result())
"""
EXPECTED = "the program runs\n(5, 3)\nTrue 7\n(5, 10)\n120 11\nTrue\nredefined\n"


def test_unguarded_script_runs_once_and_by_value(tmp_path: Path) -> None:
    done = run_script(tmp_path / "unguarded.py", PROGRAM)

    assert (done.stdout, done.stderr) == (EXPECTED, "")


@pytest.mark.parametrize("how", ["-c", "stdin"])
def test_program_without_a_file_runs_by_value(how: str) -> None:
    command = [sys.executable, "-c", PROGRAM] if how == "-c" else [sys.executable, "-"]
    done = subprocess.run(
        command,
        input=PROGRAM if how == "stdin" else None,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    assert (done.stdout, done.stderr) == (EXPECTED, "")


def test_interactive_session_runs_by_value() -> None:
    session = """from safepool import SafeProcessPoolExecutor
def double(x): return 2 * x

pool = SafeProcessPoolExecutor(1)
print(pool.submit(double, 21).result())
pool.shutdown()
"""
    done = subprocess.run(
        [sys.executable, "-i", "-q"],
        input=session,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    assert done.stdout.splitlines() == ["42"], done.stderr


def test_guarded_script_is_imported_as_spawn_does(tmp_path: Path) -> None:
    program = """
import multiprocessing
from safepool import SafeProcessPoolExecutor

print("imported as", __name__)

def name_of_main():
    return __name__

if __name__ == "__main__":
    with SafeProcessPoolExecutor(1) as pool:
        print(pool.submit(name_of_main).result())
"""
    done = run_script(tmp_path / "guarded.py", program)

    assert done.stderr == ""
    assert sorted(done.stdout.splitlines()) == ["__mp_main__", "imported as __main__", "imported as __mp_main__"]


def test_module_run_with_m_keeps_its_relative_imports(tmp_path: Path) -> None:
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "numbers_of_it.py").write_text("def double(x):\n    return 2 * x\n")
    (package / "program.py").write_text(
        "from safepool import SafeProcessPoolExecutor\n"
        "from .numbers_of_it import double\n"
        "def quadruple(x):\n"
        "    return double(double(x))\n"
        "if __name__ == '__main__':\n"
        "    with SafeProcessPoolExecutor(1) as pool:\n"
        "        print(pool.submit(double, 1).result(), pool.submit(quadruple, 1).result())\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "package.program"],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    assert (done.stdout, done.stderr) == ("2 4\n", "")


SEEN = '''
"""What a script sees while it is imported."""
import sys

SEEN = {
    "names": (__name__, __file__, __package__, __spec__, __doc__, __loader__, __cached__),
    "argv": list(sys.argv),
    "main": sys.modules["__main__"].__dict__ is globals(),
    "own": sys.modules[__name__].__dict__ is globals(),
}

class Annotated:
    x: int

def seen():
    main = sys.modules["__main__"]
    return {
        **SEEN,
        "after": (main.__name__, main is sys.modules["__mp_main__"], main.seen is seen, sys.argv[0] == SEEN["argv"][0]),
        "annotations": Annotated.__annotations__,  # a future statement of whoever compiled it would make it text
        "code": seen.__code__.co_filename,
    }

if __name__ == "__main__":
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor
    from safepool import SafeProcessPoolExecutor

    answers = []
    for pool in ProcessPoolExecutor(1, multiprocessing.get_context("spawn")), SafeProcessPoolExecutor(1):
        with pool:
            answers.append(pool.submit(seen).result())
    print(answers[0] == answers[1] or answers)
'''


@pytest.mark.parametrize("name", ["program.py", "program"])
def test_script_sees_the_same_when_it_is_imported_as_under_spawn(tmp_path: Path, name: str) -> None:
    """One with another ending is left to ``runpy``."""
    done = run_script(tmp_path / name, SEEN)
    assert done.stdout == "True\n", done.stdout + done.stderr


def test_script_that_says_when_to_collect_garbage_is_obeyed_in_workers(tmp_path: Path) -> None:
    program = """
import gc
SETTING
def ours():
    return gc.get_threshold(), gc.isenabled()

if __name__ == "__main__":
    from safepool import SafeProcessPoolExecutor
    with SafeProcessPoolExecutor(1) as pool:
        print(pool.submit(ours).result() == ours())
"""
    for setting in ("", "gc.disable()", "gc.set_threshold(123, 4, 5)", "gc.set_threshold(0)"):
        done = run_script(tmp_path / "program.py", program.replace("SETTING", setting))
        assert done.stdout == "True\n", (setting, done.stderr)
