"""What the documents point at is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[1]
DOCUMENTS = sorted([*CHECKOUT.glob("*.md"), *CHECKOUT.glob("docs/*.md")])
SOURCES = sorted((CHECKOUT / "safepool").rglob("*.py"))


def defined_tests() -> set[str]:
    texts = (path.read_text("utf-8") for path in (CHECKOUT / "tests").rglob("test_*.py"))
    return {name for text in texts for name in re.findall(r"def (test_\w+)", text)}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_tests_that_a_document_names_exist(document: Path) -> None:
    named = re.findall(r"([\w/]+\.py)(?:::(test_\w+))?", document.read_text("utf-8"))
    tests = [(path, name) for path, name in named if path.split("/")[-1].startswith("test_")]

    for path, name in tests:
        file = CHECKOUT / "tests" / path.removeprefix("tests/")
        assert file.is_file(), path
        assert not name or f"def {name}(" in file.read_text("utf-8"), f"{path}::{name}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_files_that_a_document_links_to_exist(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", document.read_text("utf-8")):
        assert (document.parent / target).exists(), target


def test_tests_that_comments_name_exist() -> None:
    named = {name for path in SOURCES for name in re.findall(r"``(test_\w+)``", path.read_text("utf-8"))}

    assert named
    assert named <= defined_tests()


def test_every_torture_has_its_tests_or_a_reason() -> None:
    """Rows that say "the same" stand below one that names tests."""
    text = (CHECKOUT / "docs" / "torture.md").read_text("utf-8")
    rows = re.findall(r"^\| (\d+) \| .+ \| (.+) \|$", text, re.MULTILINE)

    assert [int(number) for number, _ in rows] == list(range(1, 48))
    for number, shown in rows:
        assert re.search(r"::test_\w+`|^the same|not tried: \w", shown), number
