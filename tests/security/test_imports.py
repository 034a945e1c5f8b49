"""Nothing is run or imported from a place where others may write: neither the current directory nor TMPDIR."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from contract.scripts import environment
from support.hosts import Program

pytestmark = pytest.mark.timeout(60)

_TRAP = """
import os
with open("/proc/self/cmdline", "rb") as file:
    command = file.read().replace(b"\\0", b" ")
fd = os.open({log!r}, os.O_WRONLY | os.O_APPEND)
os.write(fd, {name!r}.encode() + b": " + command + b"\\n")
os.close(fd)
raise ImportError("a trap")
"""
# The janitor ends, and with it all that it imports, before nothing is left of the program. What the context starts is
# there as well, with its keeper, and in the worker a process of its own.
_PROGRAM = """
import subprocess, sys
import safepool
from support.rendezvous import report
from security.acts import start_process

if __name__ == "__main__":
    with safepool.SafeProcessPoolExecutor(1) as pool:
        assert pool.submit(abs, -3).result(60) == 3
        assert pool.submit(start_process).result(60) == 0
    process = safepool.get_context().Process(target=abs, args=(-3,))
    process.start()
    process.join()
    assert process.exitcode == 0
    report(sys.argv[1], "done")
"""


@pytest.fixture
def trapped(tmp_path: Path) -> tuple[Path, Path]:
    """A directory that everybody may write to, with a trap under the name of every module that there is; and a log."""
    folder, log = tmp_path / "anybody's", tmp_path / "log"
    folder.mkdir()
    folder.chmod(0o1777)
    log.touch()
    for name in {*sys.stdlib_module_names, "safepool", "sitecustomize", "usercustomize", "cloudpickle", "psutil"}:
        (folder / f"{name}.py").write_text(_TRAP.format(name=name, log=str(log)))
    return folder, log


def run_in(program: Program, folder: Path, *flags: str) -> None:
    script = program.directory / "program.py"
    script.write_text(_PROGRAM)
    program.run(
        ["env", "-C", str(folder), f"TMPDIR={folder}", sys.executable, *flags, str(script), program.rendezvous.path]
    )


def test_nothing_comes_from_a_current_directory_that_the_host_does_not_import_from(make_program, trapped) -> None:
    """But for the standard library's resource tracker, which every program with multiprocessing starts like this."""
    folder, log = trapped
    armed = subprocess.run([sys.executable, "-c", "import json"], cwd=folder, capture_output=True, check=False)
    assert armed.returncode != 0
    assert log.read_text()
    log.write_text("")
    program = make_program()

    run_in(program, folder)

    assert program.finish() == 0, program.stderr
    program.leaves_nothing()
    sprung = [line for line in log.read_text().splitlines() if "resource_tracker import main" not in line]
    assert sprung == []


@pytest.mark.skipif(sys.version_info < (3, 11), reason="-P came with Python 3.11")
def test_host_that_does_not_look_there_has_a_tracker_that_does_not_either(make_program, trapped) -> None:
    """What ``SECURITY.md`` advises."""
    folder, log = trapped
    program = make_program()

    run_in(program, folder, "-P")

    assert program.finish() == 0, program.stderr
    program.leaves_nothing()
    assert log.read_text() == ""


def test_tracebacks_are_made_without_a_look_into_the_current_directory(trapped) -> None:
    """The modules for that are imported when a task fails, long after the start."""
    folder, log = trapped
    program = (
        "from safepool import SafeProcessPoolExecutor\n"
        "if __name__ == '__main__':\n"
        "    with SafeProcessPoolExecutor(1) as pool:\n"
        "        error = pool.submit(int, 'none').exception()\n"
        "    print(type(error).__name__, 'ValueError' in str(error.__cause__))\n"
    )
    script = folder.parent / "failing.py"
    script.write_text(program)

    done = subprocess.run(
        [sys.executable, str(script)], cwd=folder, env=environment(), capture_output=True, text=True, check=False
    )

    assert done.stdout == "ValueError True\n", done.stderr
    sprung = [line for line in log.read_text().splitlines() if "resource_tracker import main" not in line]
    assert sprung == []
