"""What is imported before the first result: every worker pays for it, and whoever makes the first pool of a program."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from contract.scripts import environment, run_script
from safepool._os.bare import PACKAGE_ROOT

# Beyond what an interpreter has loaded, and what multiprocessing's own spawn loads into each of its processes.
OURS = {
    "safepool",
    "safepool._os",
    "safepool._os.features",
    "safepool._os.lifeline",
    "safepool._plain",
    "safepool._worker",
    "safepool._worker.boot",
    "safepool._worker.calls",
    "safepool._worker.framing",
    "safepool._worker.identity",
    "safepool._worker.main_module",
    "safepool._worker.payload",
    "safepool._worker.record",
    "safepool._worker.ring",
    "safepool._worker.segments",
    "safepool._worker.worker_main",
}
OTHERS = {"__future__", "faulthandler", "fcntl", "gc", "mmap"}  # small ones, all but the first in C
MAIN = {"__mp_main__"}

# What the first pool of a program must not wait for; ``concurrent.futures.process`` needs none of it either.
COSTLY = {"ast", "cloudpickle", "dataclasses", "inspect", "loky", "pathlib", "psutil", "secrets", "tokenize"}

PROGRAM = """
import sys

def modules():
    return sorted(sys.modules)

if __name__ == "__main__":
    import json
    from safepool import SafeProcessPoolExecutor
    with SafeProcessPoolExecutor(1) as pool:
        print(json.dumps(pool.submit(modules).result()))
"""


def loaded_after(statement: str) -> set[str]:
    code = f"{statement}\nimport sys; names = list(sys.modules); import json; print(json.dumps(names))"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=True, timeout=30)
    return set(json.loads(done.stdout))


def test_worker_has_loaded_what_it_needs_and_nothing_else(tmp_path: Path) -> None:
    done = run_script(tmp_path / "program.py", PROGRAM)
    modules = set(json.loads(done.stdout))
    assert {name for name in modules if name.partition(".")[0] == "safepool"} == OURS
    floor = loaded_after("import multiprocessing.resource_tracker, multiprocessing.spawn")
    assert modules - OURS - floor <= OTHERS | MAIN


def test_executor_is_there_without_what_it_does_not_need() -> None:
    standard = loaded_after("from concurrent.futures import ProcessPoolExecutor")
    ours = loaded_after("from safepool import SafeProcessPoolExecutor") - standard
    assert "safepool._pool.executor" in ours
    assert ours & COSTLY == set()
    assert {name for name in ours if name.partition(".")[0] not in sys.stdlib_module_names} <= {
        name for name in ours if name.partition(".")[0] == "safepool"
    }


def test_guardian_loads_little_before_its_worker_is_on_its_way() -> None:
    """The host waits for it until then."""
    show = "import os, sys; names = list(sys.modules); import json; print(json.dumps(names))"
    programs = (show, f"import sys; sys.path.append({PACKAGE_ROOT!r}); import safepool._os.guardian_main; {show}")
    commands = [[sys.executable, "-I", "-S", "-c", program] for program in programs]
    bare, loaded = (set(json.loads(subprocess.check_output(command, timeout=30))) for command in commands)
    assert loaded - bare == {"__future__", "errno", "safepool", "safepool._os", "safepool._os.guardian_main"}
