"""Run the interpreter's own process-pool tests (spawn) against our executor; print what did not pass, as JSON.

Run as a program of its own: the tests look at threads, children and standard error of their process.
"""

from __future__ import annotations

import importlib
import json
import sys
import unittest
from types import ModuleType
from typing import Any

from safepool import SafeProcessPoolExecutor

MODULES = ("as_completed", "deadlock", "init", "process_pool", "shutdown", "wait")


def own_modules() -> list[ModuleType]:
    """Return the interpreter's test modules, made to use our executor."""
    if sys.version_info >= (3, 12):
        util = importlib.import_module("test.test_concurrent_futures.util")
        util.ProcessPoolSpawnMixin.executor_type = SafeProcessPoolExecutor
        return [importlib.import_module(f"test.test_concurrent_futures.test_{name}") for name in MODULES]
    module = importlib.import_module("test.test_concurrent_futures")
    module.ProcessPoolSpawnMixin.executor_type = SafeProcessPoolExecutor
    return [module]


def spawn_tests(modules: list[ModuleType]) -> unittest.TestSuite:
    cases = [
        case
        for module in modules
        for name, case in vars(module).items()
        if name.startswith("ProcessPoolSpawn") and isinstance(case, type) and issubclass(case, unittest.TestCase)
    ]
    return unittest.TestSuite(map(unittest.defaultTestLoader.loadTestsFromTestCase, cases))


def change_one_import(module: ModuleType) -> None:
    """Some tests run scripts that import the executor; they get what a user would write."""
    original = getattr(module, "assert_python_ok", None)
    if original is None:
        return

    def assert_python_ok(*args: str, **env: str) -> Any:
        changed = [arg.replace("from concurrent.futures import Safe", "from safepool import Safe") for arg in args]
        return original(*changed, **env)

    module.assert_python_ok = assert_python_ok  # type: ignore[attr-defined]


def main() -> None:
    modules = own_modules()
    for module in modules:
        change_one_import(module)
    result = unittest.TextTestRunner(verbosity=2).run(spawn_tests(modules))
    names = [test.id().rpartition(".")[2] for test, _ in result.failures + result.errors]
    sys.stdout.write("\n" + json.dumps({"run": result.testsRun, "failed": sorted(names)}) + "\n")


if __name__ == "__main__":
    main()
