"""Times and sizes as people write them on a command line."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safepool.run.limits import Limits, check_limits, parse_seconds

pytestmark = pytest.mark.timeout(60)

UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}


@given(st.integers(0, 10**9), st.sampled_from(sorted(UNITS)), st.sampled_from(["", " "]))
def test_number_with_or_without_a_unit_is_seconds(number: int, unit: str, between: str) -> None:
    assert parse_seconds("--timeout", f"{number}{between}{unit}") == number * UNITS[unit]


def test_fraction_is_a_fraction() -> None:
    assert [parse_seconds("--timeout", text) for text in ("1.5m", ".5", "2.", "0.25h")] == [90, 0.5, 2, 900]


@pytest.mark.parametrize("text", ["", " ", "m", "1e3", "-1", "+1", "inf", "nan", "1 m m", "1w", "1.5.2", "9" * 400])
def test_what_is_no_time_is_named(text: str) -> None:
    with pytest.raises(ValueError, match=r"^--grace must be a number of seconds"):
        parse_seconds("--grace", text)


def test_limits_are_none_unless_given() -> None:
    assert check_limits(None, "5", None) == Limits(timeout=None, grace=5.0, memory=None)
    assert check_limits("1m", "0", "10kB") == Limits(timeout=60.0, grace=0.0, memory=10_000)


@pytest.mark.parametrize(("timeout", "memory"), [("0", None), ("0.0h", None), (None, "0GiB"), (None, "0.1B")])
def test_limit_of_zero_is_none_at_all_and_refused(timeout: str | None, memory: str | None) -> None:
    with pytest.raises(ValueError, match=r"must be more than zero; leave it out for no limit$"):
        check_limits(timeout, "5", memory)
