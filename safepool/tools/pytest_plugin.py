"""The fixture ``no_leaks`` for pytest, which finds it by itself wherever safepool is installed.

pytest imports this at the start of every run, whether anybody asks for the fixture or not: so nothing of ours is
imported here before a test does.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

__all__ = ["no_leaks"]


@pytest.fixture
def no_leaks() -> Iterator[None]:
    """Fail, after the test, if processes that were started in it are alive; nothing is ended.

    Fixtures that are asked for after this one are torn down before it looks.
    """
    import safepool

    with safepool.no_leaks():
        yield
