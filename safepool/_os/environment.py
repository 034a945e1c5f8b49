"""What environment does a child get? Ours, as it is at this instant; or as we were given it.

Facts:
* ``os.environ`` is a plain mapping; copying it while another thread changes it can raise, and is tried again.
* In the C locale Python sets LC_CTYPE for itself, and with that for its children (PEP 538).
"""

from __future__ import annotations

import os

from safepool._os.features import VARIABLE, disabled
from safepool._os.process_table import environment_of

__all__ = ["for_bare", "for_worker", "inherited", "snapshot"]

_MOST_TRIES = 100
_MARK = "SAFEPOOL_"  # what every marker begins with


def snapshot() -> dict[str, str]:
    """Return a copy of the environment, whatever other threads do to it meanwhile."""
    for _ in range(_MOST_TRIES):
        try:
            return dict(os.environ)
        except (KeyError, RuntimeError):  # a variable went, or came, under the copying
            continue
    return dict(os.environ)


def for_worker() -> dict[str, str]:
    """Return the environment for a worker: ours, and it does without what we do without, and no more."""
    environment = snapshot()
    environment.pop(VARIABLE, None)  # as it was at the first pool, whatever has become of it
    if disabled():
        environment[VARIABLE] = ",".join(sorted(disabled()))
    return environment


def for_bare() -> dict[str, str]:
    """Return the same for the janitor or a guardian, without our markers: no sweep is to take it for a member."""
    return {name: value for name, value in for_worker().items() if name == VARIABLE or not name.startswith(_MARK)}


def inherited() -> dict[str, str]:
    """Return the environment without what Python itself has added to it."""
    environment, given = snapshot(), environment_of(os.getpid())
    if given and b"\0LC_CTYPE=" not in b"\0" + given:
        environment.pop("LC_CTYPE", None)
    return environment
