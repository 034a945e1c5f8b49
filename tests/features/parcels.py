"""Objects that tell by which way they were pickled, and the ways."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from multiprocessing.reduction import ForkingPickler
from typing import Any, NoReturn


class Parcel:
    """Something with a way of its own, which every other way has to come before."""

    def __init__(self, *route: str) -> None:
        self.route = route

    def __reduce__(self) -> tuple[Any, ...]:
        return Parcel, (*self.route, "own")


class LostParcelError(Exception):
    """An exception that is pickled as it says, too."""

    def __init__(self, *route: str) -> None:
        super().__init__(*route)
        self.route = route

    def __reduce__(self) -> tuple[Any, ...]:
        return LostParcelError, (*self.route, "own")


class Fatal:
    """Ends its worker when it is reduced."""


class Unwelcome:
    """A reducer that cannot be unpickled where it is to be used."""

    def __call__(self, parcel: Parcel) -> NoReturn:
        raise AssertionError(parcel)

    def __reduce__(self) -> tuple[Any, ...]:
        return refuse, ()


def refuse() -> NoReturn:
    raise LookupError("no reducer today")


def by_job(parcel: Parcel) -> tuple[Any, ...]:
    return type(parcel), (*parcel.route, "job")


def by_result(parcel: Parcel) -> tuple[Any, ...]:
    return type(parcel), (*parcel.route, "result")


def by_registry(parcel: Parcel) -> tuple[Any, ...]:
    return type(parcel), (*parcel.route, "registry")


def as_the_last_one(_parcel: Parcel) -> str:
    """Reduce to the name of a global of the module."""
    return "LAST"


def lose(_parcel: Parcel) -> NoReturn:
    raise LookupError("lost on the way")


def end_worker(_fatal: Fatal) -> NoReturn:
    os._exit(7)


def number_from_thread(number: complex) -> tuple[Any, ...]:
    return thread_and, (number.real,)


def thread_and(number: float) -> tuple[str, float]:
    return threading.current_thread().name, number


def route_of(parcel: Parcel) -> tuple[str, ...]:
    return parcel.route


def routes_of(parcels: list[Parcel], *, last: Parcel) -> list[tuple[str, ...]]:
    return [parcel.route for parcel in [*parcels, last]]


def is_last(parcel: Parcel) -> bool:
    return parcel is LAST


def send_back(value: Any) -> Any:
    return value


def new_parcel() -> list[Parcel]:
    return [Parcel("new")]


def new_fatal() -> Fatal:
    return Fatal()


def new_number() -> complex:
    return 7j + 3


def lose_new() -> NoReturn:
    raise LostParcelError("new")


def route_in_inner_pool() -> tuple[tuple[str, ...], ...]:
    """Send a parcel through a pool of the worker's own, which has no reducers."""
    from safepool import SafeProcessPoolExecutor

    with SafeProcessPoolExecutor(1) as pool:
        return pool.submit(route_of, Parcel()).result(), pool.submit(new_parcel).result()[0].route


_kept: list[Parcel] = []


def keep(parcel: Parcel) -> None:
    """As an initializer: keep what came."""
    _kept.append(parcel)


def kept_route() -> tuple[str, ...]:
    return _kept[0].route


def register(kind: type[Any], reducer: Callable[[Any], Any]) -> None:
    """As an initializer: tell multiprocessing of a reducer, in this process."""
    ForkingPickler.register(kind, reducer)


LAST = Parcel("last")
