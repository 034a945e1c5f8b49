"""What a command line says of a process's part; that ours really read so is shown where janitors and guardians live."""

from __future__ import annotations

import pytest

from safepool._os.command_line import host_of_janitor, is_attendant, is_cleaner, variable_of_guardian

PYTHON = "/usr/bin/python3 -I -S -c import sys; sys.path.append('/a, (b'); from "
JANITOR = f"{PYTHON}safepool._os.janitor_main import main; main(12, 345, 'SAFEPOOL_ab', 5, 6)"
GUARDIAN = f"{PYTHON}safepool._os.guardian_main import main; main(12, 'SAFEPOOL_ab_1=12.345.6.7', 5, 6, (7, 8))"
TRACKER = "/usr/bin/python3 -c from multiprocessing.resource_tracker import main;main(4)"
SLEEP = "sleep 900"


@pytest.mark.parametrize(
    ("command", "janitor_of", "variable", "cleans_up", "attends"),
    [
        (JANITOR, (12, 345), "", False, True),
        (GUARDIAN, None, "SAFEPOOL_ab_1=12.345.6.7", False, False),
        (TRACKER, None, "", True, True),
        (SLEEP, None, "", False, False),
        ("", None, "", False, False),
    ],
    ids=["janitor", "guardian", "tracker", "program", "nothing"],
)
def test_part_is_told_by_the_program(command, janitor_of, variable, cleans_up, attends) -> None:
    assert host_of_janitor(command) == janitor_of
    assert variable_of_guardian(command) == variable
    assert is_cleaner(command) is cleans_up
    assert is_attendant(command) is attends


@pytest.mark.parametrize("arguments", ["", "main(", "main()", "main(x, 1)", "main(1)", "main(-1, -2)", "main(1.5, ²)"])
def test_janitor_that_names_no_host_is_nobody_s(arguments: str) -> None:
    assert host_of_janitor(f"safepool._os.janitor_main import main; {arguments}") is None
