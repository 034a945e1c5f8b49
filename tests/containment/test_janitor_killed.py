"""The janitor is killed (the quick choice; all of it is in ``torture``)."""

from __future__ import annotations

import signal

import pytest

from support.handles import gone
from support.scenes import hang_everywhere, hold_janitor, strike

pytestmark = pytest.mark.timeout(120)


def test_killed_janitor_is_replaced_and_the_new_one_sweeps(make_host):
    host = make_host(max_workers=2)
    canary = host.canary()
    host.open_pool()
    everybody = hang_everywhere(host, "loop")
    janitor = hold_janitor(host)
    janitor.send(signal.SIGKILL)
    gone({"janitor": janitor})
    hold_janitor(host)

    strike(host, "SIGKILL")

    gone(everybody)
    host.leaves_nothing()
    assert canary.alive()
