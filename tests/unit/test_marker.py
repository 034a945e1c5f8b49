"""The marker says whose a process is; no two hosts share one."""

from __future__ import annotations

import re
import secrets
import threading

import pytest

from safepool._os import marker
from unit.brood import in_forked_child

pytestmark = pytest.mark.timeout(60)


def test_host_marker_stays_the_same_and_names_a_variable() -> None:
    assert marker.host_marker() == marker.host_marker()
    assert re.fullmatch("SAFEPOOL_[0-9a-f]{32}", marker.host_marker())


def test_worker_markers_differ_and_begin_with_the_host_s() -> None:
    markers = [marker.next_worker_marker() for _ in range(100)]
    assert len(set(markers)) == 100
    assert all(re.fullmatch(f"{marker.host_marker()}_[0-9]+", name) for name in markers)


def test_marker_of_one_that_spares_is_not_found_by_what_the_others_are_looked_for_by() -> None:
    name = marker.next_worker_marker(sparing=True)
    assert re.fullmatch(f"{marker.host_marker()}s_[0-9]+", name)
    assert marker.is_sparing(name)
    assert not marker.is_sparing(marker.next_worker_marker())
    assert not name.startswith(f"{marker.host_marker()}_")


def test_no_worker_marker_is_the_beginning_of_another_s_variable() -> None:
    """``..._1`` must not be found where ``..._10`` stands: what is looked for ends with the equals sign."""
    first, tenth = f"{marker.host_marker()}_1=", f"{marker.host_marker()}_10=1"
    assert first not in tenth


def test_forked_child_gets_a_marker_of_its_own() -> None:
    ours = marker.next_worker_marker()
    child = in_forked_child(lambda: f"{marker.host_marker()} {marker.next_worker_marker()}").split()
    assert re.fullmatch("SAFEPOOL_[0-9a-f]{32}", child[0])
    assert child[0] != marker.host_marker()
    assert child[1] == f"{child[0]}_1"
    assert ours.startswith(marker.host_marker())


def test_forked_children_of_one_host_do_not_share_a_marker() -> None:
    assert in_forked_child(marker.host_marker) != in_forked_child(marker.host_marker)


def test_threads_that_ask_first_at_the_same_time_get_the_same_marker(monkeypatch: pytest.MonkeyPatch) -> None:
    """1. A thread finds no marker yet, and so does another. 2. Each makes one. 3. The later takes the place."""
    together = threading.Barrier(2)
    draw = secrets.token_hex

    def draw_together(size: int) -> str:
        try:
            together.wait(1.0)  # with only one thread let in, nobody else comes
        except threading.BrokenBarrierError:
            pass
        return draw(size)

    monkeypatch.setattr(marker, "_token", "")
    monkeypatch.setattr(secrets, "token_hex", draw_together)
    markers: list[str] = []
    threads = [threading.Thread(target=lambda: markers.append(marker.host_marker())) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert markers == [marker.host_marker()] * 2
