"""What comes in is checked at the door, and named when it is wrong."""

from __future__ import annotations

import contextlib
import io
import pickle
import re
from collections import ChainMap
from fractions import Fraction
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safepool._pool.door import (
    check_callable,
    check_choice,
    check_count,
    check_cpus,
    check_environment,
    check_number,
    check_reducers,
    check_seconds,
    check_size,
    check_terms,
)
from safepool._pool.terms import Terms

pytestmark = pytest.mark.timeout(60)


@pytest.mark.parametrize("value", [0.01, 1, 1.5, Fraction(1, 3), 1 << 20])
def test_cpus_pass_as_a_float(value: Any) -> None:
    cpus = check_cpus("cpu_limit", value)
    assert type(cpus) is float
    assert cpus == float(value)


@pytest.mark.parametrize("value", [0, 0.001, -1, (1 << 20) + 1, 1e300, 10**400, float("inf"), float("nan")])
def test_cpus_that_no_machine_has_are_refused_with_what_would_do(value: Any) -> None:
    complaint = f"cpu_limit must be a number of CPUs from 0.01 to 1,048,576 (None for no limit), not {value!r}"
    with pytest.raises(ValueError, match=rf"^{re.escape(complaint)}$"):
        check_cpus("cpu_limit", value)


@pytest.mark.parametrize("value", [True, "1", b"1", 1j, [1]])
def test_what_is_no_number_of_cpus_is_named(value: Any) -> None:
    with pytest.raises(TypeError, match=rf"^cpu_limit must be a number of CPUs or None, not {re.escape(repr(value))}$"):
        check_cpus("cpu_limit", value)


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


# --- sizes ---

MIB = 1 << 20
FACTORS = {
    "B": 1,
    "kB": 1000,
    "KB": 1000,
    "MB": 1000**2,
    "GB": 1000**3,
    "TB": 1000**4,
    "KiB": 1 << 10,
    "MiB": 1 << 20,
    "GiB": 1 << 30,
    "TiB": 1 << 40,
}
LEAST = 32 * MIB


@given(st.integers(LEAST))
def test_size_in_bytes_passes(value: int) -> None:
    assert check_size("memory_limit", value) == value


def test_no_size_is_no_limit() -> None:
    assert check_size("memory_limit", None) is None


@given(
    st.integers(1, 4096),
    st.sampled_from(sorted(FACTORS)),
    st.sampled_from(["", " ", "  "]),
    st.sampled_from(["", " ", "\n"]),
)
def test_size_with_a_unit_is_that_many_of_it(count: int, unit: str, between: str, around: str) -> None:
    size = max(count * FACTORS[unit], LEAST)
    number = size // FACTORS[unit] + 1
    assert check_size("memory_limit", f"{around}{number}{between}{unit}{around}") == number * FACTORS[unit]


@pytest.mark.parametrize(
    ("text", "size"),
    [("1.5GiB", 3 << 29), ("0.5 GB", 500_000_000), (".25TiB", 1 << 38), ("64.MiB", 64 * MIB), ("00064MiB", 64 * MIB)],
)
def test_size_may_have_a_fraction(text: str, size: int) -> None:
    assert check_size("memory_limit", text) == size


NO_SIZES = [
    *("", " ", "2", "GiB", "2G", "2Gi", "2gb", "2GIB", "2mib", "2kiB", "2PiB", "2 Gi B", "2GiB2", "2GiB 2GiB"),
    *("-2GiB", "+2GiB", "1e3MiB", "1,5GiB", "1_000MiB", "0x10GiB", "nanMiB", "infGiB", "1..5GiB", ".GiB", "1.5.2GiB"),
    "9" * 400 + "GiB",
]


@pytest.mark.parametrize("text", NO_SIZES)
def test_text_that_is_no_size_is_named_with_the_text(text: str) -> None:
    wanted = rf"^memory_limit must be a size with a unit, .*, not {re.escape(repr(text))}$"
    with pytest.raises(ValueError, match=wanted):
        check_size("memory_limit", text)


@given(st.text() | st.text("0123456789. kKMGTiB"))
def test_any_text_is_a_size_or_a_value_error_that_names_it(text: str) -> None:
    size: int | None = LEAST
    complaint = f"memory_limit must be {text!r}"
    try:
        size = check_size("memory_limit", text)
    except ValueError as error:
        complaint = str(error)
    assert size is not None
    assert size >= LEAST
    assert complaint.startswith("memory_limit must be ")
    assert repr(text) in complaint


@pytest.mark.parametrize("value", [0, -1, 1, LEAST - 1, "0B", "31MiB", "32MB", "33KB", "1 B"])
def test_size_that_no_worker_can_be_made_in_is_a_value_error(value: Any) -> None:
    with pytest.raises(ValueError, match=rf"^memory_limit must be 32 MiB or more, not {value!r}: "):
        check_size("memory_limit", value)


def test_least_size_passes() -> None:
    assert check_size("memory_limit", LEAST) == check_size("memory_limit", "32MiB") == LEAST


def test_size_that_is_neither_number_nor_text_is_a_type_error() -> None:
    wrong: list[Any] = [True, False, 1e9, b"2GiB", ["2GiB"], 2j, float("nan")]
    for value in wrong:
        with pytest.raises(TypeError, match=r"^max_worker_memory must be a number of bytes, a text like "):
            check_size("max_worker_memory", value)


# --- terms ---


def test_terms_are_those_there_were_but_for_what_is_given() -> None:
    base = Terms(timeout=10.0, retries=2, priority=-1, soft_timeout=5.0, memory_limit=1 << 30)
    assert check_terms(base) == base
    assert check_terms(base, timeout=6, memory_limit="64MiB") == Terms(
        timeout=6.0, retries=2, priority=-1, soft_timeout=5.0, memory_limit=64 * MIB
    )
    assert check_terms(base, soft_timeout=None, timeout=None, memory_limit=None) == Terms(retries=2, priority=-1)
    assert base.timeout == 10.0


def test_constructor_s_name_for_the_timeout_means_the_same() -> None:
    assert check_terms(task_timeout=3) == check_terms(timeout=3) == Terms(timeout=3.0)


@given(st.floats(0.001, 1e6), st.floats(0.001, 1e6))
def test_soft_timeout_must_come_before_the_timeout(soft: float, hard: float) -> None:
    if soft < hard:
        assert check_terms(soft_timeout=soft, timeout=hard) == Terms(timeout=hard, soft_timeout=soft)
        return
    message = f"soft_timeout must be less than the timeout ({hard:g} s), not {soft!r}"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        check_terms(soft_timeout=soft, timeout=hard)


def test_contradiction_with_what_there_was_is_one_too() -> None:
    for base, changes in (
        (Terms(timeout=5.0), {"soft_timeout": 5}),
        (Terms(soft_timeout=5.0), {"timeout": 5}),
        (Terms(soft_timeout=5.0), {"task_timeout": 1}),
    ):
        with pytest.raises(ValueError, match="soft_timeout must be less than the timeout"):
            check_terms(base, **changes)


def test_soft_timeout_alone_contradicts_nothing() -> None:
    assert check_terms(soft_timeout=1e9).soft_timeout == 1e9
    assert check_terms(Terms(timeout=1.0), soft_timeout=2, timeout=None) == Terms(soft_timeout=2.0)


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("timeout", 0, ValueError),
        ("task_timeout", "1", TypeError),
        ("soft_timeout", -1, ValueError),
        ("memory_limit", "much", ValueError),
        ("retries", -1, ValueError),
        ("retries", None, TypeError),
        ("priority", 1.5, TypeError),
    ],
)
def test_bad_term_is_named_as_it_was_given(name: str, value: object, error: type[Exception]) -> None:
    with pytest.raises(error, match=f"^{name} must be .*, not {value!r}$"):
        check_terms(**{name: value})


# --- numbers and choices ---


@given(st.integers(0))
def test_number_of_nothing_or_more_passes(value: int) -> None:
    assert check_number("retries", value) == value


@given(st.integers())
def test_number_without_a_least_one_may_be_any(value: int) -> None:
    assert check_number("priority", value, least=None) == value


def test_choice_passes_and_anything_else_is_named_with_the_choices() -> None:
    assert check_choice("when_full", "raise", ("block", "raise")) == "raise"
    for value in ("Raise", "", None, ["raise"], b"raise", 1):
        with pytest.raises(
            ValueError, match=rf"^when_full must be one of 'block', 'raise', not {re.escape(repr(value))}$"
        ):
            check_choice("when_full", value, ("block", "raise"))


# --- environments ---

NAMES = st.text(st.characters(blacklist_characters="=\0", blacklist_categories=["Cs"]), min_size=1)
VALUES = st.text(st.characters(blacklist_characters="\0", blacklist_categories=["Cs"]))


@given(st.dictionaries(NAMES, VALUES))
def test_environment_passes_as_a_copy(variables: dict[str, str]) -> None:
    checked = check_environment("env", variables)
    assert checked == variables
    assert checked is not variables


def test_environment_may_be_any_mapping_or_none() -> None:
    assert check_environment("env", None) == {}
    assert check_environment("env", MappingProxyType({"A": "b=c"})) == {"A": "b=c"}
    assert check_environment("env", ChainMap({"A": ""}, {"B": "2"})) == {"A": "", "B": "2"}


@pytest.mark.parametrize("value", ["A=b", "", 0, 5, [], [("A", "b")], {"A"}, b"A"])
def test_environment_that_is_no_mapping_is_a_type_error(value: Any) -> None:
    with pytest.raises(TypeError, match=rf"^env must be a mapping of strings or None, not {re.escape(repr(value))}$"):
        check_environment("env", value)


@pytest.mark.parametrize("value", [{"A": 1}, {1: "a"}, {"A": None}, {b"A": "b"}, {"A": b"b"}])
def test_environment_of_anything_but_text_is_a_type_error(value: Any) -> None:
    with pytest.raises(TypeError, match=r"^env must map strings to strings, not "):
        check_environment("env", value)


@pytest.mark.parametrize(
    "value", [{"": "a"}, {"A=B": "c"}, {"=": "c"}, {"A\0B": "c"}, {"A": "b\0"}, {"A": "\ud800"}, {"\ud800": "b"}]
)
def test_variable_that_no_environment_can_hold_is_a_value_error(value: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"^env: .* cannot stand in an environment$"):
        check_environment("env", {"GOOD": "1", **value})


def test_text_that_the_system_gave_may_go_back_to_it() -> None:
    """A path that is not UTF-8, as ``os.environ`` and ``os.listdir`` show it."""
    assert check_environment("env", {"A": "\udcff"}) == {"A": "\udcff"}
