"""The random campaign for a moment; ``campaign.py`` runs it for longer, and has a round that failed again.

What it deals is looked at one by one: that the fault happens, and that what comes of it is judged right.
"""

from __future__ import annotations

import os
import select
import signal

import pytest

from support import census, tasks
from support.campaign_plan import Fault, Plan, allowed_outcomes, draw, without
from support.descendants import KINDS, TRACELESS
from support.eventually import eventually
from support.handles import Handle
from torture.campaign import Campaign
from torture.surroundings import SURROUNDINGS, can_be_had, may_be_strict
from torture.users import NEEDS_ROOT

SECONDS = float(os.environ.get("CAMPAIGN_SECONDS", "10"))

pytestmark = [pytest.mark.torture, pytest.mark.timeout(SECONDS + 300)]

OPTIONS = {"max_workers": 2, "on_error": "wait"}


def task(label, kind, at=0.0, timeout=None, leave=(), **details):
    step = {"do": "submit", "label": label, "kind": kind, "at": at, "timeout": timeout, "leave": list(leave)}
    return {**step, "runs": 1, **details}


def plan_of(*steps, surroundings="plain", faults=(), end="wait", **options):
    return Plan(0, surroundings, {**OPTIONS, **options}, list(steps), list(faults), end, "wait")


def run(plan):
    campaign = Campaign()
    campaign.run_plan(plan)
    assert not campaign.findings
    return campaign.seen


def test_random_rounds_are_judged_right_from_outside(measured):
    campaign, seed = Campaign(), int(os.environ.get("CAMPAIGN_SEED", "1"))

    campaign.run(SECONDS, seed)

    measured("first_seed", seed)
    measured("rounds", campaign.rounds)
    measured("seen", dict(sorted(campaign.seen.items())))
    assert not campaign.findings, f"python torture/campaign.py --campaign 0 --seed {min(campaign.findings)}"


def test_every_surroundings_and_every_fault_are_drawn():
    plans = [draw(seed) for seed in range(2_000)]
    assert {plan.surroundings for plan in plans} == set(SURROUNDINGS)
    assert {step["do"] for plan in plans for step in plan.steps} >= {"submit", "starve", "crowd", "resize", "kill"}
    assert {fault.target for plan in plans for fault in plan.faults} >= {"host", "worker", "threads", "janitor"}
    assert {plan.is_strict for plan in plans} == {True, False}
    assert draw(7) == draw(7)


def test_who_leaves_no_trace_is_drawn_for_strict_pools_only():
    plans = [draw(seed) for seed in range(2_000)]
    left = {plan.is_strict: set() for plan in plans}
    for plan in plans:
        for loosened in (plan, without(plan, strictness=True)):
            left[loosened.is_strict].update(*(step.get("leave", ()) for step in loosened.steps))
    assert left[True] >= set(TRACELESS)
    assert not left[False] & set(TRACELESS)


def test_soft_timeout_of_the_pool_may_strike_any_task():
    plan = plan_of(step := task("short", "short"), soft_timeout=0.2)
    assert allowed_outcomes(plan, step) == {"value", "SoftTimeoutError"}
    assert allowed_outcomes(plan_of(step), step) == {"value"}


# --- surroundings ---


@NEEDS_ROOT
@pytest.mark.parametrize("name", [name for name in SURROUNDINGS if name != "plain"])
def test_surroundings_are_what_they_are_called_and_nobody_in_them_is_left(name):
    assert can_be_had(name)
    leave = [*KINDS, *TRACELESS] if (strict := may_be_strict(name)) else KINDS
    containment = {"containment": "strict"} if strict else {}
    hung = task("hung", "c", timeout=4.0, leave=leave)
    seen = run(plan_of(task("large", "large", size=1_000_000), hung, surroundings=name, **containment))
    assert (seen["value"], seen["TaskTimeoutError"]) == (1, 1)
    assert seen[f"host in {name} surroundings"] == 1
    assert seen["strict pool"] == strict


@NEEDS_ROOT
@pytest.mark.parametrize("name", SURROUNDINGS)
def test_host_that_dies_in_any_surroundings_leaves_nobody(name):
    assert can_be_had(name)
    hung = [task(f"hung{number}", "c", timeout=60.0, leave=KINDS) for number in range(2)]
    seen = run(plan_of(*hung, surroundings=name, end="SIGKILL", faults=[Fault(2.5, "host", "SIGKILL", 0, 0.0)]))
    assert seen["SIGKILL to host"] == 1


# --- faults ---


@NEEDS_ROOT
def test_user_who_may_have_no_more_processes_gets_them_when_he_may_again():
    """Neither workers nor threads can be started for five seconds, in which those workers die that there were."""
    steps = [task("first", "short"), {"do": "crowd", "at": 1.0, "for": 5.0}]
    steps += [task(f"dies{number}", "die", at=1.1, how="kill") for number in range(2)]
    steps += [task("waits", "short", at=1.5), task("last", "short", at=6.5)]
    seen = run(plan_of(*steps, surroundings="user"))
    assert seen["no room for a thread"] == 1
    assert seen["WorkerDiedError"] >= 2
    assert seen["value"] >= 2


def test_signals_to_the_threads_of_the_host_disturb_nothing():
    faults = [Fault(number * 0.05, "threads", "SIGUSR2", 0, 0.0) for number in range(30)]
    steps = [task(f"burst{number}", "burst", at=number * 0.3, count=200) for number in range(4)]
    seen = run(plan_of(*steps, task("hung", "c", timeout=1.0), faults=faults))
    assert seen["SIGUSR2 to a thread"] >= 20
    assert seen["SIGUSR2 handled"] > 0  # by the first thread, once for all that have come since it last looked
    assert seen["TaskTimeoutError"] == 1
    assert seen["value"] == 800


def test_workers_that_are_stopped_while_they_are_sent_much_go_on_when_they_may():
    stops = [Fault(0.5, "worker", "SIGSTOP", pick, 1.0) for pick in range(2)]
    steps = [task("warm", "burst", count=20), *(task(f"text{n}", "text", at=0.6, size=8_000_000) for n in range(3))]
    seen = run(plan_of(*steps, faults=stops))
    assert seen["SIGSTOP to worker"] == 2
    assert seen["value"] == 23


def test_pool_whose_workers_die_before_they_are_ready_breaks_and_refuses_everything_from_then_on():
    kills = [Fault(0.03 * number, "worker", "SIGKILL", 0, 0.0) for number in range(100)]
    steps = [task("first", "short"), {"do": "resize", "at": 3.5, "size": 3}, task("late", "short", at=3.6)]
    seen = run(plan_of(*steps, faults=kills))
    assert seen["SIGKILL to worker"] >= 3
    assert seen["InitializerError"] == 1
    assert seen["value"] == 0


def test_what_is_sent_to_a_stopped_worker_fills_its_socket(make_pool, stack):
    """The proof for the test above: the host cannot write, goes on with everything else, and later is done."""
    pool = make_pool(2)
    gate = [pool.submit(tasks.own_pid) for _ in range(8)]
    pids = {future.result(60) for future in gate}
    eventually(lambda: pids.add(pool.submit(tasks.own_pid).result(60)) or len(pids) == 2)
    workers = [stack.enter_context(Handle(pid)) for pid in pids]
    for worker in workers:
        worker.send(signal.SIGSTOP)
    eventually(lambda: all(census.look_at(worker.pid).state == "T" for worker in workers))
    assert not _full_sockets()

    future = pool.submit(tasks.size_of, "x" * 8_000_000)

    (full,) = eventually(_full_sockets)
    assert not future.done()
    for worker in workers:
        worker.send(signal.SIGCONT)
    assert future.result(60) == 8_000_000
    assert full not in _full_sockets()


def _full_sockets():
    """Descriptors of this process to which nothing can be written for want of room."""
    found = []
    for fd, target in census.open_files().items():
        if target.startswith("socket:"):
            poll = select.poll()
            poll.register(fd, select.POLLOUT)
            if not poll.poll(0):
                found.append(fd)
    return found
