"""What holds for the package as a whole: its facade, its floors, and what an installation consists of."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
from pathlib import Path

import pytest

import safepool
import safepool.errors

TESTS = Path(__file__).resolve().parent
CHECKOUT = TESTS.parent

PROMISED = {
    "EndedProcess",
    "InitializerError",
    "LeakError",
    "LeftoverWarning",
    "QueueFullError",
    "SafeFuture",
    "SafeProcessPoolExecutor",
    "SoftTimeoutError",
    "TaskKilledError",
    "TaskMemoryError",
    "TaskTimeoutError",
    "ThisWorker",
    "TransferError",
    "WorkerDiedError",
    "cpu_count",
    "get_context",
    "get_reusable_executor",
    "get_worker",
    "no_leaks",
    "process",
}

# What a worker must not have to import for a facade that it never uses.
COSTLY = {"asyncio", "cloudpickle", "concurrent.futures.process", "loky", "multiprocessing", "psutil"}


def test_facade_offers_every_promised_name() -> None:
    assert set(safepool.__all__) >= PROMISED


def test_facade_resolves_every_name_it_lists() -> None:
    assert [name for name in safepool.__all__ if not hasattr(safepool, name)] == []
    assert set(safepool.__all__) <= set(dir(safepool))


def test_facade_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = safepool.no_such_name


def test_facade_and_errors_module_name_the_same_classes() -> None:
    both = set(safepool.__all__) & set(safepool.errors.__all__)
    assert {name for name in both if getattr(safepool, name) is not getattr(safepool.errors, name)} == set()


def test_facade_alone_imports_nothing_costly() -> None:
    code = f"import json, sys, safepool; print(json.dumps(sorted({COSTLY!r} & set(sys.modules))))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)
    assert json.loads(answer.stdout) == []


def test_installation_has_the_package_its_command_and_nothing_else() -> None:
    try:
        files = importlib.metadata.files("safepool") or []
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("runs from the checkout, not installed")
    folders = {file.parts[0] for file in files}
    if "safepool" not in folders:
        pytest.skip("an editable installation lists no modules")
    others = {folder for folder in folders if folder != "safepool" and not folder.endswith(".dist-info")}
    assert others <= {".."}
    assert {file.name for file in files if file.parts[0] == ".."} == {"safepool"}  # the console script
    assert "safepool/py.typed" in {file.as_posix() for file in files}
    plugins = importlib.metadata.distribution("safepool").entry_points.select(group="pytest11")
    assert {plugin.value for plugin in plugins} == {"safepool.tools.pytest_plugin"}


def test_test_folders_do_not_hide_standard_modules() -> None:
    """The folder tests/ is on sys.path, where ``tests/typing/__init__.py`` would take the place of ``typing``."""
    modules = {path.stem for path in TESTS.glob("*.py")} | {path.parent.name for path in TESTS.glob("*/__init__.py")}
    assert modules & sys.stdlib_module_names == set()


def test_floors_import_strictly_downward() -> None:
    pytest.importorskip("importlinter", reason="import-linter runs in the lint environment")
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command; lint_imports_command()"]
    linted = subprocess.run(
        [*command, "--no-cache"], cwd=CHECKOUT, capture_output=True, text=True, check=False, timeout=50
    )
    assert linted.returncode == 0, linted.stdout + linted.stderr
