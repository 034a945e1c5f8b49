"""Values travel by reference where the other side can import them, and by value where it cannot."""

from __future__ import annotations

import copyreg
import math
import pickle
import threading
from collections.abc import Callable, Iterator
from multiprocessing.reduction import ForkingPickler
from pickle import loads
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from safepool._worker.payload import dumps, dumps_by_value, is_plain

pytestmark = pytest.mark.timeout(60)


class Refusing:
    """Cannot be pickled, and says each time that it was asked."""

    def __init__(self) -> None:
        self.asked = 0

    def __reduce__(self) -> tuple[Any, ...]:
        self.asked += 1
        raise LookupError(f"asked {self.asked} times")


class Handmade:
    """Has no way to be pickled but the one that multiprocessing was told of."""

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError("not this way")


@pytest.fixture
def registered() -> Iterator[None]:
    ForkingPickler.register(Handmade, lambda value: (str, ("rebuilt",)))
    yield
    del ForkingPickler._extra_reducers[Handmade]  # type: ignore[attr-defined]  # there is no public way back


def test_what_can_be_imported_travels_by_reference() -> None:
    for value in (math.sqrt, threading.Thread, Refusing, dumps):
        content = dumps(value)
        assert loads(content) is value
        assert len(content) < 100


@settings(max_examples=30)
@given(
    st.recursive(
        st.none() | st.integers() | st.text() | st.binary() | st.floats(allow_nan=False), st.lists, max_leaves=6
    )
)
def test_value_comes_back_equal(value: object) -> None:
    assert loads(dumps(value)) == value
    assert loads(dumps_by_value(value)) == value


def test_lambda_travels_by_value() -> None:
    double: Callable[[int], int] = lambda number: number * 2  # noqa: E731  # the point of the test
    copy = loads(dumps(double))
    assert copy is not double
    assert copy(21) == 42


def test_closure_and_local_class_travel_by_value() -> None:
    class Local:
        def __init__(self, number: int) -> None:
            self.number = number

    def make() -> Local:
        return Local(offset)

    offset = 7
    assert loads(dumps(make))().number == 7
    assert loads(dumps(Local(8))).number == 8


def test_function_of_a_main_module_that_cannot_be_imported_travels_by_value() -> None:
    """As in ``python -c``, a REPL or a notebook."""
    main: dict[str, Any] = {"__name__": "__main__"}
    exec("def triple(number):\n    return number * factor\nfactor = 3", main)
    assert loads(dumps(main["triple"]))(14) == 42


def test_dumps_by_value_takes_main_by_value_even_where_it_could_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    import __main__

    def visible() -> int:
        return 5

    visible.__module__, visible.__qualname__ = "__main__", "visible"
    monkeypatch.setattr(__main__, "visible", visible, raising=False)
    assert loads(dumps(visible)) is visible
    assert loads(dumps_by_value(visible)) is not visible


def test_unpicklable_value_raises_what_pickling_it_raised_first() -> None:
    with pytest.raises(LookupError, match=r"^asked 1 times$") as caught:
        dumps(Refusing())
    assert str(caught.value.__cause__) == "asked 2 times"  # what came of the second try, by value


def test_unpicklable_part_of_a_closure_raises_the_error_of_the_closure() -> None:
    lock = threading.Lock()
    with pytest.raises((pickle.PicklingError, AttributeError), match="lambda"):
        dumps(lambda: lock)


@pytest.mark.parametrize("pack", [dumps, dumps_by_value])
def test_multiprocessing_reducer_is_honoured(registered: None, pack: Callable[[object], memoryview]) -> None:
    assert loads(pack([Handmade()])) == ["rebuilt"]


def test_multiprocessing_reducer_is_honoured_inside_a_closure(registered: None) -> None:
    value = Handmade()
    assert loads(dumps(lambda: value))() == "rebuilt"
    assert Handmade not in copyreg.dispatch_table


def test_small_value_of_a_built_in_type_is_plain() -> None:
    assert all(is_plain(value, len(dumps(value))) for value in (None, True, 0, 1.5, 1j, "text", b"bytes"))


def test_small_list_or_tuple_of_such_values_is_plain() -> None:
    assert all(is_plain(value, len(dumps(value))) for value in ([], (), [1, "text", None], (1.5, b"bytes")))


def test_large_value_is_not_plain() -> None:
    value = "x" * (1 << 17)
    assert not is_plain(value, len(dumps(value)))


def test_value_whose_unpickling_may_run_code_is_not_plain() -> None:
    class Text(str):
        __slots__ = ()

    class Texts(list[str]):
        pass

    values = ({}, set(), bytearray(b"x"), len, Refusing(), Text("x"), [1, Text("x")], ([],), Texts())
    assert not any(is_plain(value, 10) for value in values)
