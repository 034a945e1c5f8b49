"""What a task costs in things that can be counted, where a time would only say how busy the machine is.

The bounds are three times what was measured on the slowest Python, or more where it depends on the machine. Whoever
makes a task cheaper measures again (``pytest -v`` shows the figures), and lowers them.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

TESTS = Path(__file__).resolve().parents[1]

# Of a thousand tasks that do nothing, on two workers, host and workers together.
MOST_SYSTEM_CALLS = 20_000  # measured: 5,800 to 6,300
MOST_SWITCHES = 2_000  # measured: 55 to 154; many more where the machine is busy, and answers come one by one
MOST_FAULTS = 4_000  # measured: 30 to 620
# Of a task that waits in the queue.
MOST_BYTES = 1_024  # measured: 560 to 620, which depends on nothing but the version of Python
# Of an idle pool.
MOST_IDLE_SWITCHES = 0

COUNT = 1000


def test_tasks_switches_and_faults_stay_within_bounds(
    in_host: Callable[..., Any], measured: Callable[[str, object], None]
) -> None:
    counts = in_host("counted:per_thousand_tasks", count=COUNT)

    measured("switches per 1,000 tasks", round(counts["switches"]))
    measured("minor faults per 1,000 tasks", round(counts["faults"]))
    assert 0 < counts["switches"] < MOST_SWITCHES
    assert 0 <= counts["faults"] < MOST_FAULTS


def test_idle_pool_does_not_wake_up(in_host: Callable[..., Any]) -> None:
    counts = in_host("counted:while_idle", seconds=1.0, settle=20.0)

    assert counts["processes"] > 2  # host and workers were really looked at
    assert counts["switches"] <= MOST_IDLE_SWITCHES


def test_queued_task_takes_no_more_bytes_than_bounded(
    in_host: Callable[..., Any], measured: Callable[[str, object], None]
) -> None:
    counts = in_host("counted:for_each_queued_task", count=10 * COUNT)

    measured("bytes per queued task", round(counts["bytes"]))
    assert 0 < counts["bytes"] < MOST_BYTES


def test_tasks_system_calls_stay_within_bounds(tmp_path: Path, measured: Callable[[str, object], None]) -> None:
    """Two runs of different lengths, so that starting and ending the pool does not count."""
    strace = shutil.which("strace")
    if strace is None or subprocess.run([strace, "-fc", "true"], capture_output=True, check=False).returncode:
        pytest.skip("strace is not here, or may not trace")

    few, many = (system_calls(strace, tmp_path, count) for count in (COUNT // 5, COUNT // 5 + COUNT // 2))

    each_thousand = 2 * (many - few)
    measured("system calls per 1,000 tasks", round(each_thousand))
    assert 0 < each_thousand < MOST_SYSTEM_CALLS


def system_calls(strace: str, folder: Path, count: int) -> int:
    """Run a pool with so many tasks; how many system calls all its processes made."""
    summary = folder / f"calls-{count}"
    program = [sys.executable, str(TESTS / "benchmarks" / "counted.py"), str(count)]
    subprocess.run([strace, "-f", "-qq", "-c", "-o", str(summary), *program], check=True, timeout=50)
    found = re.search(r"^100\.00 +\S+ +\d* +(\d+) .*total$", summary.read_text("utf-8"), re.MULTILINE)
    assert found, summary.read_text("utf-8")
    return int(found[1])
