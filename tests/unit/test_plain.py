"""Our own makers of records do what the standard library's do, as far as we use them."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import typing

import pytest

from safepool import _plain


def classes(maker, **options):  # type: ignore[no-untyped-def]
    field = maker.field

    @maker.dataclass(**options)
    class Record:
        number: int
        name: str = "nobody"
        seen: list[int] = field(default_factory=list)
        last: float | None = None

        limit = 7  # not annotated: no field

        @property
        def twice(self):
            return 2 * self.number

    return Record


@pytest.fixture(params=[{}, {"frozen": True}, {"eq": False}], ids=str)
def pair(request):
    return classes(_plain, **request.param), classes(dataclasses, **request.param)


@pytest.mark.parametrize("args", [(1,), (1, "x"), (1, "x", [3]), (1, "x", [3], 2.0)])
def test_record_has_the_fields_of_a_dataclass(pair, args):
    ours, theirs = (kind(*args) for kind in pair)
    assert vars(ours) == vars(theirs)
    assert repr(ours) == repr(theirs)
    assert (ours.twice, ours.limit) == (theirs.twice, theirs.limit)


def test_record_takes_keywords_and_refuses_what_a_dataclass_refuses(pair):
    for kind in pair:
        assert vars(kind(number=3, last=1.0)) == {"number": 3, "name": "nobody", "seen": [], "last": 1.0}
        for args, kwargs in [((), {}), ((1, 2, 3, 4, 5), {}), ((1,), {"other": 2}), ((1,), {"number": 1})]:
            with pytest.raises(TypeError):
                kind(*args, **kwargs)


def test_default_of_a_factory_is_made_anew(pair):
    for kind in pair:
        assert kind(1).seen is not kind(1).seen
        assert not hasattr(kind, "seen")


def test_records_compare_and_hash_as_dataclasses_do(pair):
    def answer(call):
        try:
            return call()
        except TypeError as error:
            return str(error)

    answers = []
    for kind in pair:
        one, same, other = kind(1, "x", ()), kind(1, "x", ()), kind(2, "x", ())
        equal = [one == same, one == other, one != same, one == object()]
        answers.append((equal, answer(lambda one=one, same=same: len({one, same}))))
    assert answers[0] == answers[1]


def test_frozen_record_refuses_a_change_as_a_dataclass_does():
    for maker in (_plain, dataclasses):
        record = classes(maker, frozen=True)(1)
        with pytest.raises(AttributeError, match="number"):
            record.number = 2
        with pytest.raises(AttributeError, match="number"):
            del record.number
        assert vars(copy.copy(record)) == vars(record)


def test_replace_changes_a_copy():
    for maker in (_plain, dataclasses):
        record = classes(maker)(1, "x")
        changed = maker.replace(record, number=2)
        assert (vars(record)["number"], vars(changed)["number"], changed.name) == (1, 2, "x")
        with pytest.raises(TypeError):
            maker.replace(record, other=1)


class Ours(_plain.NamedTuple):
    """A row."""

    number: int
    name: str = "nobody"

    @property
    def twice(self):
        return 2 * self.number


class Theirs(typing.NamedTuple):
    """A row."""

    number: int
    name: str = "nobody"

    @property
    def twice(self):
        return 2 * self.number


@pytest.mark.parametrize("args", [(1,), (1, "x")])
def test_named_tuple_is_like_the_standard_library_s(args):
    ours, theirs = Ours(*args), Theirs(*args)
    assert ours == theirs == tuple(theirs)
    assert repr(ours).partition("(")[2] == repr(theirs).partition("(")[2]
    assert (ours.number, ours.name, ours.twice) == (theirs.number, theirs.name, theirs.twice)
    assert ours._fields == theirs._fields
    assert ours._replace(number=5) == theirs._replace(number=5)
    assert Ours.__doc__ == Theirs.__doc__
    assert (Ours.__module__, Ours.__qualname__) == (__name__, "Ours")
    assert type(pickle.loads(pickle.dumps(ours))) is Ours


def test_named_tuple_without_a_field_that_has_no_default_is_refused():
    for kind in (Ours, Theirs):
        with pytest.raises(TypeError):
            kind()
