"""``safepool run --strict``: nothing that the command starts can leave, whatever it does to itself."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from safepool._os import control_group
from support import census
from support.descendants import KINDS, TRACELESS
from support.eventually import eventually
from support.handles import Handle, gone
from support.rendezvous import Rendezvous
from support.scenes import labels_of

pytestmark = pytest.mark.timeout(120)

RUN = [sys.executable, "-m", "safepool", "run", "--strict"]
EVERYBODY = (*KINDS, *TRACELESS)
LABELS = labels_of("first", EVERYBODY)

LEAVING = """
import sys
from support import descendants, tasks
reports, kind, leave = sys.argv[1:]
tasks.work_then_hang(reports, "first", kind, leave.split())
"""


def houses() -> set[str]:
    base = Path(control_group.house_of_this_process()).parent
    return {entry.name for entry in base.iterdir() if entry.name.startswith("safepool_")}


@pytest.fixture(params=["session", "terminal"])
def place(request, terminal):
    """Where ``safepool run`` is started: without a terminal, or on one."""
    return {"session": {}, "terminal": {"terminal": terminal["theirs"]}}[request.param]


@pytest.fixture
def strict(make_program, place):
    """Start a command that leaves everybody behind; the test is not for machines where no group can be made."""
    try:
        control_group.make_sure()
    except OSError as error:
        pytest.skip(f"no control group can be made here: {error}")
    before = houses()

    def start(kind, *options):
        program = make_program()
        command = [sys.executable, "-c", LEAVING, program.rendezvous.path, kind, " ".join(EVERYBODY)]
        program.run([*RUN, *options, "--", *command], **place)
        return program

    yield start
    eventually(lambda: houses() <= before, otherwise=lambda: f"left: {houses() - before}")


def test_what_the_command_leaves_is_gone_before_its_status_is_told(make_program, strict, place):
    program = strict("idle")
    seen = census.carrying(program.mark)
    everybody = program.rendezvous.pids(LABELS)

    assert program.finish() == 0

    assert seen is not None
    assert not [pid for pid in everybody.values() if (found := census.look_at(pid)) and found.state not in "ZX"]
    program.leaves_nothing()


def test_command_past_its_time_is_ended_with_everybody(strict):
    program = strict("deaf", "--timeout", "5", "--grace", "0")
    everybody = program.hold_reported(LABELS)
    assert program.finish() == 124
    assert not [name for name, handle in everybody.items() if handle.alive()]


@pytest.mark.parametrize("kind", ["loop", "stopped", "deaf"])
def test_sigkill_of_safepool_run_takes_everybody_along(strict, kind):
    program = strict(kind)
    everybody = program.hold_reported(LABELS)
    program.send(signal.SIGKILL)
    assert program.finish() == -signal.SIGKILL
    gone(everybody)
    program.leaves_nothing()


def test_command_s_own_status_is_told(strict, make_program, place):
    program = make_program()
    program.run([*RUN, "--", "sh", "-c", "exit 7"], **place)
    assert program.finish() == 7


def test_command_that_is_not_there_is_told_as_ever(strict, make_program, place):
    program = make_program()
    program.run([*RUN, "--", "no-such-command-anywhere"], **place)
    assert program.finish() == 127
    assert "'no-such-command-anywhere': No such file or directory" in program.stderr


def test_daemon_without_a_trace_is_ended(strict, tmp_path):
    """As in the manual."""
    meeting = Rendezvous(tmp_path)
    daemon = f"env -i setsid sh -c 'echo \"daemon $$\" > {meeting.path}; exec sleep 900' & sleep 900"
    running = subprocess.Popen([*RUN, "--", "sh", "-c", daemon])
    with running, Handle(meeting.expect("daemon").pid) as handle:
        assert b"SAFEPOOL_" not in census.environment_of(handle.pid)
        running.send_signal(signal.SIGTERM)
        gone({"daemon": handle})
    meeting.close()


AS_NOBODY = """
import locale, os, sys  # an interpreter that nobody may read imports nothing later
from safepool import cli
from safepool.run import limits, supervision
os.setgid(65534), os.setuid(65534)
sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_where_no_group_can_be_made_nothing_is_started_and_one_line_says_why(tmp_path):
    started = tmp_path / "started"
    tmp_path.chmod(0o777)
    done = subprocess.run(
        [sys.executable, "-c", AS_NOBODY, *RUN[3:], "--", "touch", str(started)],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 125
    (line,) = done.stderr.splitlines()
    assert line.startswith("safepool run: --strict needs a control group (version 2) that it may divide: ")
    assert "systemd-run --user --scope -p Delegate=yes" in line
    assert not started.exists()
