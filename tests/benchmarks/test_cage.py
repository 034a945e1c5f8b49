"""A measurement answers or says why not, and nothing of it lives on."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from safepool.bench.cage import HostFailed
from support import census


def test_host_that_leaves_processes_behind_answers_and_they_are_ended(
    tmp_path: Path, in_host: Callable[..., Any]
) -> None:
    assert in_host("leavers:leave_behind", pids=str(tmp_path / "pids")) == {"left": 2}

    assert alive(tmp_path / "pids") == []


def test_host_that_hangs_is_ended_with_what_it_started(tmp_path: Path, in_host: Callable[..., Any]) -> None:
    with pytest.raises(HostFailed, match="not done after 1 s"):
        in_host("leavers:leave_behind_and_hang", within=1.0, pids=str(tmp_path / "pids"))

    assert alive(tmp_path / "pids") == []


def test_host_that_leaves_a_semaphore_to_its_tracker_leaves_none(in_host: Callable[..., Any]) -> None:
    """The tracker is left running until those are gone who keep it, and has time to unlink then."""
    name = in_host("leavers:leave_semaphore")["name"]

    assert name.startswith("/dev/shm/sem.mp-")
    assert not os.path.exists(name)


def test_host_that_raises_says_what(in_host: Callable[..., Any]) -> None:
    assert in_host("leavers:raise_it") == {"error": "LookupError: no such thing"}


def test_host_that_dies_is_a_failure(in_host: Callable[..., Any]) -> None:
    with pytest.raises(HostFailed, match="ended with 7"):
        in_host("leavers:die")


def test_what_a_host_prints_is_no_answer(in_host: Callable[..., Any]) -> None:
    assert in_host("leavers:print_and_return") == {"figure": 1}


def alive(pids: Path) -> list[census.Seen]:
    """Who of these is alive; a number that went to somebody else is not a sleep."""
    seen = [census.look_at(int(pid)) for pid in pids.read_text("ascii").split()]
    assert len(seen) == 2
    return [one for one in seen if one is not None and one.state not in "ZX" and one.command == "sleep 1000"]
