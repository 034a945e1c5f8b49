"""The host dies while its workers cannot help themselves (the quick choice; all of it is in ``torture``)."""

from __future__ import annotations

import pytest

from support.scenes import host_dies

pytestmark = pytest.mark.timeout(120)


@pytest.mark.parametrize(
    ("kind", "death"),
    [("c", "SIGKILL"), ("deaf", "SIGKILL"), ("stopped", "SIGKILL"), ("loop", "exit"), ("loop", "exec")],
)
def test_host_that_dies_takes_everything_along(make_host, measured, kind, death):
    measured("gone_ms", host_dies(make_host(max_workers=2), kind, death))
