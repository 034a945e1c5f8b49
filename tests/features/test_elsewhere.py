"""On a system that safepool does not run on, the import says so."""

from __future__ import annotations

import subprocess
import sys

import pytest

_IMPORT = """
import sys
sys.platform = {platform!r}
import safepool
print(safepool.__version__)
try:
    from safepool import {name}
except ImportError as error:
    print(error)
"""


@pytest.mark.parametrize("platform", ["win32", "darwin"])
@pytest.mark.parametrize("name", ["SafeProcessPoolExecutor", "get_context", "WorkerDiedError"])
def test_import_on_another_system_says_what_is_missing(platform: str, name: str) -> None:
    shown = subprocess.run(
        [sys.executable, "-c", _IMPORT.format(platform=platform, name=name)],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    ).stdout
    version, message = shown.splitlines()
    assert version
    assert f"safepool runs on Linux, not on {platform}" in message
    assert "concurrent.futures.ProcessPoolExecutor" in message
