"""A decorated function travels by the name of what the decorator made of it, and arrives as itself."""

from __future__ import annotations

import functools
import pickle
import sys
import types
from collections.abc import Callable
from typing import Any

import pytest

from safepool._worker.reference import Undecorated
from unit.brood import Brood

pytestmark = pytest.mark.timeout(60)


def decorated(fn: Callable[..., Any]) -> Callable[..., str]:
    """Stand for a decorator whose result must not be called by a worker."""

    @functools.wraps(fn)
    def refuse(*_args: object, **_kwargs: object) -> str:
        raise AssertionError("the decorator's function was called")

    return refuse


@decorated
def double(number: int, *, plus: int = 0) -> int:
    return 2 * number + plus


class Holder:
    class Inner:
        @staticmethod
        @decorated
        def triple(number: int) -> int:
            return 3 * number


def undecorated(fn: Callable[..., Any]) -> Undecorated:
    found = Undecorated.of(fn)
    assert found is not None
    return found


def test_function_beneath_is_called_with_its_arguments() -> None:
    with pytest.raises(AssertionError, match="decorator's function"):
        double(3)
    assert undecorated(double)(3, plus=1) == 7
    assert undecorated(double)(4) == 8


def test_function_of_a_class_is_found_by_its_path() -> None:
    assert undecorated(Holder.Inner.triple)(3) == 9


def test_pickled_it_leads_to_the_function_and_carries_none() -> None:
    """By the usual way, the function beneath would be looked for by its name, where now another one is."""
    with pytest.raises(pickle.PicklingError, match="not the same object"):
        pickle.dumps(double.__wrapped__)  # type: ignore[attr-defined]

    pickled = pickle.dumps(undecorated(double))

    assert pickle.loads(pickled)(3) == 6
    assert b"double" in pickled
    assert __name__.encode() in pickled


def test_called_once_it_is_pickled_as_before() -> None:
    called = undecorated(double)
    called(1)
    assert pickle.loads(pickle.dumps(called))(3) == 6


def test_other_process_imports_the_module_only_when_it_is_called(brood: Brood, tmp_path: Any) -> None:
    (tmp_path / "far_away.py").write_text("def far(): return 'here'\nfar.__wrapped__ = lambda: 'beneath'\n", "ascii")
    source = """
    sys.path.insert(0, sys.argv[1])
    from safepool._worker.reference import Undecorated
    far = Undecorated("far_away", "far")
    say("made", "far_away" in sys.modules)
    say("called", far())
    """
    brood.python(source, tmp_path)
    assert brood.meeting.expect("made").detail == "False"
    assert brood.meeting.expect("called").detail == "beneath"


def test_what_its_name_does_not_lead_to_is_not_found() -> None:
    """A local function; one that something else has taken the name of; one whose module is nobody's."""

    @decorated
    def local() -> None: ...

    renamed = decorated(lambda: None)
    renamed.__qualname__ = "double"
    renamed.__module__ = __name__
    homeless = decorated(lambda: None)
    homeless.__module__ = "there.is.no.such.module"

    assert [Undecorated.of(fn) for fn in (local, renamed, homeless)] == [None, None, None]


def test_module_that_is_only_half_imported_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("half_imported")
    monkeypatch.setitem(sys.modules, "half_imported", module)
    fn = decorated(lambda: None)
    fn.__module__, fn.__qualname__ = "half_imported", "later"
    assert Undecorated.of(fn) is None
    module.later = fn  # type: ignore[attr-defined]
    assert Undecorated.of(fn) is not None


def test_it_looks_like_the_function_it_stands_for() -> None:
    assert repr(undecorated(Holder.Inner.triple)) == f"{__name__}.Holder.Inner.triple"
