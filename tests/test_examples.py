"""Every example runs as a user would run it: as a script, in a process of its own, and says what it promises."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
NOT_RUN_ALONE = {"census.py"}  # what the other examples use to look at processes from outside


def run(name: str, *arguments: str, within: float = 50.0) -> str:
    """Run an example to its end and return what it printed; its exit status must be 0."""
    command = [sys.executable, str(EXAMPLES / name), *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as example:
        try:
            printed, _ = example.communicate(timeout=within)
        except subprocess.TimeoutExpired:
            example.kill()
            pytest.fail(f"{name} did not end within {within:g} s; it printed:\n{example.communicate(timeout=10)[0]}")
    assert example.returncode == 0, printed
    return printed


def require(module: str) -> None:
    """Skip the test if the module cannot be imported, and say why: a native library of its may be what is missing."""
    # In a process of its own: native code that is never loaded here cannot disturb the other tests.
    attempt = subprocess.run([sys.executable, "-c", f"import {module}"], capture_output=True, text=True, check=False)
    if attempt.returncode != 0:
        reason = attempt.stderr.strip().rpartition("\n")[2] or f"status {attempt.returncode}"
        pytest.skip(f"`import {module}` fails: {reason}")


def check_quickstart(printed: str) -> None:
    """Look for every claim that the example makes, and for the errors in full."""
    assert re.search(r"^ok: census meanwhile: it sees sleep 1000 \(pid \d+, ", printed, re.MULTILINE)
    assert re.search(r"^ok: all \d+ files: the same results from the pool as from the loop$", printed, re.MULTILINE)
    assert re.search(r"^TaskTimeoutError: .*start_sleeper_and_hang.*sleep", printed, re.MULTILINE)
    assert re.search(r"^TaskTimeoutError: .*match_catastrophically", printed, re.MULTILINE)
    assert re.search(r"^WorkerDiedError: .*SIGSEGV.*read_address_zero", printed, re.MULTILINE)
    assert printed.endswith("ok: census after the shutdown: no worker and no descendant is left\n")


def test_quickstart_holds_its_claims() -> None:
    check_quickstart(run("quickstart.py", "--limit", "200"))


@pytest.mark.torture
@pytest.mark.timeout(300)
def test_quickstart_compiles_the_whole_standard_library() -> None:
    check_quickstart(run("quickstart.py", within=280))


def test_gmsh_sweep_gives_every_plate_its_row() -> None:
    require("gmsh")
    require("rich")
    printed = run("gmsh_sweep.py")
    assert re.search(r"0\.0001 .* timed out .* limit 3 s", printed)
    assert re.search(r"circular .* crashed .* SIGSEGV", printed)
    assert re.search(r"-1 .* refused .* Wrong mesh", printed)
    meshed = re.findall(r"^│ +0\.\d+ +│ 0\.\d +│ +│ meshed +│ (\d+) +│ \d+\.\d+ +│", printed, re.MULTILINE)
    assert len(meshed) == 12, printed
    assert all(int(elements) > 0 for elements in meshed)
    assert "12 meshed" in printed


@pytest.mark.torch
def test_torch_dataloader_outlives_no_training() -> None:
    require("torch")
    printed = run("torch_dataloader.py")
    assert "ok: an epoch: all batches, in order" in printed
    assert re.search(r"^ok: census before: it sees \[\d+(, \d+){3,}\]$", printed, re.MULTILINE)
    assert "ok: census after the epoch: no worker and no program is left" in printed
    assert re.search(r"^ok: SIGKILL to the host, pid \d+: all \d+ others died$", printed, re.MULTILINE)
    assert "ok: census after: no worker and no program is left" in printed
    assert re.search(r"took \d+ ms to die, the last of the others \d+ ms$", printed, re.MULTILINE)


def test_every_example_is_run_here() -> None:
    here = Path(__file__).read_text()
    assert {path.name for path in EXAMPLES.glob("*.py") if f'run("{path.name}"' not in here} == NOT_RUN_ALONE
