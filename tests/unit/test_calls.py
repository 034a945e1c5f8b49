"""A call comes out as it went in: by name where that is the same, with its arguments in one pickle where it is not."""

from __future__ import annotations

import gc
import pickle
import sys
import types
import weakref
from functools import partial
from typing import Any

import cloudpickle
import pytest

from safepool._worker import payload
from safepool._worker.calls import CallPickler, CallReader, pack_bundle, unpack_bundle
from safepool._worker.segments import Exchange, Lender

pytestmark = pytest.mark.timeout(60)


def add(*numbers: int, extra: int = 0) -> int:
    return sum(numbers) + extra


class Adder:
    def __init__(self) -> None:
        self.numbers: list[int] = []

    def add(self, numbers: list[int]) -> bool:
        return numbers is self.numbers


def new_pickler(imports_main: bool = True, reducers: payload.Reducers = payload.NO_REDUCERS) -> CallPickler:
    return CallPickler(partial(payload.dumps, reducers=reducers), imports_main, reducers, Lender(1))


def there_and_back(fn: Any, *args: Any, **kwargs: Any) -> Any:
    packed, _, _ = new_pickler().dumps((fn, args, kwargs))
    got, its_args, its_kwargs = CallReader(Exchange(1)).loads(packed)
    return got(*its_args, **its_kwargs)


@pytest.mark.parametrize("fn", [add, sum, partial(add, 1), lambda *numbers: sum(numbers)])
def test_callable_of_any_kind_is_called_with_its_arguments(fn: Any) -> None:
    args = ([1, 2, 3],) if fn is sum else (1, 2, 3)
    assert there_and_back(fn, *args) == fn(*args)


def test_keywords_arrive() -> None:
    assert there_and_back(add, 1, extra=5) == 6


def test_function_goes_by_its_name_and_a_bound_method_with_what_it_shares_with_its_arguments() -> None:
    packed, is_plain, _ = new_pickler().dumps((add, (1, 2), {}))
    assert is_plain
    assert packed[1:].startswith(f"{__name__}\nadd".encode())
    adder = Adder()
    assert there_and_back(adder.add, adder.numbers), "the two were one object, and are not any more"


def test_call_whose_arguments_are_anybody_s_code_is_not_plain() -> None:
    assert not new_pickler().dumps((add, ([1],), {}))[1]
    assert not new_pickler().dumps((add, (1,), {"extra": 2}))[1]
    assert not new_pickler().dumps((sum, ([1],), {}))[1]


@pytest.mark.parametrize("name", ["inner", "shadowed"])
def test_function_that_is_not_found_under_its_name_goes_by_value(name: str) -> None:
    def inner() -> str:
        return "inner"

    shadowed = types.FunctionType(add.__code__, globals(), "add")
    shadowed.__kwdefaults__ = add.__kwdefaults__
    fn, args = {"inner": (inner, ()), "shadowed": (shadowed, (1, 2))}[name]
    packed, _, _ = new_pickler().dumps((fn, args, {}))
    assert packed[0] == 0
    assert there_and_back(fn, *args) == fn(*args)


@pytest.mark.parametrize(("imports_main", "goes_by_name"), [(True, True), (False, False)])
def test_what_stands_in_main_goes_by_name_where_workers_can_import_it(
    monkeypatch: pytest.MonkeyPatch, imports_main: bool, goes_by_name: bool
) -> None:
    main = types.ModuleType("__main__")
    exec("def fn(): pass", vars(main))
    monkeypatch.setitem(sys.modules, "__main__", main)
    packed, _, _ = new_pickler(imports_main=imports_main).dumps((main.fn, (), {}))
    assert (packed[0] != 0) == goes_by_name


def test_what_is_imported_goes_by_name_though_main_cannot_be_imported() -> None:
    packed, _, _ = new_pickler(imports_main=False).dumps((add, (1, 2), {}))
    assert packed[0] != 0


def test_module_that_the_program_has_registered_by_value_does_not_go_by_name() -> None:
    here = sys.modules[__name__]
    cloudpickle.register_pickle_by_value(here)
    try:
        packed, _, _ = new_pickler(imports_main=False).dumps((add, (1, 2), {}))
    finally:
        cloudpickle.unregister_pickle_by_value(here)
    assert packed[0] == 0


def test_reducer_for_a_plain_type_is_heeded() -> None:
    packed, is_plain, _ = new_pickler(reducers={str: lambda text: (str.upper, (text,))}).dumps((add, ("a",), {}))
    assert not is_plain
    assert CallReader(Exchange(1)).loads(packed)[1] in {("a",), ("A",)}  # C picklers ask nobody about text


def test_name_is_looked_up_each_time_as_pickle_does(monkeypatch: pytest.MonkeyPatch) -> None:
    reader = CallReader(Exchange(1))
    packed, _, _ = new_pickler().dumps((add, (1,), {}))
    assert reader.loads(packed)[0] is add
    monkeypatch.setattr(sys.modules[__name__], "add", len)
    assert reader.loads(packed)[0] is len


def test_name_that_is_not_there_any_more_is_the_error_that_pickle_has(monkeypatch: pytest.MonkeyPatch) -> None:
    packed, _, _ = new_pickler().dumps((add, (1,), {}))
    reader = CallReader(Exchange(1))
    reader.loads(packed)
    monkeypatch.delattr(sys.modules[__name__], "add")
    with pytest.raises(AttributeError, match="add"):
        reader.loads(packed)


def test_module_is_imported_if_need_be(monkeypatch: pytest.MonkeyPatch) -> None:
    import colorsys

    packed, _, _ = new_pickler().dumps((colorsys.rgb_to_hsv, (1, 0, 0), {}))
    monkeypatch.delitem(sys.modules, "colorsys")
    fn, args, _ = CallReader(Exchange(1)).loads(packed)
    assert fn(*args) == (0.0, 1.0, 1)


def test_functions_that_are_known_by_name_are_not_kept_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    pickler, kept = new_pickler(), []
    for number in range(1000):
        fn = types.FunctionType(add.__code__, globals(), f"fn{number}")
        fn.__qualname__ = fn.__name__
        monkeypatch.setattr(sys.modules[__name__], fn.__name__, fn, raising=False)
        kept.append(weakref.ref(fn))
        assert pickler._name(fn).endswith(f"fn{number}".encode())
    del fn
    monkeypatch.undo()
    gc.collect()
    assert sum(ref() is not None for ref in kept) <= 256


def test_function_that_was_replaced_under_its_name_goes_by_value(monkeypatch: pytest.MonkeyPatch) -> None:
    pickler, old = new_pickler(), add
    assert pickler.dumps((old, (1,), {}))[0][0] != 0
    monkeypatch.setattr(sys.modules[__name__], "add", len)
    packed, _, _ = pickler.dumps((old, (1, 2), {}))
    fn, args, _ = CallReader(Exchange(1)).loads(packed)
    assert fn(*args, extra=0) == 3


def test_unpicklable_argument_is_the_error_that_pickle_has() -> None:
    with pytest.raises((TypeError, pickle.PicklingError)):
        new_pickler().dumps((add, (sys._getframe(),), {}))


def test_bundle_is_read_row_by_row() -> None:
    pickler = new_pickler()
    name = pickler.name_of(add)
    assert name is not None
    rows = [pickler.dumps_row(args) for args in [(1, 2), ([3],), ()]]
    assert [is_plain for _, is_plain in rows] == [True, False, True]
    read_name, pieces = unpack_bundle(pack_bundle(name, [row for row, _ in rows]))
    reader = CallReader(Exchange(1))
    assert [reader.loads_row(read_name, piece) for piece in pieces] == [
        (add, (1, 2), {}),
        (add, ([3],), {}),
        (add, (), {}),
    ]


@pytest.mark.parametrize("fn", [len, partial(add, 1), Adder().add, Adder])
def test_what_is_no_function_under_its_name_has_none(fn: Any) -> None:
    assert new_pickler().name_of(fn) is None
