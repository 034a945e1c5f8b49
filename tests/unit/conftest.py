"""Fixtures of the unit tests."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import hypothesis
import pytest

from support.rendezvous import Rendezvous
from unit.brood import Brood

# Examples take as long as the machine lets them; nothing is written into the checkout.
hypothesis.settings.register_profile("unit", deadline=None, database=None, max_examples=60)
hypothesis.settings.load_profile("unit")


@pytest.fixture(scope="session", autouse=True)
def _quick_collections(warmed_up: None) -> None:
    """What is there by now stays: to look through it after every test would take longer than most tests do."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def brood(meeting: Rendezvous) -> Iterator[Brood]:
    brood = Brood(meeting)
    yield brood
    brood.close()
