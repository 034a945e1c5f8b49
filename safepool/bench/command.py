"""``safepool bench``: its options, and where its results go."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from safepool.bench.run import Results

__all__ = ["add_arguments", "main"]

_DEFAULT_REPEAT = {"tiny": 1, "quick": 3, "full": 7}
_MOST_WORKERS = 1024


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what the command takes."""
    parser.add_argument("--cases", metavar="A,B", help="which cases (default: all; --list shows them)")
    parser.add_argument("--peers", metavar="A,B", help="which pools (default: all that are installed)")
    parser.add_argument("--repeat", type=_count, metavar="N", help="how often (default: by scale: 1, 3, 7)")
    parser.add_argument("--scale", default="quick", choices=list(_DEFAULT_REPEAT), help="how much (default: quick)")
    parser.add_argument("--workers", type=_count, metavar="N", help="workers of each pool (default: one per CPU)")
    parser.add_argument("--json", metavar="FILE", help="write every figure")
    parser.add_argument("--markdown", metavar="FILE", help="write the tables (default: to standard output)")
    parser.add_argument("--plot", metavar="FILE", help="write an SVG")
    parser.add_argument("--write", metavar="FILE", help="renew the figures in a document, and the SVG beside it")
    parser.add_argument("--show", metavar="FILE", help="measure nothing: take the figures that --json has written")
    parser.add_argument("--list", action="store_true", help="show the cases and pools, and measure nothing")


def main(options: argparse.Namespace, refuse: Callable[[str], Any]) -> int:
    """Do what the options say; ``refuse`` is called with what is wrong with them, and does not return."""
    from safepool.bench.cases import CASES
    from safepool.bench.peers import installed

    if options.list:
        sys.stdout.write(f"cases: {', '.join(CASES)}\npools: {', '.join(installed())}\n")
        return 0
    _check_files(options, refuse)
    _write(_read(options.show, refuse) if options.show else _measure(options, refuse), options)
    return 0


def _measure(options: argparse.Namespace, refuse: Callable[[str], Any]) -> Results:
    """Make the measurements that the options ask for; a SIGTERM ends them as Ctrl-C does."""
    from safepool._pool.cpus import cpu_count
    from safepool.bench.cases import CASES
    from safepool.bench.peers import PEERS, installed
    from safepool.bench.run import Plan, run

    cases = _chosen(options.cases, list(CASES), "case", refuse)
    peers = installed() if options.peers is None else _chosen(options.peers, list(PEERS), "pool", refuse)
    if missing := [peer for peer in peers if peer not in installed()]:
        refuse(f"not installed: {', '.join(missing)}")
    repeat = options.repeat or _DEFAULT_REPEAT[options.scale]
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return run(Plan(cases, peers, options.workers or cpu_count(), repeat, options.scale), _tell)
    finally:
        signal.signal(signal.SIGTERM, before)


def _read(path: str, refuse: Callable[[str], Any]) -> Results:
    """Return the results of a run that was kept."""
    from safepool.bench.run import Results

    try:
        with open(path, encoding="utf-8") as file:
            return Results.from_json(json.load(file))
    except (OSError, ValueError, LookupError, TypeError) as error:
        refuse(f"cannot show {path}: {error!r}")
        raise


def _chosen(text: str | None, known: Sequence[str], kind: str, refuse: Callable[[str], Any]) -> list[str]:
    """Return the names in a list with commas, each once, in the order of the table."""
    if text is None:
        return list(known)
    names = {name.strip() for name in text.split(",")}
    if unknown := sorted(names - set(known)):
        refuse(f"no such {kind}: {', '.join(unknown) or repr(text)} (there are {', '.join(known)})")
    return [name for name in known if name in names]


def _check_files(options: argparse.Namespace, refuse: Callable[[str], Any]) -> None:
    """Find out before the measuring, which takes long, that a file cannot be written."""
    from safepool.bench.report import replace_between_markers

    for path in filter(None, (options.json, options.markdown, options.plot)):
        if os.path.isdir(path) or not os.access(os.path.dirname(os.path.abspath(path)), os.W_OK):
            refuse(f"cannot write {path}")
    if options.write:
        try:
            with open(options.write, "r+", encoding="utf-8") as document:
                replace_between_markers(document.read(), "")
        except (OSError, ValueError) as error:
            refuse(f"cannot renew {options.write}: {error}")


def _write(results: Results, options: argparse.Namespace) -> None:
    from safepool.bench.plot import draw
    from safepool.bench.report import render, replace_between_markers

    if options.json:
        _save(options.json, json.dumps(results.as_json(), indent=1) + "\n")
    if options.plot:
        _save(options.plot, draw(results))
    if options.write:
        picture = os.path.splitext(options.write)[0] + ".svg"
        _save(picture, draw(results))
        with open(options.write, encoding="utf-8") as document:
            text = document.read()
        _save(options.write, replace_between_markers(text, render(results, os.path.basename(picture))))
    if options.markdown:
        _save(
            options.markdown,
            render(results, options.plot and os.path.relpath(options.plot, os.path.dirname(options.markdown) or ".")),
        )
    elif not options.write:
        sys.stdout.write(render(results))


def _tell(line: str) -> None:
    sys.stderr.write(f"{line}\n")


def _save(path: str, text: str) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)


def _count(text: str) -> int:
    value = int(text)
    if not 1 <= value <= _MOST_WORKERS:
        raise argparse.ArgumentTypeError(f"{value} is not between 1 and {_MOST_WORKERS:,}")
    return value
