"""What a command line says of a process's part; that ours really read so is shown where janitors and guardians live."""

from __future__ import annotations

import pytest

from safepool._os.command_line import host_of_guardian, host_of_janitor, is_cleaner, is_helper

PYTHON = "/usr/bin/python3 -I -S -c import sys; sys.path.append('/a, (b'); from "
JANITOR = f"{PYTHON}safepool._os.janitor_main import main; main(12, 345, 'SAFEPOOL_ab', 5, 6)"
GUARDIAN = f"{PYTHON}safepool._os.guardian_main import main; main(12, 'SAFEPOOL_ab_1', 5, 6, (7, 8))"
TRACKER = "/usr/bin/python3 -c from multiprocessing.resource_tracker import main;main(4)"
SLEEP = "sleep 900"


@pytest.mark.parametrize(
    ("command", "janitor_of", "guardian_of", "cleans_up", "helps"),
    [
        (JANITOR, (12, 345), None, False, True),
        (GUARDIAN, None, 12, False, False),
        (TRACKER, None, None, True, True),
        (SLEEP, None, None, False, False),
        ("", None, None, False, False),
    ],
    ids=["janitor", "guardian", "tracker", "program", "nothing"],
)
def test_part_is_told_by_the_program(command, janitor_of, guardian_of, cleans_up, helps) -> None:
    assert host_of_janitor(command) == janitor_of
    assert host_of_guardian(command) == guardian_of
    assert is_cleaner(command) is cleans_up
    assert is_helper(command) is helps


@pytest.mark.parametrize("arguments", ["", "main(", "main()", "main(x, 1)", "main(1)", "main(-1, -2)", "main(1.5, ²)"])
def test_one_that_names_no_host_is_nobody_s(arguments: str) -> None:
    assert host_of_janitor(f"safepool._os.janitor_main import main; {arguments}") is None
    assert host_of_guardian(f"safepool._os.guardian_main import main; {arguments}") is None
