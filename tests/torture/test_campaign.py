"""A minute of the random campaign; ``campaign.py`` runs it for longer, and has a round that failed again."""

from __future__ import annotations

import os

import pytest

from torture.campaign import Campaign

SECONDS = float(os.environ.get("CAMPAIGN_SECONDS", "60"))

pytestmark = [pytest.mark.torture, pytest.mark.timeout(SECONDS + 300)]


def test_random_rounds_are_judged_right_from_outside(measured):
    campaign, seed = Campaign(), int(os.environ.get("CAMPAIGN_SEED", "1"))

    campaign.run(SECONDS, seed)

    measured("first_seed", seed)
    measured("rounds", campaign.rounds)
    measured("seen", dict(sorted(campaign.seen.items())))
    assert not campaign.findings, f"python torture/campaign.py --campaign 0 --seed {min(campaign.findings)}"
