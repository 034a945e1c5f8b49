"""What a run found is shown as it is: figures, ratios the right way round, and what went wrong."""

from __future__ import annotations

import json
from xml.etree import ElementTree as ET

import pytest

from safepool.bench.plot import draw
from safepool.bench.report import BEGIN, END, number, render, replace_between_markers, rows
from safepool.bench.run import Measurement, Plan, Results

PEERS = ["safepool", "stdlib", "loky"]


def results(*measurements: Measurement) -> Results:
    cases = list(dict.fromkeys(found.case for found in measurements))
    plan = Plan(cases, PEERS, workers=2, repeat=2, scale="tiny")
    return Results(plan, {"CPU": "one"}, {"loky": "3"}, list(measurements))


@pytest.fixture
def found() -> Results:
    rates = [("safepool", 0, 3000.0), ("safepool", 1, 1000.0), ("stdlib", 0, 1000.0), ("stdlib", 1, 500.0)]
    return results(
        *(Measurement("submit", peer, turn, {"rate": rate}) for peer, turn, rate in rates),
        Measurement("submit", "loky", 0, error="TimeoutError: lost | gone"),
        *(
            Measurement("round-trip", peer, 0, {"p50": us, "p99": 9 * us})
            for peer, us in zip(PEERS, (50, 100, 25), strict=True)
        ),
        Measurement("host-kill", "safepool", 0, {"left": 0.0, "p50": 3.0, "p99": 4.0}),
        Measurement("host-kill", "stdlib", 0, {"left": 40.0}),
        Measurement("host-kill", "loky", 0, lacks="a thing"),
        Measurement("scale-tasks", "safepool", 0, {"10": 100.0, "1000": 5000.0}),
        Measurement("scale-tasks", "stdlib", 0, {"10": 200.0}),
    )


def line_of(text: str, label: str) -> list[str]:
    (line,) = (line for line in text.splitlines() if line.startswith(f"| {label} |"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_row_shows_median_spread_and_ratio_turn_by_turn(found: Results) -> None:
    cells = line_of(render(found), "submit and gather no-ops")

    assert cells == [
        "submit and gather no-ops", "tasks/s", "2,000 ±50%", "750 ±33%", "error [1]", "2.5x", "2.5x (stdlib)"
    ]  # fmt: skip


def test_ratio_above_one_is_better_for_times_too(found: Results) -> None:
    cells = line_of(render(found), "round trip, p50")

    assert cells[2:] == ["50", "100", "25", "2x", "0.50x (loky)"]


def test_error_stands_below_the_tables_in_one_line(found: Results) -> None:
    assert "\n1. `submit`, loky: TimeoutError: lost / gone\n" in render(found)


def test_peer_whose_processes_stay_has_no_time_but_never(found: Results) -> None:
    text = render(found)

    assert line_of(text, "host killed, 8 workers with 4 children each, p50")[2:] == ["3", "never", "-", "-", "-"]
    assert line_of(text, "still there 5 s later")[2:] == ["0", "40", "-", "-", "-"]


def test_series_has_a_row_for_each_number(found: Results) -> None:
    labels = [row.metric.label for row in rows(found) if row.case.series]

    assert labels == ["no-ops, 10 tasks", "no-ops, 1,000 tasks"]


def test_plot_is_a_picture_with_a_line_for_each_peer_and_a_bar_for_each_row(found: Results) -> None:
    picture = ET.fromstring(draw(found))

    names = [element.tag.rpartition("}")[2] for element in picture.iter()]
    texts = [element.text for element in picture.iter() if element.tag.endswith("text")]
    assert names.count("polyline") == 2  # nothing is drawn for whom there are no figures
    assert {"2.5x", "2x", "round trip, p50", *PEERS} <= set(texts)


def test_plot_of_nothing_is_a_picture() -> None:
    assert ET.fromstring(draw(results())).tag.endswith("svg")


def test_json_has_every_measurement(found: Results) -> None:
    assert len(json.loads(json.dumps(found.as_json()))["measurements"]) == len(found.measurements)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.0, "0"),
        (0.01234, "0.0123"),
        (1.5, "1.50"),
        (99.96, "100.0"),
        (1234.5, "1,230"),
        (9876543.2, "9,880,000"),
        (7.0, "7"),
    ],
)
def test_figures_have_three_digits(value: float, shown: str) -> None:
    assert number(value) == shown


def test_figures_in_a_document_are_replaced_and_nothing_else() -> None:
    text = f"before\n{BEGIN}\nold\n{END}\nafter\n"

    once = replace_between_markers(text, "new\n")

    assert once == f"before\n{BEGIN}\n\nnew\n\n{END}\nafter\n"
    assert replace_between_markers(once, "new\n") == once


@pytest.mark.parametrize("text", ["nothing", BEGIN, END, f"{END} {BEGIN}"])
def test_document_without_markers_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="figures: begin"):
        replace_between_markers(text, "new")
