"""What one round of the random campaign does, and what may come of it.

A plan is drawn whole from its seed, before anything starts, so a round that failed can be had again. What
docs/failure-modes.md calls "not caught" is not drawn: no descendant that has lost its parent, its marker and its
session at once, and no janitor that is struck together with its host.
"""

from __future__ import annotations

import random
from typing import Any, NamedTuple

from support.descendants import KEEPING, KINDS, TRACELESS

__all__ = ["Fault", "Plan", "allowed_outcomes", "draw", "exitcodes", "may_break", "names_of", "without"]

HANGS = ("loop", "c", "regex", "stopped", "deaf", "sleep")
_DEATHS = {"segfault": -11, "exit": 3, "kill": -9, "abort": -6}
_LEFT = (*KINDS, *KEEPING, "cleared")
_DAEMONS = ("daemon", *TRACELESS)  # each is made by a program that the task waits for
_SURROUNDINGS = {
    "plain": 6,
    "full": 1,
    "user": 2,
    "hidden": 1,
    "clocks": 1,
}  # how often; what they are: surroundings.py

_UNPRIVILEGED = ("user", "hidden")

_ENDS = ("wait", "cancel", "kill", "timeout", "no wait", "forget", "raise", "SIGINT", "SIGKILL", "SIGTERM")
_ENDING_RUNNING = ("kill", "timeout", "SIGINT")
_MOST_FAILED_BOOTS = 3
_FATAL = ("SIGKILL", "SIGTERM")  # of a host that does not handle them

Step = dict[str, Any]


class Fault(NamedTuple):
    """A signal from outside, at a moment in seconds; ``pick`` says whom of those that are there.

    The target "threads" is every thread of the host but the first: the supervisor among them.
    """

    at: float
    target: str
    signal: str
    pick: int
    resume_after: float  # seconds until SIGCONT, of those that are stopped


class Plan(NamedTuple):
    """One round."""

    seed: int
    surroundings: str  # where the host runs
    options: dict[str, Any]
    steps: list[Step]  # what the host does, each with its moment "at"
    faults: list[Fault]
    end: str
    on_error: str

    @property
    def kills_host(self) -> bool:
        """Whether the host dies of a signal."""
        return self.end in _FATAL

    @property
    def is_strict(self) -> bool:
        """Whether the pool is one with strict containment."""
        return self.options.get("containment") == "strict"

    def does(self, *what: str) -> bool:
        """Return whether one of these steps is done."""
        return any(step["do"] in what for step in self.steps)


def draw(seed: int) -> Plan:
    """Draw the plan of one round."""
    dice = random.Random(seed)
    end = dice.choice(_ENDS)
    lasts = dice.uniform(0.3, 3.0)
    on_error = dice.choice(["wait", "cancel", "kill"])
    (surroundings,) = dice.choices(list(_SURROUNDINGS), list(_SURROUNDINGS.values()))
    options = _draw_options(dice, surroundings) | {"on_error": on_error}
    count = dice.randint(1, 14)
    steps = [_draw_task(dice, f"t{number}", lasts, options) for number in range(count)]
    steps += _draw_interventions(dice, lasts, count, surroundings)
    faults = _draw_faults(dice, lasts, end)
    if dice.random() < 0.25:
        _draw_clogging(dice, lasts, options, steps, faults)
    return Plan(seed, surroundings, options, sorted(steps, key=lambda step: step["at"]), sorted(faults), end, on_error)


def without(plan: Plan, *, surroundings: bool = False, strictness: bool = False) -> Plan:
    """Return the plan without what cannot be had here; with strictness goes what only that can end."""
    if surroundings:
        plan = plan._replace(surroundings="plain")
    if strictness and plan.is_strict:
        steps = [{**step, "leave": _traced(step["leave"])} if "leave" in step else step for step in plan.steps]
        plan = plan._replace(options={**plan.options, "containment": "standard"}, steps=steps)
    return plan


def _traced(kinds: list[str]) -> list[str]:
    return [kind for kind in kinds if kind not in TRACELESS]


def names_of(task: Step) -> list[str]:
    """Return the names under which a step submits: its label, or one for each of a burst."""
    if task["kind"] != "burst":
        return [task["label"]]
    return [f"{task['label']}.{number}" for number in range(task["count"])]


def allowed_outcomes(plan: Plan, task: Step) -> set[str]:
    """Return the names of all outcomes that this task may have; ``value`` stands for its result."""
    steps = [step for step in plan.steps if step.get("of") == task["label"]]
    names = set(_own_outcomes(task))
    signals = {fault.signal for fault in plan.faults if fault.target == "worker"}
    if task["kind"] == "nest":  # its own pool's worker is a descendant
        signals |= {fault.signal for fault in plan.faults if fault.target == "descendant"}
    if signals & {"SIGKILL", "SIGTERM"} or plan.does("starve", "crowd"):
        names.add("WorkerDiedError")
    if plan.does("starve"):
        names.add("OSError")  # the task's own: its worker has been given the low limit
    deadly = {fault.signal for fault in plan.faults if fault.target == "descendant"} & {"SIGKILL", "SIGTERM"}
    if deadly and set(_DAEMONS) & set(task["leave"]):
        names.add("CalledProcessError")  # the program that makes a daemon of itself was struck before it was one
    if "SIGSTOP" in signals and task["kind"] == "stopped":
        names.add("value")  # continued, it returns
    if plan.options.get("soft_timeout"):  # of every task; and a busy machine makes a short one long
        names.add("SoftTimeoutError")
    ends_running = plan.end in _ENDING_RUNNING or (plan.end == "raise" and plan.on_error == "kill")
    if ends_running or plan.end == "cancel" or (plan.end == "raise" and plan.on_error == "cancel") or steps:
        names.add("CancelledError")
    if ends_running or any(step["do"] in ("kill", "cancel_running") for step in steps):
        names.add("TaskKilledError")
    if may_break(plan):
        names.add("InitializerError")
    return names


def may_break(plan: Plan) -> bool:
    """Whether three workers in a row may die before they are ready, after which the pool gives up."""
    deadly = [fault for fault in plan.faults if fault.target == "worker" and fault.signal != "SIGSTOP"]
    return len(deadly) >= _MOST_FAILED_BOOTS


def exitcodes(plan: Plan, task: Step) -> set[int] | None:
    """Return the exit statuses with which its worker may have died; None if any will do."""
    targets = {fault.target for fault in plan.faults}
    # The worker of a nested pool is a descendant, and its death is what the task raises.
    disturbed = "worker" in targets or (task["kind"] == "nest" and "descendant" in targets)
    disturbed |= plan.does("starve", "crowd")
    return None if disturbed else {_DEATHS[task["how"]]} if task["kind"] == "die" else set()


def _own_outcomes(task: Step) -> list[str]:
    kind = task["kind"]
    if kind in HANGS or kind == "nest":
        return ["TaskTimeoutError"]
    return {"die": ["WorkerDiedError"], "raise": ["LookupError"]}.get(kind, ["value"])


def _draw_options(dice: random.Random, surroundings: str) -> dict[str, Any]:
    workers = dice.randint(1, 4)
    options: dict[str, Any] = {"max_workers": workers}
    choices: dict[str, list[Any]] = {
        "max_tasks_per_child": [1, 2, 5],
        "grace": [0.1, 0.3],
        "retries": [1, 2],
        "min_workers": [1],
        "spare_workers": [1],
        "idle_timeout": [0.05, 0.3],
        "soft_timeout": [0.2],
        "memory_limit": ["4GiB"],
        "max_worker_memory": ["2GiB"],
        "max_pending": [1, 3],
        "leftovers": ["end", "keep"],
        "inner_max_num_threads": [1],
    }
    for name in dice.sample(sorted(choices), dice.randint(0, 4)):
        options[name] = dice.choice(choices[name])
    if surroundings not in _UNPRIVILEGED and dice.random() < 0.25:
        options["containment"] = "strict"
    return options


def _draw_task(dice: random.Random, label: str, lasts: float, options: dict[str, Any]) -> Step:
    """A task without a limit ends by itself; one with a limit hangs, so that nothing depends on the machine's speed."""
    weights = {"short": 3, "burst": 2, "large": 2, "text": 1, "raise": 1, "leave": 3, "die": 3, "nest": 1, "hang": 6}
    (kind,) = dice.choices(list(weights), list(weights.values()))
    task: Step = {"do": "submit", "label": label, "at": dice.uniform(0, lasts), "timeout": None, "leave": []}
    task["kind"] = dice.choice(HANGS) if kind == "hang" else kind
    if kind in ("hang", "nest"):
        task["timeout"] = dice.uniform(0.4, 1.5)
    if kind in ("hang", "leave", "die"):
        left = (*_LEFT, *TRACELESS) if "containment" in options else _LEFT
        task["leave"] = dice.sample(left, dice.randint(0, 3))
    if kind == "die":
        task["how"] = dice.choice(sorted(_DEATHS))
    if kind == "burst":
        # Where a worker is good for a few tasks only, each of the burst costs a start.
        task["count"] = dice.randint(3, 12) if "max_tasks_per_child" in options else dice.randint(10, 300)
    if kind in ("large", "text"):
        task["size"] = dice.choice([1, 70_000, 1_000_000, 20_000_000])
    task["runs"] = 1 + options.get("retries", 0)
    return task


def _draw_interventions(dice: random.Random, lasts: float, count: int, surroundings: str) -> list[Step]:
    endings, sizes = dice.choice([0, 0, 1, 2, 4]), dice.choice([0, 0, 1, 3])
    of = [(dice.choice(["cancel", "cancel_running", "kill"]), f"t{dice.randrange(count)}") for _ in range(endings)]
    steps: list[Step] = [{"do": do, "at": dice.uniform(0, lasts), "of": label} for do, label in of]
    steps += [{"do": "resize", "at": dice.uniform(0, lasts), "size": dice.randint(1, 4)} for _ in range(sizes)]
    if dice.random() < 0.15:
        steps.append({"do": "starve", "at": dice.uniform(0, lasts), "room": dice.randint(0, 12), "for": 0.5})
    elif surroundings in _UNPRIVILEGED and dice.random() < 0.5:  # not both: what ends the one takes a thread
        steps.append({"do": "crowd", "at": dice.uniform(0, lasts), "for": dice.uniform(0.1, 1.0)})
    return steps


def _draw_faults(dice: random.Random, lasts: float, end: str) -> list[Fault]:
    faults = [_draw_fault(dice, lasts, end) for _ in range(dice.choice([0, 1, 2, 4, 8]))]
    if end.startswith("SIG"):
        # From within the start of the pool to well into its end.
        faults.append(Fault(dice.uniform(0, lasts * 1.3), "host", end, 0, 0.0))
    return sorted(faults)


def _draw_fault(dice: random.Random, lasts: float, end: str) -> Fault:
    target = dice.choice(["worker", "worker", "descendant", "descendant", "host", "threads", "janitor"])
    signals = {"host": ["SIGSTOP"], "threads": ["SIGUSR2"]}.get(target, ["SIGKILL", "SIGSTOP", "SIGTERM"])
    if target == "janitor" and end in _FATAL:
        signals = ["SIGTERM"]  # to which it is deaf; struck together with its host it is missed, as is written
    return Fault(dice.uniform(0, lasts), target, dice.choice(signals), dice.randrange(1000), dice.uniform(0.05, 1.2))


def _draw_clogging(
    dice: random.Random, lasts: float, options: dict[str, Any], steps: list[Step], faults: list[Fault]
) -> None:
    """Stop all workers, and send them much: text goes through their sockets, which are full before long."""
    at, stops = dice.uniform(0, lasts), dice.uniform(0.3, 1.2)
    faults += [Fault(at, "worker", "SIGSTOP", pick, stops) for pick in range(options["max_workers"])]
    runs = 1 + options.get("retries", 0)
    steps.append(
        {
            "do": "submit",
            "label": "clog",
            "at": at + 0.02,
            "timeout": None,
            "leave": [],
            "kind": "text",
            "size": 8_000_000,
            "runs": runs,
        }
    )
