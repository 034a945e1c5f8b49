"""``safepool doctor``: what can this machine promise? Each mechanism is tried, and nothing is left behind by that."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import textwrap
from collections.abc import Callable, Iterator
from typing import Any

from safepool.tools.probe import EVERY_POOL, LIMITS, OK, STRICT, TASKS, Finding, Probe

__all__ = ["add_arguments", "main"]

_WIDTH = 100


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what the command takes."""
    parser.add_argument("--json", action="store_true", help="write what was found for programs")
    parser.add_argument("--only", metavar="A,B", help="try just these (the first words of the rows)")


def main(options: argparse.Namespace, refuse: Callable[[str], Any]) -> int:
    """Do what the options say; return 1 if something that every pool needs is degraded or missing."""
    results = [(probe, probe.run()) for probe in _chosen(options.only, refuse)]
    lacking = [probe.name for probe, finding in results if finding.status != OK and probe.needed_for == EVERY_POOL]
    if options.json:
        sys.stdout.write(json.dumps(_as_json(results, lacking), indent=1) + "\n")
    else:
        subject = "all that docs/failure-modes.md promises" if options.only is None else "all that was tried"
        sys.stdout.write("\n".join(_lines(results, lacking, subject)) + "\n")
    return 1 if lacking else 0


def _chosen(text: str | None, refuse: Callable[[str], Any]) -> list[Probe]:
    from safepool.tools import probes_files, probes_limits, probes_pool, probes_process, probes_strict

    modules = (probes_process, probes_files, probes_pool, probes_strict, probes_limits)
    every = [probe for module in modules for probe in module.PROBES]
    if text is None:
        return every
    names = {name.strip() for name in text.split(",")}
    known = [probe.name for probe in every]
    if unknown := sorted(names - set(known)):
        refuse(f"no such probe: {', '.join(unknown) or repr(text)} (there are {', '.join(known)})")
    return [probe for probe in every if probe.name in names]


def _machine() -> dict[str, Any]:
    from safepool import __version__, cpu_count

    return {
        "safepool": __version__,
        "python": platform.python_version(),
        "kernel": platform.release(),
        "cpus": cpu_count(),
        "user": os.geteuid(),
    }


def _as_json(results: list[tuple[Probe, Finding]], lacking: list[str]) -> dict[str, Any]:
    return {
        **_machine(),
        "holds": not lacking,
        "strict_by": _strict_by(results),
        "probes": [
            {
                "name": probe.name,
                "needed_for": probe.needed_for,
                "status": finding.status,
                "found": finding.found,
                "lost": None if finding.status == OK else probe.lost,
                "remedy": None if finding.status == OK else probe.remedy,
            }
            for probe, finding in results
        ],
    }


def _lines(results: list[tuple[Probe, Finding]], lacking: list[str], subject: str) -> Iterator[str]:
    machine = _machine()
    yield "safepool {safepool}, Linux {kernel}, Python {python}, {cpus} CPUs, user {user}".format(**machine)
    headings = {
        EVERY_POOL: "every pool needs:",
        TASKS: "some tasks need:",
        STRICT: 'containment="strict" needs one of:',
        LIMITS: "limits that the kernel itself keeps in a strict pool need:",
    }
    for needed_for, heading in headings.items():
        chosen = [(probe, finding) for probe, finding in results if probe.needed_for == needed_for]
        if chosen:
            yield ""
            yield heading
            for probe, finding in chosen:
                yield from _row(probe, finding)
    yield ""
    if (strict_by := _strict_by(results)) is not None:
        what = "control group" if strict_by == "group" else strict_by
        yield f'containment="strict" is kept by a {what} for each worker here'
    if lacking:
        yield f"not {subject} holds here: {', '.join(lacking)}"
    else:
        yield f"{subject} holds here"


def _strict_by(results: list[tuple[Probe, Finding]]) -> str | None:
    """Return what would keep strict containment, as an executor calls it; None if nothing, or not both were tried."""
    found = {probe.name: finding.status for probe, finding in results if probe.needed_for == STRICT}
    ways = {"cgroup": "group", "guardian": "guardian"}
    if found.keys() != ways.keys():
        return None
    return next((way for name, way in ways.items() if found[name] == OK), None)


def _row(probe: Probe, finding: Finding) -> Iterator[str]:
    yield f"  {finding.status:<8}  {probe.name:<12}  {finding.found}"
    if finding.status != OK:
        yield from _paragraph("lost: ", probe.lost)
        yield from _paragraph("to get it: ", probe.remedy)


def _paragraph(label: str, text: str) -> list[str]:
    indent = " " * 26
    return textwrap.wrap(
        label + text, _WIDTH, initial_indent=indent, subsequent_indent=indent + "  ", break_on_hyphens=False
    )
