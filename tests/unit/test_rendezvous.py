"""The tests' own rendezvous waits for what is to come, and not for what is there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from support.rendezvous import Rendezvous, report

pytestmark = pytest.mark.timeout(60)


def test_reports_that_come_while_they_are_looked_for_are_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1. The first is not there. 2. Both come. 3. The second is: nobody else will ever report."""
    meeting = Rendezvous(tmp_path)
    listen, waits = meeting.listen, []

    def report_late(timeout: float) -> None:
        waits.append(timeout)
        if len(waits) == 2:
            for label in ("first", "second"):
                report(meeting.path, label)
        listen(min(timeout, 1.0))

    monkeypatch.setattr(meeting, "listen", report_late)
    assert meeting.pids(["first", "second"]) == {"first": os.getpid(), "second": os.getpid()}
    # The one wait came before the reports, or found them: one after them would have been for its whole time.
    assert [timeout for timeout in waits[2:] if timeout] == []
    meeting.close()
