"""All the ways to run a program: what it can import and how its interpreter is set up holds in its workers, too.

Scripts, ``-c``, standard input and the interactive session are in ``test_main_module.py``.
"""

from __future__ import annotations

import shutil
import sys
import sysconfig
import venv
import zipapp
from pathlib import Path

import pytest

import safepool
from contract.kinds import KINDS
from contract.scripts import run_python, run_script

NUMBERS = "def double(x):\n    return 2 * x\n"

# With dots where it stands in a package, without them where the archive is the root.
PROGRAM = """
from safepool import SafeProcessPoolExecutor
from {dots}numbers_of_it import double

STATE = None

class Point:
    def __init__(self, x):
        self.x = x

def make(x):
    return Point(double(x))

def double_late(x):
    from {dots}numbers_of_it import double
    return double(x)

def initialize(value):
    global STATE
    STATE = value

def state():
    return STATE

if __name__ == "__main__":
    with SafeProcessPoolExecutor(1, initializer=initialize, initargs=(5,)) as pool:
        point = pool.submit(make, 1).result()
        print(isinstance(point, Point), point.x, pool.submit(lambda p: p.x, point).result())
        print(pool.submit(double, 3).result(), pool.submit(double_late, 4).result(), pool.submit(state).result())
"""
EXPECTED = "True 2 2\n6 8 5\n"

# Importing the package must give the same module in the worker, whatever else of that name its path has.
WHERE_SAFEPOOL_IS = """
import os, safepool, safepool._worker.boot
from safepool import SafeProcessPoolExecutor

def places():
    return os.getpid(), safepool.__file__, safepool._worker.boot.__file__

if __name__ == "__main__":
    with SafeProcessPoolExecutor(1) as pool:
        (host, *here), (worker, *there) = places(), pool.submit(places).result()
        print(host != worker, here == there, here[0])
"""

SETTINGS = """
import sys
sys.path[:0] = {path!r}
from safepool import SafeProcessPoolExecutor

def settings():
    flags = str(sys.flags).replace("safe_path=True", "safe_path=False")  # which workers have from Python 3.13 on
    return flags, sys.warnoptions, sys._xoptions, __debug__

def holds(claim):
    return eval(claim)

if __name__ == "__main__":
    with SafeProcessPoolExecutor(1) as pool:
        there = pool.submit(settings).result()
        print(there == settings() or (there, settings()), pool.submit(holds, sys.argv[1]).result())
"""
FLAGS = {
    "-X utf8": "sys.flags.utf8_mode == 1",
    "-X dev": "sys.flags.dev_mode",
    "-X faulthandler": "sys._xoptions['faulthandler']",
    "-X int_max_str_digits=5000": "sys._xoptions['int_max_str_digits'] == '5000'",
    "-X of_the_program=value": "sys._xoptions['of_the_program'] == 'value'",
    "-W error": "sys.warnoptions == ['error']",
    "-W error::UserWarning": "sys.warnoptions == ['error::UserWarning']",
    "-b": "sys.flags.bytes_warning == 1",
    "-bb": "sys.flags.bytes_warning == 2",
    "-O": "not __debug__ and sys.flags.optimize == 1",
    "-OO": "not __debug__ and sys.flags.optimize == 2",
    "-B": "sys.dont_write_bytecode",
    "-I": "sys.flags.isolated",
    "-E": "sys.flags.ignore_environment",
    "-s": "sys.flags.no_user_site",
    "-S": "sys.flags.no_site",
    "-P": "sys.flags.safe_path",
}

# Says where it is by the kernel's word: a directory that is gone has no other name.
IN_A_DIRECTORY = """
import os, sys
from safepool import SafeProcessPoolExecutor

def place():
    return os.readlink("/proc/self/cwd")

def die():
    os._exit(3)
"""

removed_directory_serves = pytest.mark.skipif(
    (3, 13) <= sys.version_info < (3, 13, 3),
    reason="python -c cannot import socket in a directory that was removed (python/cpython#130932)",
)


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A package with a program of its own and one that is not its main module; another package inside it likewise."""
    outer, inner = tmp_path / "package", tmp_path / "package" / "inner"
    inner.mkdir(parents=True)
    (outer / "numbers_of_it.py").write_text(NUMBERS)
    for folder, dots in ((outer, "."), (inner, "..")):
        (folder / "__init__.py").touch()
        for name in ("__main__", "program"):
            (folder / f"{name}.py").write_text(PROGRAM.format(dots=dots))
    return outer


@pytest.mark.parametrize("module", ["package", "package.program", "package.inner", "package.inner.program"])
def test_package_run_with_m_has_its_main_module_and_its_relative_imports_in_tasks(package: Path, module: str) -> None:
    done = run_python("-m", module, directory=package.parent)

    assert (done.stdout, done.stderr) == (EXPECTED, "")


@pytest.mark.parametrize("archived", [False, True], ids=["folder", "archive"])
def test_application_in_one_piece_has_all_its_modules_in_tasks(tmp_path: Path, archived: bool) -> None:
    folder = tmp_path / "application"
    folder.mkdir()
    (folder / "numbers_of_it.py").write_text(NUMBERS)
    (folder / "__main__.py").write_text(PROGRAM.format(dots=""))

    done = run_python(str(_archive(folder) if archived else folder))

    assert (done.stdout, done.stderr) == (EXPECTED, "")


def test_workers_run_the_copy_of_safepool_that_their_host_runs(tmp_path: Path) -> None:
    """An archive that brings its own is not served by the one that is installed, which may be another version."""
    folder = tmp_path / "application"
    shutil.copytree(Path(safepool.__file__).parent, folder / "safepool", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "__main__.py").write_text(WHERE_SAFEPOOL_IS)
    archive = _archive(folder)

    done = run_python(str(archive))

    assert (done.stdout, done.stderr) == (f"True True {archive / 'safepool' / '__init__.py'}\n", "")


@pytest.mark.parametrize("by", ["path", "finder"])
def test_package_that_is_installed_as_editable_is_found_by_workers(tmp_path: Path, by: str) -> None:
    """As installers do it: a .pth file names the folder, or starts a finder that knows the package's."""
    sources = tmp_path / "sources"
    (sources / "editable").mkdir(parents=True)
    (sources / "editable" / "__init__.py").touch()
    (sources / "editable" / "numbers_of_it.py").write_text(NUMBERS)
    (sources / "editable" / "program.py").write_text(PROGRAM.format(dots="."))
    venv.create(tmp_path / "venv", symlinks=True)
    (site,) = (tmp_path / "venv").glob("lib/python*/site-packages")
    if by == "path":
        (site / "editable.pth").write_text(f"{sources}\n")
    else:
        (site / "editable.pth").write_text("import finder_of_editable\n")
        (site / "finder_of_editable.py").write_text(_finder(sources / "editable"))
    dependencies = [Path(safepool.__file__).parents[1], sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
    (site / "dependencies.pth").write_text("".join(f"{folder}\n" for folder in dependencies))

    python = tmp_path / "venv" / "bin" / "python"
    done = run_python("-m", "editable.program", directory=tmp_path, python=python, PYTHONPATH="")

    assert (done.stdout, done.stderr) == (EXPECTED, "")


def test_folder_put_on_sys_path_by_the_program_is_one_that_workers_import_from(tmp_path: Path) -> None:
    for name in ("before_the_pool", "before_the_task"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}.py").write_text("def name():\n    return __name__\n")
    program = f"""
import sys
from safepool import SafeProcessPoolExecutor

if __name__ == "__main__":
    sys.path.append({str(tmp_path / "before_the_pool")!r})
    import before_the_pool
    with SafeProcessPoolExecutor(1) as pool:
        sys.path.insert(0, {str(tmp_path / "before_the_task")!r})
        import before_the_task
        print(pool.submit(before_the_pool.name).result(), pool.submit(before_the_task.name).result())
"""
    done = run_script(tmp_path / "program.py", program)

    assert (done.stdout, done.stderr) == ("before_the_pool before_the_task\n", "")


def test_modules_from_wherever_the_program_was_are_found_by_workers(tmp_path: Path) -> None:
    """With ``-c``, as in a notebook, the current directory is on the path; which one that is, changes."""
    for name in ("at_first", "later"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"seen_{name}.py").write_text("def name():\n    return __name__\n")
    program = """
import os, seen_at_first
from safepool import SafeProcessPoolExecutor
os.chdir("../later")
import seen_later
with SafeProcessPoolExecutor(1) as pool:
    print(pool.submit(seen_at_first.name).result(), pool.submit(seen_later.name).result())
"""
    done = run_python("-c", program, directory=tmp_path / "at_first")

    assert (done.stdout, done.stderr) == ("seen_at_first seen_later\n", "")


@pytest.mark.parametrize("flag", FLAGS)
def test_flag_of_the_interpreter_holds_in_workers(tmp_path: Path, flag: str) -> None:
    if flag == "-P" and sys.version_info < (3, 11):
        pytest.skip("it came with Python 3.11")
    script = tmp_path / "program.py"
    script.write_text(SETTINGS.format(path=[entry for entry in sys.path if entry]))

    done = run_python(*flag.split(), str(script), f"bool({FLAGS[flag]})")

    assert (done.stdout, done.stderr) == ("True True\n", "")


def test_warning_that_a_flag_makes_an_error_is_one_in_tasks(tmp_path: Path) -> None:
    script = tmp_path / "program.py"
    script.write_text(
        "import warnings\n"
        "from safepool import SafeProcessPoolExecutor\n"
        "if __name__ == '__main__':\n"
        "    with SafeProcessPoolExecutor(1) as pool:\n"
        "        print(repr(pool.submit(warnings.warn, 'an error').exception()))\n"
        "        print(pool.submit(warnings.warn, 'none', DeprecationWarning).exception())\n"
    )
    done = run_python("-W", "ignore::DeprecationWarning", "-W", "error::UserWarning", str(script))

    assert (done.stdout, done.stderr) == ("UserWarning('an error')\nNone\n", "")


def test_workers_are_where_the_program_was_when_they_started(tmp_path: Path) -> None:
    program = f"""{IN_A_DIRECTORY}
if __name__ == "__main__":
    for name in "abc":
        os.mkdir(name)
    os.chdir("a")
    with SafeProcessPoolExecutor(1) as pool:
        os.chdir("../b")
        print(pool.submit(place).result())
        os.chdir("../c")
        print(pool.submit(place).result())
        pool.submit(die).exception()
        print(pool.submit(place).result())
"""
    script = tmp_path / "program.py"
    script.write_text(program)

    done = run_python(str(script), directory=tmp_path)

    # A worker that is there stays where it is, as in the standard library; one that takes its place starts anew.
    assert (done.stdout, done.stderr) == ("".join(f"{tmp_path / name}\n" for name in "bbc"), "")


@removed_directory_serves
def test_directory_that_is_removed_costs_no_worker(tmp_path: Path) -> None:
    (tmp_path / "removed").mkdir()
    (tmp_path / "another").mkdir()
    program = f"""{IN_A_DIRECTORY}
if __name__ == "__main__":
    with SafeProcessPoolExecutor(1) as pool:
        os.rmdir(os.getcwd())
        print(pool.submit(place).result() == place())
        pool.submit(die).exception()
        print(pool.submit(place).result() == place())
        os.chdir({str(tmp_path / "another")!r})
        pool.submit(die).exception()
        print(pool.submit(place).result() == place())
"""
    script = tmp_path / "program.py"
    script.write_text(program)

    done = run_python(str(script), directory=tmp_path / "removed")

    assert (done.stdout, done.stderr) == ("True\nTrue\nTrue\n", "")


@pytest.mark.parametrize("kind", KINDS)
def test_pool_in_a_directory_that_was_removed_is_refused_at_once(tmp_path: Path, kind: str) -> None:
    """By ``spawn``, which asks where it is; elsewhere the program has its pool."""
    (tmp_path / "removed").mkdir()
    program = f"""
import os
from contract.kinds import make_pool

if __name__ == "__main__":
    os.rmdir(os.getcwd())
    try:
        with make_pool({kind!r}) as pool:
            pool.submit(abs, -3)
    except FileNotFoundError:
        print("refused")
    os.chdir("/")
    with make_pool({kind!r}) as pool:
        print(pool.submit(abs, -3).result())
"""
    script = tmp_path / "program.py"
    script.write_text(program)

    done = run_python(str(script), directory=tmp_path / "removed")

    assert done.stdout == "refused\n3\n", done.stderr


def _archive(folder: Path) -> Path:
    archive = folder.with_suffix(".pyz")
    zipapp.create_archive(folder, archive)
    return archive


def _finder(package: Path) -> str:
    return f"""
import importlib.util, sys

class Finder:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == "editable":
            return importlib.util.spec_from_file_location(name, {str(package / "__init__.py")!r})

sys.meta_path.append(Finder)
"""
