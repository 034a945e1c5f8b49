"""Every mask, every end: pools that do without some mechanism hold what is documented of them."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from contract.scripts import environment
from support.degraded import EVERYTHING, MASKS, degraded, host_dies_without, missed_without, worker_ends_without
from support.descendants import KINDS
from support.handles import gone
from support.scenes import hang_everywhere, hold_janitor, strike

pytestmark = [pytest.mark.torture, pytest.mark.timeout(180)]


@pytest.mark.parametrize("kind", ["c", "stopped", "deaf", "idle"])
@pytest.mark.parametrize("mask", MASKS)
def test_host_that_dies_takes_everything_along_but_what_is_documented(make_host, mask, kind):
    host_dies_without(make_host, mask, kind)


@pytest.mark.parametrize("how", ["kill", "exit", "deadline"])
@pytest.mark.parametrize("mask", MASKS)
def test_worker_that_ends_takes_everything_along_but_what_is_documented(make_host, mask, how):
    worker_ends_without(make_host, mask, how)


@pytest.mark.parametrize("mask", [mask for mask in MASKS if not missed_without(mask)])
def test_large_arguments_arrive_and_the_pool_survives_ten_deaths(make_host, mask):
    host = degraded(make_host, mask, max_workers=2)
    host.open_pool()
    for number in range(10):
        host.submit(f"dies{number}", "exit_now", 3)
        assert host.outcome(f"dies{number}")["exitcode"] == 3
    host.submit("large", "torture.acts:length_of", 10_000_000)
    assert host.outcome("large") == {"value": "large"}
    host.tell("return")
    assert host.finish() == 0
    host.leaves_nothing()


@pytest.mark.parametrize("reaping", ["ignore_children", "reap_everything"])
def test_worker_of_a_host_where_others_reap_is_missed_by_nobody(make_host, reaping):
    """Without pidfds nobody knows how it ended; that it has, and what is beneath it, is known."""
    host = degraded(make_host, "pidfd,pidfd_info,pidfd_group", max_workers=1)
    gate = host.gate("gate")
    host.tell(reaping)
    host.open_pool()
    host.submit("victim", "work_then_die", host.rendezvous.path, "victim", gate.path, "exit", KINDS)
    everybody = host.hold_reported(["victim", *(f"victim.{kind}" for kind in KINDS)])
    gate.open(1)
    outcome = host.outcome("victim")
    assert (outcome["error"], outcome["exitcode"]) == ("WorkerDiedError", None)
    gone(everybody)
    host.submit("next", "square", 7)
    assert host.outcome("next") == {"value": 49}


def test_janitor_that_was_killed_is_replaced_and_ends_workers_that_hold_the_interpreter(make_host):
    host = degraded(make_host, "setsig", max_workers=2)
    host.open_pool()
    everybody = hang_everywhere(host, "c")
    janitor = hold_janitor(host)
    janitor.send(9)
    gone({"janitor": janitor})
    hold_janitor(host)
    strike(host, "SIGKILL")
    gone(everybody)
    host.leaves_nothing()


@pytest.mark.parametrize("mask", ["setsig", "pidfd", "memfd", EVERYTHING])
def test_contract_is_kept_by_a_pool_without(mask):
    variables = {**environment(), "SAFEPOOL_DISABLE": mask}
    tests = os.path.join(os.path.dirname(__file__), "..")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-x", "contract"]
    done = subprocess.run(command, cwd=tests, env=variables, capture_output=True, text=True, check=False, timeout=170)
    assert done.returncode == 0, done.stdout[-4000:]
