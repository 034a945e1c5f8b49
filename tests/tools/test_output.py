"""What a command does whose output nobody reads, or that cannot be written: it ends, with one line at most."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from safepool import cli
from safepool.tools import reap

pytestmark = pytest.mark.timeout(120)

SAFEPOOL = [sys.executable, "-m", "safepool"]
COMMANDS = [
    ["ps"],
    ["ps", "--json"],
    ["ps", "--watch"],
    ["reap", "--dry-run"],
    ["doctor", "--only", "memfd"],
    ["doctor", "--only", "memfd", "--json"],
    ["bench", "--list"],
]
HELP = [["--help"], ["ps", "--help"]]
DIED_OF_SIGPIPE = 141  # as a shell has it


@pytest.fixture(params=["buffered", "unbuffered"])
def environment(request: pytest.FixtureRequest) -> dict[str, str]:
    """With the interpreter's own buffer the error comes at the last flush, and without it at each write."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    environment.pop("PYTHONUNBUFFERED", None)
    return environment if request.param == "buffered" else {**environment, "PYTHONUNBUFFERED": "1"}


@pytest.fixture
def unread() -> Iterator[int]:
    """A pipe that nobody reads any more."""
    reading, writing = os.pipe()
    os.close(reading)
    yield writing
    os.close(writing)


@pytest.fixture
def full() -> Iterator[int]:
    fd = os.open("/dev/full", os.O_WRONLY)
    yield fd
    os.close(fd)


def write_to(fd: int | None, command: list[str], environment: dict[str, str]) -> tuple[int, str]:
    """Run a command with this as its standard output, or with none; give its status, and its complaints."""
    before = ["sh", "-c", 'exec "$@" >&-', "sh"] if fd is None else []
    done = subprocess.run(
        [*before, *SAFEPOOL, *command],
        stdin=subprocess.DEVNULL,
        stdout=fd,
        stderr=subprocess.PIPE,
        env=environment,
        text=True,
        check=False,
        timeout=90,
    )
    return done.returncode, done.stderr


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_command_that_nobody_reads_ends_without_a_word(
    command: list[str], unread: int, environment: dict[str, str]
) -> None:
    assert write_to(unread, command, environment) == (DIED_OF_SIGPIPE, "")


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_output_that_cannot_be_written_is_one_line_and_the_status_one(
    command: list[str], full: int, environment: dict[str, str]
) -> None:
    complaint = "safepool: what there is to say cannot be written: No space left on device\n"
    assert write_to(full, command, environment) == (1, complaint)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_command_whose_output_was_closed_says_so(command: list[str], environment: dict[str, str]) -> None:
    complaint = "safepool: what there is to say cannot be written: Bad file descriptor\n"
    assert write_to(None, command, environment) == (1, complaint)


@pytest.mark.parametrize("command", HELP, ids=" ".join)
def test_help_that_cannot_be_written_is_no_traceback(
    command: list[str], unread: int, full: int, environment: dict[str, str]
) -> None:
    """argparse itself keeps quiet of an error that comes at the write."""
    assert write_to(unread, command, environment) in [(DIED_OF_SIGPIPE, ""), (0, "")]
    status, complaint = write_to(full, command, environment)
    assert (status, complaint.count("\n")) in [(1, 1), (0, 0)]
    assert "Exception ignored" not in complaint


def test_command_of_run_may_have_no_output(environment: dict[str, str]) -> None:
    assert write_to(None, ["run", "--", "true"], environment) == (0, "")


def test_command_that_ctrl_c_strikes_ends_without_a_word(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(reap, "main", lambda *_: signal.raise_signal(signal.SIGINT))

    assert cli.main(["reap", "--dry-run"]) == 128 + signal.SIGINT

    assert capfd.readouterr() == ("", "")
