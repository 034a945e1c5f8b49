"""Every case gives sane figures for this library and for the standard library's, at a scale at which none counts."""

from __future__ import annotations

import math

import pytest

from safepool.bench.case import Case
from safepool.bench.cases import CASES
from safepool.bench.peers import PEERS, installed
from safepool.bench.quantiles import median, quantile
from safepool.bench.run import Measurement, Plan, run
from safepool.bench.throughput import ideal_makespan

MAY_BE_NOTHING = {"switches", "left", "import", "told", "task"}  # figures that noise can bring to 0 and below
LACKED = {"submit-timeout", "deadlines", "replace-standby", "overshoot", "tree-end"}  # by the standard library's


def measure(case: str, peer: str) -> Measurement:
    """Make one measurement."""
    (found,) = run(Plan([case], [peer], workers=1, repeat=1, scale="tiny"), lambda _: None).measurements
    return found


def check_figures(case: Case, found: Measurement) -> None:
    """Look for every figure of the case, each with a value that can be."""
    expected = {metric.key for metric in case.metrics} or set(map(str, case.tiny["counts"]))
    if found.figures.get("left"):  # then nobody went, and there is no time
        expected -= {"p50", "p99"}
    assert found.figures.keys() == expected
    for key, value in found.figures.items():
        assert math.isfinite(value), key
        assert value > 0 or key in MAY_BE_NOTHING, key
    assert found.figures.get("efficiency", 0.0) <= 101.0
    assert found.figures.get("makespan", 1.0) > 0.99
    assert found.figures.get("p50", 0.0) <= found.figures.get("p99", 0.0)


@pytest.mark.parametrize("name", CASES)
def test_safepool_does_every_case(name: str) -> None:
    case = CASES[name]
    if not case.suits("safepool"):
        pytest.skip("a case of the standard library alone")

    found = measure(name, "safepool")

    assert (found.error, found.lacks) == ("", "")
    check_figures(case, found)
    assert found.figures.get("left", 0.0) == 0.0


@pytest.mark.parametrize("name", CASES)
def test_stdlib_does_every_case_or_lacks_what_it_takes(name: str) -> None:
    found = measure(name, "stdlib")

    assert found.error == ""
    if found.lacks:
        assert name in LACKED
    else:
        check_figures(CASES[name], found)


@pytest.mark.benchmark
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("peer", sorted(PEERS.keys() - {"safepool", "stdlib"}))
def test_peer_does_every_case_or_is_found_to_fail(name: str, peer: str) -> None:
    """A peer may hang, lose a task or leave processes behind: those are findings. Anything else is a fault of ours."""
    if peer not in installed():
        pytest.skip("not installed")
    if not CASES[name].suits(peer):
        pytest.skip("a case of the standard library alone")

    found = measure(name, peer)

    if found.error:
        assert found.error.startswith(("TimeoutError", "not done after"))
    elif not found.lacks:
        check_figures(CASES[name], found)


@pytest.mark.parametrize(
    ("lengths", "lanes", "expected"), [([3, 1, 1, 1], 2, 3), ([1, 1, 1, 3], 2, 4), ([2], 4, 2), ([1] * 9, 3, 3)]
)
def test_ideal_makespan_is_that_of_list_scheduling(lengths: list[float], lanes: int, expected: float) -> None:
    assert ideal_makespan(lengths, lanes) == expected


def test_quantiles_are_values_that_were_seen() -> None:
    values = [5.0, 1.0, 4.0, 2.0, 3.0]

    assert (quantile(values, 0.5), quantile(values, 0.99), quantile([7.0], 0.99)) == (3.0, 5.0, 7.0)
    assert (median(values), median([1.0, 2.0])) == (3.0, 1.5)
