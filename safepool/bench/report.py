"""Show the results of a run as tables of Markdown."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from safepool.bench.case import Case, Metric
from safepool.bench.cases import CASES
from safepool.bench.quantiles import median
from safepool.bench.run import Results

__all__ = ["BEGIN", "END", "Row", "render", "replace_between_markers", "rows"]

BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"
US, STDLIB = "safepool", "stdlib"
_TITLES = {
    "throughput": "Throughput",
    "latency": "Latency",
    "data": "Data",
    "footprint": "What a pool takes while nothing happens",
    "endings": "Until processes are gone",
    "scaling": "Scaling",
}
_EXACT_BELOW = 1000  # from here on figures are shown without decimals, and with commas
_DIGITS = 3


@dataclass(frozen=True)
class Row:
    """A line of a table: one figure, for every peer."""

    case: Case
    metric: Metric
    results: Results

    def ratio(self, peer: str) -> float | None:
        """Return how many times better we are than the peer (median over the turns); None if that says nothing."""
        ours = self.results.figures(self.case.name, US, self.metric.key)
        theirs = self.results.figures(self.case.name, peer, self.metric.key)
        turns = [turn for turn in ours.keys() & theirs.keys() if ours[turn] > 0 and theirs[turn] > 0]
        ratios = [ours[turn] / theirs[turn] for turn in turns]
        if not ratios:
            return None
        return median(ratios) if self.metric.more_is_better else 1 / median(ratios)

    def best_peer(self) -> str | None:
        """Return who of the others is best at it; None if nobody does it."""
        others = {peer: self.middle(peer) for peer in self.results.plan.peers if peer != US}
        able = {peer: figure for peer, figure in others.items() if figure is not None}
        if not able:
            return None
        return (max if self.metric.more_is_better else min)(able, key=lambda peer: able[peer])

    def middle(self, peer: str) -> float | None:
        """Return the peer's median."""
        return self.results.middle(self.case.name, peer, self.metric.key)


def rows(results: Results) -> Iterator[Row]:
    """Yield every row for which somebody has a figure."""
    for name in results.plan.cases:
        case, keys = CASES[name], results.keys(name)
        metrics = case.metrics or tuple(
            Metric(key, f"no-ops, {int(key):,} {case.series}", "tasks/s", more_is_better=True) for key in keys
        )
        yield from (Row(case, metric, results) for metric in metrics if metric.key in keys)


def render(results: Results, plot: str | None = None) -> str:
    """Return tables, what was measured where, and what went wrong; with a link to the plot."""
    troubles: list[str] = []
    parts = [_heading(results)]
    if plot is not None:
        parts.append(f"![Rates by the number of tasks and of workers, and each row over the standard library]({plot})")
    all_rows = list(rows(results))
    for group, title in _TITLES.items():
        if in_group := [row for row in all_rows if row.case.group == group]:
            parts.append(f"### {title}\n\n{_table(in_group, results, troubles)}")
    parts += [f"{number}. {trouble}" for number, trouble in enumerate(troubles, 1)]
    return "\n\n".join(parts) + "\n"


def replace_between_markers(text: str, figures: str) -> str:
    """Return a document with new figures in place of the old ones.

    Raises:
        ValueError: It has no markers.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"no {BEGIN} ... {END} in it")
    return f"{before}{begin}\n\n{figures}\n{end}{after}"


def _heading(results: Results) -> str:
    plan = results.plan
    machine = "; ".join(f"{name}: {value}" for name, value in results.machine.items())
    versions = ", ".join(
        f"{peer} {version}" for peer, version in results.versions.items() if not version.startswith("Py")
    )
    times = "once" if plan.repeat == 1 else f"{plan.repeat} times, the peers in turns; medians, ± half of the range"
    return f"{machine}. {plan.workers} workers, scale `{plan.scale}`, {times}.\n\nVersions: {versions}."


def _table(in_group: list[Row], results: Results, troubles: list[str]) -> str:
    peers = results.plan.peers
    head = ["", "unit", *peers, f"over {STDLIB}", "over the best other"]
    lines = [head, ["---", "---", *["---:"] * (len(head) - 2)]]
    for row in in_group:
        cells = [_cell(row, peer, troubles) for peer in peers]
        lines.append([row.metric.label, row.metric.unit, *cells, _times(row.ratio(STDLIB)), _over_best(row)])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cell(row: Row, peer: str, troubles: list[str]) -> str:
    results, name = row.results, row.case.name
    if trouble := results.trouble(name, peer):
        note = f"`{name}`, {peer}: {_in_one_line(trouble)}"
        if note not in troubles:
            troubles.append(note)
        return f"error [{troubles.index(note) + 1}]"
    figures = list(results.figures(name, peer, row.metric.key).values())
    if not figures:
        return "never" if results.middle(name, peer, "left") else "-"
    middle = median(figures)
    if len(figures) == 1 or middle == 0:
        return number(middle)
    return f"{number(middle)} ±{(max(figures) - min(figures)) / 2 / middle:.0%}"


def _over_best(row: Row) -> str:
    best = row.best_peer()
    if best is None or (ratio := row.ratio(best)) is None:
        return "-"
    return f"{_times(ratio)} ({best})"


def _times(ratio: float | None) -> str:
    return "-" if ratio is None else f"{number(ratio, digits=2)}x"


def number(value: float, digits: int = _DIGITS) -> str:
    """Return a figure with as many digits as mean something."""
    if float(value).is_integer() and abs(value) < _EXACT_BELOW:
        return f"{value:.0f}"
    if abs(value) >= _EXACT_BELOW:
        return f"{round(value, digits - 1 - _magnitude(value)):,.0f}"
    return f"{value:.{max(0, digits - 1 - _magnitude(value))}f}"


def _magnitude(value: float) -> int:
    return math.floor(math.log10(abs(value)))


def _in_one_line(text: str) -> str:
    return " ".join(text.split()).replace("|", "/")
