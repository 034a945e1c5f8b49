"""What comes in is checked at the door, and named when it is wrong."""

from __future__ import annotations

import contextlib
import io
import pickle
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safepool._pool.door import check_callable, check_count, check_reducers, check_seconds

pytestmark = pytest.mark.timeout(60)


@given(st.floats(min_value=0, exclude_min=True, allow_infinity=False) | st.integers(1, 10**9) | st.just(Fraction(1, 3)))
def test_seconds_above_zero_pass_as_a_float(value: Any) -> None:
    seconds = check_seconds("timeout", value)
    assert type(seconds) is float
    assert seconds == float(value)


def test_no_limit_passes() -> None:
    assert check_seconds("timeout", None) is None
    assert check_count("count", None) is None


@pytest.mark.parametrize("allow_zero", [True, False])
def test_seconds_that_make_no_sense_are_named_with_their_value(allow_zero: bool) -> None:
    for value in (-1, -0.001, float("inf"), float("-inf"), float("nan")):
        with pytest.raises(ValueError, match=f"^timeout must be .*, not {value!r}$"):
            check_seconds("timeout", value, allow_zero=allow_zero)


def test_seconds_that_no_float_can_hold_are_a_value_error() -> None:
    with pytest.raises(ValueError, match=r"^timeout must be "):
        check_seconds("timeout", 10**400)


def test_zero_seconds_pass_only_where_they_are_allowed() -> None:
    assert check_seconds("grace", 0, allow_zero=True) == 0.0
    with pytest.raises(ValueError, match="above zero"):
        check_seconds("timeout", 0)


def test_seconds_that_are_no_number_are_a_type_error() -> None:
    wrong: list[Any] = ["1", b"1", True, False, 1j, [1], object]
    for value in wrong:
        with pytest.raises(TypeError, match=r"^timeout must be a number of seconds or None, not "):
            check_seconds("timeout", value)


@given(st.integers(1))
def test_count_of_one_or_more_passes(value: int) -> None:
    assert check_count("max_workers", value) == value


def test_count_below_one_is_a_value_error_as_the_standard_library_s() -> None:
    for value in (0, -1, -(10**30)):
        with pytest.raises(ValueError, match=f"^max_workers must be greater than 0, not {value}$"):
            check_count("max_workers", value)


def test_count_that_is_no_integer_is_a_type_error() -> None:
    wrong: list[Any] = [1.0, "1", True, [1]]
    for value in wrong:
        with pytest.raises(TypeError, match=r"^max_workers must be an integer or None, not "):
            check_count("max_workers", value)


def test_callable_passes_and_anything_else_is_a_type_error() -> None:
    check_callable("initializer", len)
    check_callable("initializer", int)
    for value in (None, 3, "len"):
        with pytest.raises(TypeError, match=f"^initializer must be callable, not {value!r}$"):
            check_callable("initializer", value)  # type: ignore[arg-type]


def test_reducers_pass_as_a_copy() -> None:
    given = {Fraction: str}
    passed = check_reducers("job_reducers", given)
    given.clear()
    assert passed == {Fraction: str}
    assert check_reducers("job_reducers", None) == {}


@pytest.mark.parametrize("wrong", [[Fraction], {"Fraction": str}, {Fraction: "str"}, {Fraction: None}, 3])
def test_reducers_that_are_no_table_are_a_type_error(wrong: Any) -> None:
    with pytest.raises(TypeError, match=r"^job_reducers must map types to reduction functions, not "):
        check_reducers("job_reducers", wrong)


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        7,
        1.5,
        "x",
        b"x",
        bytearray(b"x"),
        (1,),
        [1],
        {1: 2},
        {1},
        frozenset({1}),
        1j,
        int,
        Fraction,
        iter,
        check_count,
    ],
)
def test_types_that_pickle_asks_nobody_about_are_refused_and_no_others(value: Any) -> None:
    """The oracle is pickle: is a reducer for the type of this value asked, or not?"""
    asked: list[Any] = []
    pickler = pickle.Pickler(io.BytesIO())
    pickler.dispatch_table = {type(value): lambda value: asked.append(value) or "iter"}
    with contextlib.suppress(pickle.PicklingError):
        pickler.dump(value)
    if asked:
        check_reducers("job_reducers", {type(value): str})
    else:
        with pytest.raises(ValueError, match=rf"^job_reducers must be .*, not {type(value)!r}$"):
            check_reducers("job_reducers", {type(value): str})
