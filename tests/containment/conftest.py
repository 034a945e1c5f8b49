"""Strict pools and hosts, kept in the way that the test's ``half`` says: by default, each test runs once for either."""

from __future__ import annotations

from pathlib import Path

import pytest

from safepool._os import control_group
from support.eventually import eventually
from support.halves import HALVES, launcher_for, take


def houses() -> set[str]:
    """The directories of hosts below the control group that this process is in."""
    base = Path(control_group.house_of_this_process()).parent
    return {entry.name for entry in base.iterdir() if entry.name.startswith("safepool_")}


@pytest.fixture(params=HALVES)
def half(request, monkeypatch):
    return take(request.param, monkeypatch)


@pytest.fixture
def strict(half, make_pool):
    """Make strict pools; the test is not for machines where none can be had."""
    before = houses() if half == "group" else set()
    pools = []

    def make(*args, **options):
        pools.append(make_pool(*args, containment="strict", **options))
        assert pools[-1].strict_by == half
        return pools[-1]

    yield make
    for pool in pools:
        pool.shutdown(kill=True)
    if half == "group":
        eventually(lambda: houses() <= before, otherwise=lambda: f"left: {houses() - before}")


@pytest.fixture
def make_strict_host(half, make_host):
    """Make hosts of strict pools."""

    def make(**options):
        return make_host(containment="strict", launcher=launcher_for(half), **options)

    return make
