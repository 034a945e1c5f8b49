"""What environment does a child get? Ours, as it is at this instant.

Facts: ``os.environ`` is a plain mapping; copying it while another thread changes it can raise, and is tried again.
"""

from __future__ import annotations

import os

__all__ = ["snapshot"]

_MOST_TRIES = 100


def snapshot() -> dict[str, str]:
    """Return a copy of the environment, whatever other threads do to it meanwhile."""
    for _ in range(_MOST_TRIES):
        try:
            return dict(os.environ)
        except (KeyError, RuntimeError):  # a variable went, or came, under the copying
            continue
    return dict(os.environ)
