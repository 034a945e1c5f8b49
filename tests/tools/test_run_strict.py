"""``safepool run --strict``: nothing that the command starts can leave, whatever it does to itself."""

from __future__ import annotations

import errno
import os
import secrets
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from safepool._os import control_group
from safepool._os.control_group import ControlGroup
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
reports, kind, leave, gate = sys.argv[1:]
if gate:
    tasks.work_then_wait(reports, "first", gate, leave.split())
else:
    tasks.work_then_hang(reports, "first", kind, leave.split())
"""


ENTER = ["sh", "-c", 'echo $$ > "$0/cgroup.procs" && exec "$@"']


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
    group = Path(control_group.house_of_this_process()).parent / f"test-{os.getpid()}-{secrets.token_hex(4)}"
    group.mkdir()  # where no other test makes groups

    def start(kind, *options, program=None, gate=""):
        program = program or make_program()
        command = [sys.executable, "-c", LEAVING, program.rendezvous.path, kind, " ".join(EVERYBODY), gate]
        program.run([*ENTER, str(group), *RUN, *options, "--", *command], **place)
        return program

    yield start
    try:
        eventually(lambda: not (group / "cgroup.procs").read_text(), otherwise=lambda: "somebody is left in the group")
        assert not [entry.name for entry in group.iterdir() if entry.is_dir()]
    finally:
        ControlGroup(str(group)).kill()
        for folder, _, _ in os.walk(group, topdown=False):
            eventually(lambda folder=folder: removes(folder))


def removes(folder):
    try:
        os.rmdir(folder)
    except OSError:
        return False
    return True


def test_what_the_command_leaves_is_gone_before_its_status_is_told(make_program, strict):
    program = make_program()
    gate = program.gate("gate")
    strict("gate", program=program, gate=gate.path)
    everybody = program.hold_reported(LABELS)
    gate.open()
    assert program.finish() == 0
    assert not [name for name, handle in everybody.items() if handle.alive()]
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


NOT_TAKEN_IN = """
import os, sys
from safepool import cli
from safepool._os import control_group
from safepool._os.control_group import ControlGroup
take_in = control_group.ControlGroup.take_in
starter = os.getpid()

def refuse(group, pid):
    if os.getpid() != starter:  # who is to become the command, and moves itself
        raise OSError(int(sys.argv[1]), os.strerror(int(sys.argv[1])))
    take_in(group, pid)

control_group.ControlGroup.take_in = refuse
sys.exit(cli.main(sys.argv[2:]))
"""


@pytest.mark.parametrize("number", [errno.EACCES, errno.ENOENT], ids=errno.errorcode.get)
def test_command_that_cannot_be_put_into_its_group_is_not_said_to_be_the_one_that_fails(
    strict, make_program, place, tmp_path, number
):
    """Neither 126 nor 127, which tell of the command itself."""
    started, program = tmp_path / "started", make_program()
    program.run(
        [sys.executable, "-c", NOT_TAKEN_IN, str(number), *RUN[3:], "--", "touch", str(started)],
        **place,
    )
    assert program.finish() == 125
    assert f"safepool run: 'touch' could not be started: {os.strerror(number)}\n" == program.stderr
    assert not started.exists()
    program.leaves_nothing()
