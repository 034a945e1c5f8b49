"""The list of differences is about tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from contract.known_differences import KNOWN_DIFFERENCES


def test_known_differences_name_tests_of_this_suite() -> None:
    sources = [path.read_text(encoding="utf-8") for path in Path(__file__).parent.glob("test_*.py")]
    tests = {name for source in sources for name in re.findall(r"^def (test_\w+)\(", source, re.MULTILINE)}
    assert set(KNOWN_DIFFERENCES) <= tests


@pytest.mark.parametrize("reason", KNOWN_DIFFERENCES.values())
def test_known_difference_says_why(reason: str) -> None:
    assert reason.endswith(".")
