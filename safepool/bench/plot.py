"""Draw the results of a run as an SVG: rates over the numbers of tasks and workers, and every row over the stdlib.

Written by hand, since it is two kinds of picture only: nobody has to install a plotting library for it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

from safepool.bench.cases import CASES
from safepool.bench.report import STDLIB, US, number, rows
from safepool.bench.run import Results

__all__ = ["draw"]

_COLOURS = (
    "#000000",
    "#e69f00",
    "#b8860b",
    "#56b4e9",
    "#009e73",
    "#cc79a7",
    "#d55e00",
    "#0072b2",
    "#999999",
    "#8b4513",
)
_WIDTH, _PANEL_HEIGHT, _BAR = 960, 340, 20
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 20, 40, 50  # of a panel
_LABELS = 400  # width of the labels beside the bars

Points = list[tuple[float, float]]


@dataclass(frozen=True)
class _Log:
    """A logarithmic axis: values from low to high, at places from first to last."""

    low: float
    high: float
    first: float
    last: float

    def at(self, value: float) -> float:
        share = (math.log10(value) - math.log10(self.low)) / ((math.log10(self.high) - math.log10(self.low)) or 1.0)
        return self.first + share * (self.last - self.first)

    def decades(self) -> list[float]:
        return [10.0**power for power in range(math.ceil(math.log10(self.low)), math.floor(math.log10(self.high)) + 1)]


def draw(results: Results) -> str:
    """Return an SVG document."""
    parts: list[str] = []
    series = [name for name in results.plan.cases if CASES[name].series and results.keys(name)]
    width = _WIDTH / max(1, len(series))
    for place, name in enumerate(series):
        parts += _panel(results, name, place * width, width)
    top = _PANEL_HEIGHT if series else 0
    if series:
        parts += _legend(results.plan.peers, top)
        top += 40
    bars = _bars(results)
    parts += _bar_chart(bars, top)
    height = top + (60 + _BAR * len(bars) if bars else 0)
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" font-family="sans-serif" '
        f'font-size="12">\n<rect width="100%" height="100%" fill="white"/>\n{body}\n</svg>\n'
    )


# --- lines ------------------------------------------------------------------------------------------------------------


def _panel(results: Results, case: str, left: float, width: float) -> list[str]:
    lines = {peer: line for peer in results.plan.peers if (line := _points(results, case, peer))}
    xs = sorted({x for line in lines.values() for x, _ in line})
    ys = [y for line in lines.values() for _, y in line]
    across = _Log(xs[0], xs[-1], left + _LEFT, left + width - _RIGHT)
    up = _Log(_decade_below(min(ys)), _decade_below(max(ys)) * 10, _PANEL_HEIGHT - _BOTTOM, _TOP)
    middle = (across.first + across.last) / 2
    parts = [
        _text(middle, 20, f"no-ops: tasks/s by number of {CASES[case].series}", "middle", bold=True),
        _text(middle, _PANEL_HEIGHT - 12, CASES[case].series, "middle"),
    ]
    for y in up.decades():
        parts += [
            _rule(across.first, up.at(y), across.last, up.at(y)),
            _text(across.first - 6, up.at(y) + 4, f"{y:,.0f}"),
        ]
    for x in xs:
        parts += [
            _rule(across.at(x), up.first, across.at(x), up.last),
            _text(across.at(x), up.first + 18, _short(x), "middle"),
        ]
    for peer, line in lines.items():
        parts += _line([(across.at(x), up.at(y)) for x, y in line], _colour(results.plan.peers, peer), bold=peer == US)
    return parts


def _points(results: Results, case: str, peer: str) -> Points:
    found = [(float(key), results.middle(case, peer, key)) for key in results.keys(case)]
    return [(x, y) for x, y in found if y]


def _line(points: Points, colour: str, *, bold: bool) -> list[str]:
    thick = 3.5 if bold else 1.5
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    dots = [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{thick}" fill="{colour}"/>' for x, y in points]
    return [f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{thick}"/>', *dots]


def _legend(peers: Sequence[str], top: float) -> list[str]:
    step = _WIDTH / len(peers)
    parts = []
    for place, peer in enumerate(peers):
        x = place * step + 12
        parts.append(f'<rect x="{x:.0f}" y="{top:.0f}" width="14" height="4" fill="{_colour(peers, peer)}"/>')
        parts.append(_text(x + 20, top + 7, peer, "start", bold=peer == US))
    return parts


# --- bars -------------------------------------------------------------------------------------------------------------


def _bars(results: Results) -> list[tuple[str, float]]:
    tables = [row for row in rows(results) if not row.case.series]
    return [(row.metric.label, ratio) for row in tables if (ratio := row.ratio(STDLIB)) is not None]


def _bar_chart(bars: list[tuple[str, float]], top: float) -> list[str]:
    if not bars:
        return []
    ratios = [ratio for _, ratio in bars]
    across = _Log(min(0.5, *ratios), max(2.0, *ratios), _LABELS + 60, _WIDTH - 70)
    one = across.at(1.0)
    parts = [_text(_WIDTH / 2, top + 20, f"{US}: how many times better than the standard library", "middle", bold=True)]
    for place, (label, ratio) in enumerate(bars):
        y = top + 36 + place * _BAR
        start, end = sorted((one, across.at(ratio)))
        colour = "#009e73" if ratio >= 1 else "#d55e00"
        parts.append(
            f'<rect x="{start:.1f}" y="{y}" width="{max(1.0, end - start):.1f}" height="{_BAR - 6}" fill="{colour}"/>'
        )
        parts.append(_text(_LABELS, y + 11, label))
        parts.append(_text(end + 5, y + 11, f"{number(ratio, digits=2)}x", "start"))
    return [*parts, f'<path d="M{one:.1f} {top + 30} V{top + 36 + _BAR * len(bars)}" stroke="black"/>']


# --- small things -----------------------------------------------------------------------------------------------------


def _decade_below(value: float) -> float:
    return float(10.0 ** math.floor(math.log10(value)))


def _short(value: float) -> str:
    for size, letter in ((1_000_000, "M"), (1_000, "k")):
        if value >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"


def _colour(peers: Sequence[str], peer: str) -> str:
    return _COLOURS[list(peers).index(peer) % len(_COLOURS)]


def _text(x: float, y: float, text: str, anchor: str = "end", *, bold: bool = False) -> str:
    weight = ' font-weight="bold"' if bold else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{weight}>{escape(text)}</text>'


def _rule(x: float, y: float, to_x: float, to_y: float) -> str:
    return f'<path d="M{x:.1f} {y:.1f} L{to_x:.1f} {to_y:.1f}" stroke="#dddddd"/>'
