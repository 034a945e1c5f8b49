"""Strict pools and hosts, kept in the way that the test's ``half`` says: by default, each test runs once for either."""

from __future__ import annotations

from pathlib import Path

import pytest

from safepool._os import control_group
from support.eventually import eventually
from support.halves import HALVES, launcher_for, take


@pytest.fixture(params=HALVES)
def half(request, monkeypatch):
    return take(request.param, monkeypatch)


@pytest.fixture
def strict(half, make_pool):
    """Make strict pools; the test is not for machines where none can be had."""
    pools = []

    def make(*args, **options):
        pools.append(make_pool(*args, containment="strict", **options))
        assert pools[-1].strict_by == half
        return pools[-1]

    yield make
    for pool in pools:
        pool.shutdown(kill=True)
    if half == "group":
        house = Path(control_group.house_of_this_process())  # with those of the pools that its tasks have made
        eventually(lambda: not house.exists(), otherwise=lambda: [str(path) for path in house.rglob("*/")])


@pytest.fixture
def make_strict_host(half, make_host):
    """Make hosts of strict pools."""

    def make(**options):
        return make_host(containment="strict", launcher=launcher_for(half), **options)

    return make
