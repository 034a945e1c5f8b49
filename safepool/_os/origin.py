"""Whose is a process that is found lying about, and does its host live? Asked by those who look from outside.

The answer stands in its environment (``marker``), once for each pool that it is beneath. It is a claim and no proof:
whoever can set the environment of a process can claim what he likes. Whether the host lives is no claim: it counts as
gone when nobody has its number, or somebody else has it, and as unknown when that cannot be told from here.

Facts: a number and a start time name a process for as long as the machine is up, within one pid namespace and one time
namespace; pidfd_open(2) knows processes that /proc hides (hidepid).
"""

from __future__ import annotations

import enum
import os
import re

from safepool._os import process_exit
from safepool._os.marker import namespaces
from safepool._os.process_table import read_row
from safepool._os.process_tree import Leader
from safepool._plain import NamedTuple

__all__ = ["MARK", "Fate", "Origin", "fate_of", "origins_in"]

MARK = b"SAFEPOOL_"  # what every marker begins with

_MARKER = re.compile(rb"(?:^|\0)(SAFEPOOL_[0-9a-f]{32})(s?)_(\d{1,18})=([^\0]*)")
_VALUE = re.compile(rb"(\d{1,10})\.(\d{1,20})\.(\d{1,20})\.(\d{1,20})")


class Origin(NamedTuple):
    """One worker that a process is beneath, as it claims."""

    token: str  # of the host
    number: int  # of the worker
    host: Leader | None  # None: it does not say, or its numbers are those of another namespace
    is_sparing: bool = False  # it may have made a session of its own in order to be left alone


class Fate(enum.Enum):
    """What has become of a host."""

    ALIVE = "alive"
    GONE = "gone"
    UNKNOWN = "unknown"


def origins_in(environment: bytes) -> list[Origin]:
    """Return what a process claims, given the environment that it was started with."""
    found = _MARKER.findall(environment)
    return [Origin(token.decode(), int(number), _host(value), bool(spares)) for token, spares, number, value in found]


def fate_of(host: Leader | None) -> Fate:
    """Return whether a host lives; only what is certain counts as gone."""
    if host is None:
        return Fate.UNKNOWN
    try:
        pidfd = process_exit.open_pidfd(host.pid)
    except OSError:  # refused; or it is the number of a thread
        return _judge(host, has_ended=False)
    if pidfd is None:
        return Fate.GONE
    try:
        return _judge(host, process_exit.has_ended(pidfd))
    finally:
        os.close(pidfd)


def _judge(host: Leader, has_ended: bool) -> Fate:
    row = read_row(host.pid)
    if row is not None:
        return Fate.ALIVE if row.start == host.start and not row.is_dead else Fate.GONE
    return Fate.GONE if has_ended else Fate.UNKNOWN


def _host(value: bytes) -> Leader | None:
    found = _VALUE.fullmatch(value)
    if found is None:
        return None
    pid, start, *where = map(int, found.groups())
    return Leader(pid, start) if pid and start and tuple(where) == namespaces() else None
