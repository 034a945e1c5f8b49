"""The two ways of strict containment: by a control group, and by a guardian where no group can be made."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from safepool._os import control_group
from support import census
from tools.masked import is_possible

__all__ = ["HALVES", "MASKED", "guardian_of", "launcher_for", "take"]

HALVES = ("group", "guardian")
MASKED = [sys.executable, str(Path(__file__).parents[1] / "tools" / "masked.py")]


def take(half: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Have strict pools of this process be kept in this way; skip the test where that cannot be."""
    if half == "guardian":
        monkeypatch.setattr(control_group, "make_sure", refuse)
        return half
    try:
        control_group.make_sure()
    except OSError as error:
        pytest.skip(f"no control group can be made here: {error}")
    return half


def launcher_for(half: str) -> Sequence[str]:
    """What a host is to be started by, so that its strict pools are kept in this way: the kernel makes no group."""
    if half == "group":
        return ()
    if not is_possible():
        pytest.skip("needs seccomp, and a machine whose calls have numbers here")
    return [*MASKED, "mkdir"]


def guardian_of(worker: int) -> int:
    """The guardian of a worker: its parent."""
    seen = census.look_at(worker)
    assert seen is not None, f"{worker} is gone"
    above = census.look_at(seen.ppid)
    assert above is not None
    assert "guardian_main" in above.command, above
    return above.pid


def refuse() -> None:
    """In place of making sure of a group."""
    raise control_group.NoControlGroupError(errno.EROFS, os.strerror(errno.EROFS))
