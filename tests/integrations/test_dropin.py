"""Packages that others wrote, with one import changed: the same results, from our workers, and nothing left running.

Every job runs twice, each time as a program of its own (``other_peoples.py``): on the standard library's pool, which
says what is right, and on ours.
"""

from __future__ import annotations

import importlib.util
import json
import multiprocessing
import re
import sys
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from support.hosts import Program

PACKAGES = ("adaptive", "apscheduler", "black", "bounded_pool_executor", "dask", "pqdm", "tqdm", "yapf")
MISSING = [package for package in PACKAGES if importlib.util.find_spec(package) is None]

pytestmark = [
    pytest.mark.dropin,
    pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}"),
]

PROGRAM = str(Path(__file__).with_name("other_peoples.py"))
FILES = 30
EXECUTORS = ("standard library", "safepool")


class Outcome(NamedTuple):
    """What a job did."""

    returned: Any
    printed: str
    said: str
    written: dict[str, bytes]
    witnesses: dict[str, int]


Job = Callable[..., Outcome]


@pytest.fixture
def run_job(make_program: Callable[[], Program]) -> Job:
    """Run one job to its end on one executor, and see that nothing of it is left."""

    def run(executor: str, job: str) -> Outcome:
        program = make_program()
        folder = program.directory / "folder"
        folder.mkdir()
        for name, text in untouched().items():
            (folder / name).write_bytes(text)
        outcome = program.directory / "outcome.json"
        program.run([sys.executable, PROGRAM, executor, job, str(folder), str(outcome)])
        assert program.finish() == 0, program.stderr
        program.leaves_nothing()
        witnesses = json.loads(outcome.read_text("utf-8"))
        returned = witnesses.pop("returned")
        printed = (program.directory / "stdout").read_text("utf-8")
        return Outcome(returned, printed, program.stderr, dict(files_in(folder)), witnesses)

    return run


@pytest.fixture
def run_both(run_job: Job) -> Callable[[str], tuple[Outcome, Outcome]]:
    """Run a job on either executor, and see that each ran on its own."""

    def run(job: str) -> tuple[Outcome, Outcome]:
        theirs, ours = (run_job(executor, job) for executor in EXECUTORS)
        assert theirs.witnesses == {"pools": 0, "tasks": 0, "workers": 0}
        assert ours.witnesses["pools"] >= 1
        assert ours.witnesses["workers"] >= 1
        return theirs, ours

    return run


Both = Callable[[str], tuple[Outcome, Outcome]]


def some_sources() -> list[Path]:
    """Small modules of the standard library."""
    modules = Path(sysconfig.get_path("stdlib")).glob("*.py")
    return sorted((path for path in modules if path.stat().st_size > 1000), key=lambda path: path.stat().st_size)[
        :FILES
    ]


def files_in(folder: Path) -> Iterator[tuple[str, bytes]]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and "cache" not in path.relative_to(folder).parts:
            yield str(path.relative_to(folder)), path.read_bytes()


def sources_of(outcome: Outcome) -> dict[str, bytes]:
    return {name: text for name, text in outcome.written.items() if name.endswith(".py")}


def untouched() -> dict[str, bytes]:
    """Under other names: multiprocessing's resource tracker would import its ``signal`` from the directory it is in."""
    return {f"a_{source.name}": source.read_bytes() for source in some_sources()}


def test_black_formats_the_same_on_our_pool(run_both: Both) -> None:
    theirs, ours = run_both("black")

    assert ours.returned == theirs.returned == 0
    assert ours.written == theirs.written
    assert sources_of(ours) != untouched()
    assert ours.witnesses["tasks"] == FILES
    assert sorted(ours.said.splitlines()) == sorted(theirs.said.splitlines())


def test_black_prints_the_same_diffs_from_our_workers(run_both: Both) -> None:
    theirs, ours = run_both("black_diff")

    def diffs(outcome: Outcome) -> list[str]:
        without_times = re.sub(r"^([-+]{3} \S+)\t.*$", r"\1", outcome.printed, flags=re.MULTILINE)
        return sorted(re.split(r"^(?=--- )", without_times, flags=re.MULTILINE))

    assert ours.returned == theirs.returned == 0
    assert diffs(ours) == diffs(theirs)
    assert sorted(ours.said.splitlines()) == sorted(theirs.said.splitlines())
    assert len(diffs(ours)) > FILES // 2
    assert sources_of(ours) == untouched()


def test_yapf_formats_the_same_on_our_pool(run_both: Both) -> None:
    theirs, ours = run_both("yapf")

    assert ours.returned == theirs.returned
    assert ours.written == theirs.written
    assert sources_of(ours) != untouched()
    assert ours.witnesses["tasks"] == FILES


def test_compileall_compiles_the_same_on_our_pool(run_both: Both) -> None:
    theirs, ours = run_both("compile_all")

    assert ours.returned == theirs.returned == 0
    assert ours.written == theirs.written
    assert len([name for name in ours.written if name.endswith(".pyc")]) == FILES


@pytest.mark.parametrize("job", ["adaptive", "bounded_pool_executor", "dask", "pqdm", "tqdm"])
def test_library_returns_the_same_from_our_pool(run_both: Both, job: str) -> None:
    theirs, ours = run_both(job)

    assert ours.returned == theirs.returned


@pytest.mark.skipif(
    multiprocessing.get_all_start_methods()[0] != "fork", reason="locks can be shared with spawned processes"
)
def test_tqdm_as_it_is_is_refused_a_lock_that_only_forked_processes_can_share(run_job: Job) -> None:
    """The constructor refuses, as the standard library does with ``mp_context=get_context("spawn")``."""
    outcome = run_job("safepool", "tqdm_as_it_is")

    assert "fork context" in outcome.returned


def test_apscheduler_replaces_no_pool_after_a_job_that_kills_its_worker(run_both: Both) -> None:
    theirs, ours = run_both("apscheduler")

    assert theirs.returned["dies"] == "BrokenProcessPool"
    assert ours.returned["dies"] == "WorkerDiedError"
    assert {**ours.returned, "dies": ...} == {**theirs.returned, "dies": ...}
    assert "replacing pool with a fresh instance" in theirs.said
    assert "replacing pool" not in ours.said
    assert ours.witnesses["pools"] == 1


def test_adaptive_knows_a_user_s_own_pool_by_its_class(run_job: Job) -> None:
    """It asks for the class that it imported itself, to learn how many tasks to submit at a time."""
    outcome = run_job("standard library", "adaptive_of_a_user")

    assert outcome.returned == [number**0.5 for number in range(60)]
    assert outcome.witnesses["workers"] >= 1
