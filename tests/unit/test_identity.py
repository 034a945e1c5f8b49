"""A process is a worker, or it is none; what descends from one is none."""

from __future__ import annotations

import os
import threading

import pytest

from safepool._worker import identity
from unit.brood import in_forked_child

pytestmark = pytest.mark.timeout(60)


@pytest.fixture(autouse=True)
def _as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity, "_this", None)


def test_process_that_is_no_worker_is_told_so() -> None:
    with pytest.raises(RuntimeError, match="runs in a worker of a SafeProcessPoolExecutor"):
        identity.get_worker()


def test_process_that_became_a_worker_is_that_one_in_every_thread() -> None:
    identity.become(3)
    seen: list[object] = []
    thread = threading.Thread(target=lambda: seen.append(identity.get_worker()))
    thread.start()
    thread.join(30)

    assert identity.get_worker().id == 3
    assert identity.get_worker().pid == os.getpid()
    assert seen == [identity.get_worker()]


def test_state_is_what_was_kept_and_empty_at_first() -> None:
    identity.become(0)
    assert vars(identity.get_worker().state) == {}
    identity.get_worker().state.device = "cuda:0"
    assert identity.get_worker().state.device == "cuda:0"


def test_worker_that_takes_the_place_starts_with_nothing() -> None:
    identity.become(0)
    identity.get_worker().state.device = "cuda:0"
    identity.become(0)
    assert vars(identity.get_worker().state) == {}


def test_forked_child_of_a_worker_is_none() -> None:
    identity.become(1)

    def ask() -> str:
        try:
            return f"is worker {identity.get_worker().id}"
        except RuntimeError as error:
            return str(error)

    assert "runs in a worker" in in_forked_child(ask)
    assert identity.get_worker().id == 1


def test_forked_child_that_becomes_a_worker_is_that_one() -> None:
    identity.become(1)

    def become_another() -> str:
        identity.become(7)
        return repr(identity.get_worker())

    assert in_forked_child(become_another).startswith("<worker 7 of a pool, pid ")
    assert repr(identity.get_worker()) == f"<worker 1 of a pool, pid {os.getpid()}>"
