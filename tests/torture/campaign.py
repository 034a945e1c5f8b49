"""A random campaign: pools with random options, random tasks, random faults; each round is judged from outside.

    python campaign.py --campaign 600 --seed 1

Rounds have the seeds N, N+1, ... until the time is up. One that fails prints its own seed; ``--seed`` with that number
has it again, whole: its plan is drawn before it starts. (What the kernel's scheduler makes of it is another matter.)
"""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))

from support import census
from support.campaign_plan import Fault, Plan, allowed_outcomes, draw, exitcodes, may_break, names_of
from support.handles import Handle, gone
from support.hosts import Program
from support.rendezvous import Report

__all__ = ["Campaign"]

_HOST = Path(__file__).parents[1] / "support" / "campaign_host.py"
_LONGEST_ROUND = 240.0  # seconds; what hangs for longer hangs for good
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
        """Run the round of that seed."""
        plan = draw(seed)
        with tempfile.TemporaryDirectory(prefix="campaign-") as directory, _Round(plan, Path(directory)) as this:
            findings = list(this.judge())
            self.rounds += 1
            self.seen += this.seen
            if findings:
                self.findings[seed] = findings
                print(f"seed {seed}: {json.dumps(findings, indent=1)}\nplan: {json.dumps(plan)}", file=sys.stderr)
                print(f"stderr of the host:\n{this.program.stderr[-6000:]}", file=sys.stderr, flush=True)


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
        except AssertionError as error:
            yield str(error)
        if not canary.alive():
            yield "the canary is dead"
        yield from self._early
        yield from (line for line in self.program.stderr.splitlines() if _is_alarming(line))

    def _start(self) -> Handle:
        plan = self.directory / "plan"
        plan.write_text(json.dumps(self.plan._asdict()))
        ledger = self.directory / "ledger"
        ledger.touch()
        command = [sys.executable, str(_HOST), str(plan), self.program.rendezvous.path, str(ledger)]
        self.program.run([*command, str(self.directory / "results")])
        canary = int(self.program.rendezvous.expect("canary").detail)
        self.program.spared.append(canary)
        self.program.rendezvous.expect("begun")
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
        starved = any(step["do"] == "starve" for step in self.plan.steps)
        if outcome in _ENDED and not starved:
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
        starved = any(step["do"] == "starve" for step in self.plan.steps)
        for task in (step for step in self.plan.steps if step["do"] == "submit"):
            for name in names_of(task):
                if name in results["outcomes"]:
                    yield from self._judge_outcome(task, name, results["outcomes"][name], runs[name])
                elif not results["interrupted"]:
                    yield from self._judge_refusal(name, results["refused"].get(name, "not submitted"))
        for name in results["cancelled"]:
            if results["outcomes"][name]["name"] != "CancelledError":
                yield f"{name} was cancelled, and yet it is {results['outcomes'][name]}"
        for what in ("files", "threads"):
            if results[what] and not starved:
                yield f"the host has more {what} than before: {results[what]}"

    def _judge_refusal(self, name: str, refusal: str) -> Iterator[str]:
        if not (refusal.startswith("InitializerError") and may_break(self.plan)):
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
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="the seed of the first round (0)")
    arguments = parser.parse_args()
    campaign = Campaign()
    campaign.run(arguments.campaign, arguments.seed)
    print(f"{campaign.rounds} rounds; seen: {dict(sorted(campaign.seen.items()))}")
    print(f"seeds of rounds that failed: {sorted(campaign.findings) or 'none'}")
    return 1 if campaign.findings else 0


if __name__ == "__main__":
    sys.exit(main())
