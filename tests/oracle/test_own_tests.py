"""The interpreter's own tests of its process pool, run unchanged against ours.

What does not pass is named here, with the reason, and nothing else may fail: a difference that goes away has to be
struck off, too.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.oracle, pytest.mark.timeout(600)]

DIFFERENCES = {
    "test_error_at_task_unpickle": "an argument that cannot be unpickled fails its own task, with its own error",
    "test_exit_at_task_unpickle": "the same, with SystemExit",
    "test_killed_child": "a worker that is killed before it has begun costs nothing: its task runs on another",
    "test_hang_gh83386": "skipped for the standard library's pool, which hangs; the script lacks an import",
}
SINCE_3_12 = {
    "test_python_finalization_error": "it waits for the standard library's feeder thread to fail; there is none here",
}


def has_own_tests() -> bool:
    name = "test.test_concurrent_futures" + (".test_process_pool" if sys.version_info >= (3, 12) else "")
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


@pytest.mark.skipif(not has_own_tests(), reason="this interpreter comes without its own tests")
def test_interpreters_own_tests_pass_less_the_named_differences() -> None:
    runner = Path(__file__).with_name("runner.py")
    # From a file, not with ``-m``: the tests' classes must be found under the same names in workers.
    done = subprocess.run([sys.executable, runner], capture_output=True, text=True, timeout=580, check=False)

    assert done.returncode == 0, done.stderr[-5000:]
    report = json.loads(done.stdout.splitlines()[-1])
    expected = DIFFERENCES | (SINCE_3_12 if sys.version_info >= (3, 12) else {})
    assert report["failed"] == sorted(expected), done.stderr[-20000:]
    assert report["run"] >= 50
