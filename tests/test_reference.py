"""Every example of the reference runs, and prints what stands below it; everything public stands in it."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import NamedTuple

import pytest

import safepool
from contract.scripts import run_script

REFERENCE = Path(__file__).resolve().parents[1] / "docs" / "reference.md"


class Example(NamedTuple):
    heading: str
    program: str
    output: str


def examples() -> list[Example]:
    """Read the reference: programs, and what each prints."""
    found = []
    for section in re.split(r"^##+ ", REFERENCE.read_text("utf-8"), flags=re.MULTILINE)[1:]:
        heading = re.split(r"[\n(]", section)[0]
        blocks = re.findall(r"```python\n(.*?)```\n\n```text\n(.*?)```", section, flags=re.DOTALL)
        assert len(blocks) == section.count("```python"), f"{heading}: an example does not say what it prints"
        found += [Example(heading, program, output) for program, output in blocks]
    return found


@pytest.mark.parametrize("example", examples(), ids=lambda example: example.heading)
def test_example_prints_what_it_says(tmp_path: Path, example: Example) -> None:
    done = run_script(tmp_path / "program.py", example.program)

    assert (done.stdout, done.returncode) == (example.output, 0), done.stderr


def test_every_public_name_is_in_it() -> None:
    text = REFERENCE.read_text("utf-8")

    assert [name for name in safepool.__all__ if not re.search(rf"\b{name}\b", text)] == []


@pytest.mark.parametrize("method", ["__init__", "options", "shutdown", "map", "map_unordered"])
def test_every_parameter_is_in_it(method: str) -> None:
    text = REFERENCE.read_text("utf-8")
    parameters = inspect.signature(getattr(safepool.SafeProcessPoolExecutor, method)).parameters

    assert [name for name in parameters if name != "self" and not re.search(rf"\b{name}\b", text)] == []
