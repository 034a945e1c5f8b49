"""A random campaign: pools with random options, random tasks, random faults; each round is judged from outside.

    python campaign.py --campaign 600 --seed 1

Rounds have the seeds N, N+1, ... until the time is up. One that fails prints its own seed; ``--seed`` with that number
has it again, whole: its plan is drawn before it starts. (What the kernel's scheduler makes of it is another matter.)
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import os
import platform
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))

from safepool._os.control_group import house_of_this_process
from support import census
from support.campaign_plan import Fault, Plan, allowed_outcomes, draw, exitcodes, may_break, names_of, without
from support.eventually import eventually
from support.handles import Handle, gone
from support.hosts import Program
from support.rendezvous import Report
from torture.surroundings import can_be_had, may_be_strict, surround

__all__ = ["Campaign"]

_HOST = Path(__file__).parents[1] / "support" / "campaign_host.py"
_LONGEST_ROUND = 240.0  # seconds; what hangs for longer hangs for good
_TGKILL = {"x86_64": 234, "aarch64": 131}  # the number of the system call: it signals one thread
_ENDED = ("WorkerDiedError", "TaskTimeoutError", "TaskKilledError")  # nothing of such a task may be left


class Campaign:
    """Rounds one after the other, and what was seen in them.

    Attributes:
        rounds: How many have been run.
        findings: What was wrong, by the seed of the round.
        seen: How often each outcome came, and each fault was dealt.
    """

    def __init__(self) -> None:
        self.rounds = 0
        self.findings: dict[int, list[str]] = {}
        self.seen: Counter[str] = Counter()

    def run(self, seconds: float, seed: int) -> None:
        """Run rounds for so long; at least one."""
        end = time.monotonic() + seconds
        while True:
            self.run_round(seed)
            seed += 1
            if time.monotonic() >= end:
                return

    def run_round(self, seed: int) -> None:
        """Run the round of that seed, as far as it can be had here."""
        self.run_plan(_fit(draw(seed)))

    def run_plan(self, plan: Plan) -> None:
        """Run one round."""
        with tempfile.TemporaryDirectory(prefix="campaign-") as directory, _Round(plan, Path(directory)) as this:
            findings = list(this.judge())
            self.rounds += 1
            self.seen += this.seen
            self.seen[f"host in {plan.surroundings} surroundings"] += 1
            self.seen["strict pool"] += plan.is_strict
            if findings:
                self.findings[plan.seed] = findings
                print(f"seed {plan.seed}: {json.dumps(findings, indent=1)}\nplan: {json.dumps(plan)}", file=sys.stderr)
                print(f"stderr of the host:\n{this.program.stderr[-6000:]}", file=sys.stderr, flush=True)


def _fit(plan: Plan) -> Plan:
    """Take from a plan what this machine, or this user, does not allow."""
    plan = without(plan, surroundings=not can_be_had(plan.surroundings))
    return without(plan, strictness=plan.is_strict and not may_be_strict(plan.surroundings))


class _Round:
    """One host, from its start to what it left."""

    def __init__(self, plan: Plan, directory: Path) -> None:
        self.plan = plan
        self.directory = directory
        self.program = Program(directory)
        self.seen: Counter[str] = Counter()
        self._stack = contextlib.ExitStack()
        self._descendants: dict[tuple[str, int], Handle] = {}
        self._read = 0  # so many reports have been looked at
        self._early: list[str] = []
        self._marker = ""  # of the host's workers

    def __enter__(self) -> _Round:
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._descendants.values():
            handle.send(signal.SIGKILL)
        self._stack.close()
        self.program.close()

    def judge(self) -> Iterator[str]:
        """Run it; say what was wrong."""
        canary = self._start()
        self._deal()
        status = self._wait_for_end()
        if status is None:
            yield f"the host has not ended; left: {[str(seen) for seen in census.carrying(self.program.mark)]}"
            return
        results = self.directory / "results"
        if results.exists():
            yield from self._judge_results(json.loads(results.read_text()))
        elif not (self.plan.kills_host and status == -signal.Signals[self.plan.end]):
            yield f"the host ended with status {status}"
        try:
            self.program.leaves_nothing()
            gone({f"{label} {pid}": handle for (label, pid), handle in self._descendants.items()})
            eventually(lambda: not self._houses(), otherwise=lambda: f"control groups are left: {self._houses()}")
        except AssertionError as error:
            yield str(error)
        if not canary.alive():
            yield "the canary is dead"
        yield from self._early
        yield from (line for line in self.program.stderr.splitlines() if _is_alarming(line))

    def _houses(self) -> list[str]:
        """Return the control groups that have the host's name."""
        if not self.plan.is_strict:
            return []
        with contextlib.suppress(OSError):  # strict without control groups, if that can be
            return [str(path) for path in Path(house_of_this_process()).parent.glob(f"{self._marker.lower()}*")]
        return []

    def _start(self) -> Handle:
        plan = self.directory / "plan"
        plan.write_text(json.dumps(self.plan._asdict()))
        ledger = self.directory / "ledger"
        ledger.touch()
        for path, mode in ((self.directory, 0o777), (ledger, 0o666), (self.program.rendezvous.path, 0o666)):
            os.chmod(path, mode)  # the host may be another user
        launcher, environment = surround(self.plan.surroundings, self.directory)
        command = [sys.executable, str(_HOST), str(plan), self.program.rendezvous.path, str(ledger)]
        self.program.run([*launcher, *command, str(self.directory / "results")], environment=environment)
        canary = int(self.program.rendezvous.expect("canary").detail)
        self.program.spared.append(canary)
        self._marker = self.program.rendezvous.expect("begun").detail
        return self._stack.enter_context(Handle(canary))

    # --- faults ---

    def _deal(self) -> None:
        start = time.monotonic()
        resumptions: list[tuple[float, Handle]] = []
        faults = list(self.plan.faults)
        while faults or resumptions:
            due = min([fault.at for fault in faults[:1]] + [at for at, _ in resumptions])
            self._listen_until(start + due)
            now = time.monotonic() - start
            while faults and faults[0].at <= now:
                fault = faults.pop(0)
                if (target := self._strike(fault)) and fault.signal == "SIGSTOP":
                    resumptions.append((now + fault.resume_after, target))
            for at, target in [resumption for resumption in resumptions if resumption[0] <= now]:
                target.send(signal.SIGCONT)
                resumptions.remove((at, target))

    def _strike(self, fault: Fault) -> Handle | None:
        if fault.target == "threads":
            self._signal_threads(signal.Signals[fault.signal])
            return None
        found = self._candidates(fault.target)
        if not found:
            return None
        try:
            target = self._stack.enter_context(Handle(found[fault.pick % len(found)]))
        except ProcessLookupError:
            return None
        target.send(signal.Signals[fault.signal])
        self.seen[f"{fault.signal} to {fault.target}"] += 1
        return target

    def _signal_threads(self, signum: signal.Signals) -> None:
        """Signal each thread of the host but the first, so that no call of the supervisor's waits undisturbed."""
        host = self.program.process.pid
        if self.program.process.poll() is not None:  # its number is ours until then
            return
        for thread in sorted(map(int, os.listdir(f"/proc/{host}/task")))[1:]:
            if ctypes.CDLL(None).syscall(_TGKILL[platform.machine()], host, thread, int(signum)) == 0:
                self.seen[f"{signum.name} to a thread"] += 1

    def _candidates(self, target: str) -> list[int]:
        host = self.program.process.pid
        if target == "host":
            return [host] if self.program.process.poll() is None else []
        ours = sorted(
            seen for seen in census.carrying(self.program.mark) if seen.pid not in (host, *self.program.spared)
        )
        janitors = [seen for seen in ours if "janitor_main" in seen.command]
        if target == "janitor":
            return [seen.pid for seen in janitors if seen.ppid != host]
        workers = [seen for seen in ours if seen.ppid == host and seen.sid == seen.pid and seen not in janitors]
        if target == "worker":
            return [seen.pid for seen in workers]
        others = [seen for seen in ours if seen not in workers + janitors and "resource_tracker" not in seen.command]
        return [seen.pid for seen in others if seen.sid != host]

    # --- what is reported ---

    def _listen_until(self, instant: float) -> None:
        while (left := instant - time.monotonic()) > 0:
            self._listen(left)

    def _listen(self, timeout: float) -> None:
        reports = self.program.rendezvous
        reports.listen(timeout)
        for report in reports.reports[self._read :]:
            self._note(report)
        self._read = len(reports.reports)

    def _note(self, report: Report) -> None:
        label, _, kind = report.label.rpartition(".")
        if kind == "settled":
            self._look_at_settled(label, report.detail)
        elif label and kind != "nesting":
            with contextlib.suppress(ProcessLookupError):
                self._descendants[label, report.pid] = self._stack.enter_context(Handle(report.pid))

    def _look_at_settled(self, label: str, outcome: str) -> None:
        """What is alive now was alive when the future was settled."""
        if outcome in _ENDED and not self.plan.does("starve"):
            alive = [handle for (of, _), handle in self._descendants.items() if of == label and handle.alive()]
            if alive:
                self._early.append(f"{label} was settled with {outcome} while these were alive: {alive}")

    def _wait_for_end(self) -> int | None:
        """Wait for the host's end; None if it does not come."""
        deadline = time.monotonic() + _LONGEST_ROUND
        while self.program.process.poll() is None:
            if time.monotonic() > deadline:
                self.program.send(signal.SIGUSR1)  # its stacks, for whoever reads this
                self._listen_until(time.monotonic() + 1.0)
                return None
            self._listen(0.02)
        self._listen(0)
        return self.program.process.returncode

    # --- results ---

    def _judge_results(self, results: dict) -> Iterator[str]:
        runs = Counter((self.directory / "ledger").read_text().split())
        self.seen["SIGUSR2 handled"] += results["signals"]
        self.seen["no room for a thread"] += results["crowded"]
        for task in (step for step in self.plan.steps if step["do"] == "submit"):
            for name in names_of(task):
                if name in results["outcomes"]:
                    yield from self._judge_outcome(task, name, results["outcomes"][name], runs[name])
                elif not results["interrupted"]:
                    yield from self._judge_refusal(name, results["refused"].get(name, "not submitted"))
        for name in (name for name in results["refused"] if name.startswith("resize")):
            yield from self._judge_refusal(name, results["refused"][name])
        for name in results["cancelled"]:
            if results["outcomes"][name]["name"] != "CancelledError":
                yield f"{name} was cancelled, and yet it is {results['outcomes'][name]}"
        yield from self._judge_belongings(results)

    def _judge_belongings(self, results: dict) -> Iterator[str]:
        for what in ("files", "threads"):
            if results[what] and not self.plan.does("starve"):
                yield f"the host has more {what} than before: {results[what]}"

    def _judge_refusal(self, name: str, refusal: str) -> Iterator[str]:
        is_broken = refusal.startswith("InitializerError") and may_break(self.plan)
        is_crowded = "can't start new thread" in refusal and self.plan.does("crowd")
        if not (is_broken or is_crowded):
            yield f"{name} was refused: {refusal}"

    def _judge_outcome(self, task: dict, name: str, outcome: dict, runs: int) -> Iterator[str]:
        self.seen[outcome["name"]] += 1
        allowed = allowed_outcomes(self.plan, task)
        if outcome["name"] not in allowed:
            yield f"{name} ({task['kind']}) is {outcome}, and not one of {sorted(allowed)}"
        elif not outcome["right"]:
            yield f"{name} has a wrong result"
        if outcome.get("calls") != 1:
            yield f"{name} was told {outcome.get('calls')} times"
        if runs > task["runs"]:
            yield f"{name} was run {runs} times"
        if outcome["name"] == "CancelledError" and runs and task["runs"] == 1:
            yield f"{name} is cancelled, and was run"
        if outcome["name"] in ("value", "LookupError") and not runs:
            yield f"{name} has a result without having been run"
        known = exitcodes(self.plan, task)
        if outcome["name"] == "WorkerDiedError" and known is not None and outcome["exitcode"] not in known:
            yield f"{name}: {outcome}, but its worker should have died with one of {sorted(known)}"


def _is_alarming(line: str) -> bool:
    return "Exception in thread" in line or "supervisor failed" in line or "would not die" in line


def main() -> int:
    """Run a campaign; return 1 if it has found anything."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--campaign", type=float, default=60.0, metavar="SECONDS", help="for how long (60)")
    parser.add_argument("--seed", type=int, metavar="N", help="the seed of the first round (a random one, shown)")
    arguments = parser.parse_args()
    campaign = Campaign()
    seed = random.randrange(1_000_000) if arguments.seed is None else arguments.seed
    print(f"{platform.python_implementation()} {platform.python_version()}; the first seed is {seed}", flush=True)
    campaign.run(arguments.campaign, seed)
    print(f"{campaign.rounds} rounds; seen: {dict(sorted(campaign.seen.items()))}")
    print(f"seeds of rounds that failed: {sorted(campaign.findings) or 'none'}")
    return 1 if campaign.findings else 0


if __name__ == "__main__":
    sys.exit(main())
