"""What every command of ours does with wrong input."""

from __future__ import annotations

import pytest

from safepool.cli import main

__all__ = ["is_refused_in_one_line"]


def is_refused_in_one_line(arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]) -> None:
    """One line on standard error, the exit status 2, and nothing done."""
    with pytest.raises(SystemExit) as leaving:
        main(arguments)
    shown = capsys.readouterr()
    assert leaving.value.code == 2
    assert complaint in shown.err
    assert shown.err.count("\n") == 1
    assert shown.out == ""
