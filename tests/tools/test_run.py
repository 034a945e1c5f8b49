"""``safepool run``: nothing of a command is left, whoever dies; and it runs as if nobody stood in front of it.

The terminal is another file's (``test_run_terminal``).
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time

import pytest

from safepool.cli import main
from support import census
from support.descendants import ESCAPING, KINDS
from support.eventually import eventually
from support.handles import gone
from support.proofs import prove
from support.scenes import hold_janitor, labels_of

pytestmark = pytest.mark.timeout(120)

RUN = [sys.executable, "-m", "safepool", "run"]

# A shell says who it is, and goes on as it is told; R is where to report.
SAY = 'say() { echo "$1 $$ $2" > "$R"; }; '
# Somebody of the same group and session as ``safepool run``, who has nothing to do with it. Where that leads the
# session, the kernel sends SIGHUP to the foreground when it dies.
BESIDE_A_CANARY = ["sh", "-c", '(trap "" HUP; exec sleep 900) & echo "canary $!" > "$R"; exec "$@"', "sh"]

LEAVING = """
import sys
from support import descendants, tasks
from support.rendezvous import report
reports, kind, leave = sys.argv[1:]
tasks.work_then_hang(reports, "first", kind, leave.split())
"""

# The environment has ANNOUNCE: it says the name that it is given, and stays.
ANNOUNCE = 'echo "$0 $$" > "$R"; exec sleep 900'
SHELL_WITH_CHILDREN = f"""
{SAY}
sh -c "$ANNOUNCE" plain &
setsid sh -c "$ANNOUNCE" session &
(setsid sh -c "$ANNOUNCE" daemon &)
(trap "" HUP INT QUIT TERM USR1 USR2; exec sh -c "$ANNOUNCE" deaf) &
say shell
wait
"""
CHILDREN = ("plain", "session", "daemon", "deaf", "shell")


def leaving(program, kind, leave=KINDS):
    """A command that starts descendants of these kinds and then hangs, or ends."""
    return [sys.executable, "-c", LEAVING, program.rendezvous.path, kind, " ".join(leave)]


def start(program, command, *options, before=(), **kwargs):
    environment = {"R": program.rendezvous.path, "ANNOUNCE": ANNOUNCE}
    program.run([*before, *RUN, *options, "--", *command], environment=environment, **kwargs)


def start_beside_canary(program, command, *options, **kwargs):
    start(program, command, *options, before=BESIDE_A_CANARY, **kwargs)
    pid = program.rendezvous.expect("canary").pid
    program.spared.append(pid)
    canary = program.hold({"canary": pid})["canary"]
    seen, host = census.look_at(pid), census.look_at(program.process.pid)
    assert (seen.pgid, seen.sid) == (host.pgid, host.sid)
    return canary


@pytest.fixture(params=["session", "terminal"])
def place(request, terminal):
    """Where ``safepool run`` is started: without a terminal, or on one."""
    return {"session": {}, "terminal": {"terminal": terminal["theirs"]}}[request.param]


# --- safepool run dies ---


@pytest.mark.parametrize("kind", ["loop", "stopped", "deaf"])
def test_sigkill_takes_the_whole_tree_along_whatever_the_command_does(make_program, place, kind, tmp_path):
    program = make_program()
    canary = start_beside_canary(program, leaving(program, kind), **place)
    everybody = program.hold_reported(labels_of("first"))
    if kind != "loop":
        prove(kind, everybody["first"].pid, "")

    program.send(signal.SIGKILL)

    assert program.finish() == -signal.SIGKILL
    gone(everybody)
    program.leaves_nothing()
    assert canary.alive()


def test_sigkill_takes_a_shell_and_all_its_children_along(make_program, place):
    program = make_program()
    canary = start_beside_canary(program, ["sh", "-c", SHELL_WITH_CHILDREN], **place)
    everybody = program.hold_reported(CHILDREN)

    program.send(signal.SIGKILL)

    assert program.finish() == -signal.SIGKILL
    gone(everybody)
    program.leaves_nothing()
    assert canary.alive()


@pytest.mark.parametrize("death", [signal.SIGSEGV, signal.SIGABRT])
def test_crash_takes_the_whole_tree_along(make_program, place, death):
    program = make_program()
    canary = start_beside_canary(program, leaving(program, "loop"), **place)
    everybody = program.hold_reported(labels_of("first"))

    program.send(death)

    assert program.finish() == -death
    gone(everybody)
    program.leaves_nothing()
    assert canary.alive()


@pytest.mark.parametrize("seed", range(3))
def test_sigkill_at_any_moment_leaves_nothing(make_program, place, seed):
    moment = random.Random(seed)
    for _ in range(5):
        program = make_program()
        start(program, leaving(program, "deaf"), **place)
        time.sleep(moment.uniform(0, 0.3))  # the moment is the experiment; nothing waits for it

        assert program.process.poll() is None
        program.send(signal.SIGKILL)

        assert program.finish() == -signal.SIGKILL
        program.leaves_nothing()
        program.close()


def test_group_is_ended_by_the_kernel_alone(make_program, place):
    """The janitor is stopped, so it does nothing: it is the pipe that only ``safepool run`` itself has held."""
    program = make_program()
    start(program, leaving(program, "deaf", ["plain", "pipeline"]), **place)
    everybody = program.hold_reported(labels_of("first", ["plain", "pipeline"]))
    janitor = hold_janitor(program)
    janitor.send(signal.SIGSTOP)
    eventually(lambda: census.look_at(janitor.pid).state == "T")

    program.send(signal.SIGKILL)

    gone(everybody)
    janitor.send(signal.SIGCONT)
    program.leaves_nothing()


def test_janitor_that_was_killed_is_replaced_and_sweeps(make_program, place):
    program = make_program()
    start(program, leaving(program, "deaf", ESCAPING), **place)
    everybody = program.hold_reported(labels_of("first", ESCAPING))
    first = hold_janitor(program)
    first.send(signal.SIGKILL)
    gone({"janitor": first})
    hold_janitor(program)

    program.send(signal.SIGKILL)

    gone(everybody)
    program.leaves_nothing()


# --- time ---


def test_command_past_its_time_is_asked_first_and_its_tree_is_ended(make_program):
    program = make_program()
    obedient = SHELL_WITH_CHILDREN.replace("say shell", "trap 'say asked; exit 5' TERM; say shell")
    start(program, ["sh", "-c", obedient], "--timeout", "2")
    everybody = program.hold_reported(CHILDREN)

    assert program.finish() == 124
    assert program.rendezvous.find("asked").pid == everybody["shell"].pid
    assert not any(handle.alive() for handle in everybody.values())
    program.leaves_nothing()
    assert program.stderr == "safepool run: 'sh' was still running after 2 s, and was ended\n"


@pytest.mark.parametrize(("grace", "asked"), [("0.5", True), ("0", False)])
def test_command_that_does_not_heed_sigterm_is_ended_after_the_grace(make_program, grace, asked):
    program = make_program()
    stubborn = f"{SAY} trap 'say asked' TERM; say ready; while :; do sleep 0.01; done"
    start(program, ["sh", "-c", stubborn], "--timeout", "1.5", "--grace", grace)
    shell = program.hold_reported(["ready"])

    assert program.finish() == 124
    assert not shell["ready"].alive()
    assert (program.rendezvous.find("asked") is not None) == asked
    program.leaves_nothing()


def test_stopped_command_is_continued_to_obey(make_program):
    program = make_program()
    start(program, ["sh", "-c", f"{SAY} trap 'say asked; exit' TERM; say ready; kill -STOP $$; wait"], "--timeout", "2")
    shell = program.hold_reported(["ready"])["ready"]
    eventually(lambda: census.look_at(shell.pid).state == "T")

    assert program.finish() == 124
    assert program.rendezvous.find("asked") is not None


def test_command_that_ends_in_time_has_its_own_status(make_program):
    program = make_program()
    start(program, ["sh", "-c", "exit 3"], "--timeout", "1d", "--memory", "1TiB")
    assert program.finish() == 3
    assert program.stderr == ""
    program.leaves_nothing()


# --- its own end ---


@pytest.mark.parametrize("status", [0, 1, 2, 3, 124, 125, 126, 127, 137, 255])
def test_status_is_the_command_s(make_program, status):
    program = make_program()
    start(program, ["sh", "-c", f"exit {status}"])
    assert program.finish() == status
    assert program.stderr == ""


@pytest.mark.parametrize("name", ["SIGSEGV", "SIGKILL", "SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1", "SIGRTMIN"])
def test_death_is_the_command_s(make_program, name, tmp_path):
    signum = signal.Signals[name]
    program = make_program()
    start(program, ["sh", "-c", f"kill -{signum.value} $$"])
    assert program.finish() == -signum
    assert program.stderr == ""
    program.leaves_nothing()


def test_command_that_is_not_there(make_program):
    program = make_program()
    start(program, ["no-such-command"])
    assert program.finish() == 127
    assert program.stderr == "safepool run: 'no-such-command': No such file or directory\n"
    program.leaves_nothing()


def test_command_without_a_name(make_program):
    program = make_program()
    start(program, [""])
    assert program.finish() == 127
    assert program.stderr.startswith("safepool run: '': ")
    assert len(program.stderr.splitlines()) == 1
    program.leaves_nothing()


def test_command_that_cannot_be_run(make_program, tmp_path):
    (tmp_path / "plain").write_text("no program")
    (tmp_path / "no-shebang").write_text("exit 3\n")
    (tmp_path / "no-shebang").chmod(0o755)
    for name, reason in (
        ("plain", "Permission denied"),
        (".", "Permission denied"),
        ("no-shebang", "Exec format error"),
    ):
        program = make_program()
        start(program, [f"{tmp_path}/{name}"])
        assert program.finish() == 126
        assert program.stderr == f"safepool run: '{tmp_path}/{name}': {reason}\n"


LEAVING_AT_A_GATE = """
import sys
from support import descendants, tasks
reports, gate = sys.argv[1:]
tasks.work_then_wait(reports, "first", gate, descendants.KINDS)
"""


def test_command_for_which_there_is_no_room_is_not_started(tmp_path):
    """Six descriptors are enough to import, and not to make a lifeline and a janitor."""
    command = ["sh", "-c", 'ulimit -n 6; exec "$@"', "sh", *RUN, "--", "touch", f"{tmp_path}/started"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 125
    assert done.stderr == "safepool run: 'touch' could not be started: Too many open files\n"
    assert not (tmp_path / "started").exists()


def test_what_the_command_leaves_is_gone_before_its_status_is_told(make_program, place):
    program = make_program()
    gate = program.gate("gate")
    start(program, [sys.executable, "-c", LEAVING_AT_A_GATE, program.rendezvous.path, gate.path], **place)
    everybody = program.hold_reported(labels_of("first"))

    gate.open()

    assert program.finish() == 0, program.stderr
    assert not any(handle.alive() for handle in everybody.values())
    program.leaves_nothing()


# --- signals ---

RECORD = """
import os, signal, subprocess, sys
from support.rendezvous import report
reports, child = sys.argv[1:]
names = ["TERM", "HUP", "INT", "QUIT", "USR1", "USR2", "WINCH", "CONT", "ALRM", "RTMIN"]
helper = subprocess.Popen(["sh", "-c", child, "sh", reports], stdout=subprocess.PIPE)
helper.stdout.readline()
signums = {signal.Signals["SIG" + name]: name for name in names}
signal.pthread_sigmask(signal.SIG_BLOCK, signums)
report(reports, "ready")
while True:
    report(reports, signums[signal.sigwait(signums)])
"""


@pytest.mark.parametrize("name", ["TERM", "HUP", "INT", "QUIT", "USR1", "USR2", "WINCH", "CONT", "ALRM", "RTMIN"])
def test_signal_is_passed_on_to_the_command_once(make_program, place, name):
    """And not to its children: a process that sends one means the command, in whose place we stand."""
    program = make_program()
    listening = (
        'for s in TERM HUP INT QUIT USR1 USR2 ALRM; do trap "echo stray $$ > $1" $s; done; echo; sleep 900 & wait'
    )
    start(program, [sys.executable, "-c", RECORD, program.rendezvous.path, listening], **place)
    command = program.hold_reported(["ready"])["ready"]

    program.send(signal.Signals[f"SIG{name}"])
    program.rendezvous.expect(name)
    program.send(signal.SIGUSR1 if name != "USR1" else signal.SIGUSR2)  # what came twice would have come before this
    program.rendezvous.expect("USR1" if name != "USR1" else "USR2")

    assert [report.label for report in program.rendezvous.reports].count(name) == 1
    assert program.rendezvous.find("stray") is None
    assert command.alive()
    assert program.process.poll() is None


def test_trap_of_the_command_runs_and_its_status_is_ours(make_program):
    program = make_program()
    start(program, ["sh", "-c", f"{SAY} trap 'echo cleaned up; exit 9' TERM; say ready; while :; do sleep 0.01; done"])
    program.rendezvous.expect("ready")

    program.send(signal.SIGTERM)

    assert program.finish() == 9
    assert program.stdout == "cleaned up\n"
    assert program.stderr == ""


def test_signal_that_nobody_handles_ends_the_command_and_its_tree(make_program):
    program = make_program()
    start(program, ["sh", "-c", SHELL_WITH_CHILDREN])
    everybody = program.hold_reported(CHILDREN)

    program.send(signal.SIGTERM)

    assert program.finish() == -signal.SIGTERM
    assert not any(handle.alive() for handle in everybody.values())
    program.leaves_nothing()


def test_what_was_ignored_is_ignored_by_the_command(make_program):
    program = make_program()
    start(
        program,
        ["sh", "-c", f"{SAY} say ready; while :; do sleep 0.01; done"],
        before=["sh", "-c", 'trap "" HUP CHLD; exec "$@"', "sh"],
    )
    shell = program.hold_reported(["ready"])["ready"]

    program.send(signal.SIGHUP)
    program.send(signal.SIGHUP)
    program.send(signal.SIGTERM)

    assert program.finish() == -signal.SIGTERM
    assert not shell.alive()


def test_signal_that_was_ignored_reaches_a_command_that_asks_for_it(make_program):
    program = make_program()
    command = [sys.executable, "-c", RECORD, program.rendezvous.path, "echo; sleep 900 & wait"]
    start(program, command, before=["sh", "-c", 'trap "" HUP; exec "$@"', "sh"])
    program.rendezvous.expect("ready")

    program.send(signal.SIGHUP)

    program.rendezvous.expect("HUP")


def test_command_has_the_signals_that_it_would_have(make_program):
    """No mask, nothing ignored that was not: Python ignores SIGPIPE, and we block almost everything."""
    show = ["grep", "^Sig", "/proc/self/status"]
    straight, through = make_program(), make_program()
    straight.run(show)
    start(through, show)

    assert (straight.finish(), through.finish()) == (0, 0)
    assert [line for line in through.stdout.splitlines() if "SigQ" not in line] == [
        line for line in straight.stdout.splitlines() if "SigQ" not in line
    ]


def test_stop_without_a_terminal_pauses_the_command_and_its_time(make_program):
    program = make_program()
    counting = f"{SAY} say ready; while :; do :; done"
    start(program, ["sh", "-c", counting], "--timeout", "2", "--grace", "0")
    shell = program.hold_reported(["ready"])["ready"]

    program.send(signal.SIGTSTP)
    eventually(lambda: census.look_at(shell.pid).state == census.look_at(program.process.pid).state == "T")
    time.sleep(3)  # being stopped for longer than the command may take is the fault
    program.send(signal.SIGCONT)

    eventually(lambda: census.look_at(shell.pid).state == "R")
    assert program.process.poll() is None
    assert program.finish() == 124


# --- streams and descriptors ---


def test_streams_are_the_command_s_own(make_program):
    text = os.urandom(5 << 20)
    done = subprocess.run([*RUN, "--", "cat"], input=text, capture_output=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == text


def test_leftover_that_holds_our_output_does_not_hold_up_its_reader():
    done = subprocess.run(
        [*RUN, "--", "sh", "-c", "setsid sleep 900 & echo over"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "over\n", "")


def test_stream_that_the_command_closes_is_closed(make_program, make_gate):
    """We keep no copy: the reader sees the end, and whoever writes sees that nobody reads."""
    gate = make_gate()
    with subprocess.Popen(
        [*RUN, "--", "sh", "-c", 'read line; echo "$line"; exec <&- >&-; head -c1 "$G" > /dev/null'],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "G": gate.path},
    ) as process:
        try:
            process.stdin.write(b"hello\n")
            process.stdin.flush()
            assert process.stdout.read() == b"hello\n"  # to the end
            assert process.poll() is None
            with pytest.raises(BrokenPipeError):
                os.write(process.stdin.fileno(), b"nobody")
        finally:
            gate.open()
    assert process.returncode == 0


SHOW_FILES = "ls /proc/$$/fd"


def test_command_inherits_what_the_caller_passes_and_nothing_of_ours(tmp_path):
    with open(tmp_path / "passed", "w", encoding="utf-8") as passed:
        fds = (passed.fileno(),)
        shown = [
            subprocess.run(
                [*before, "bash", "-c", f"{SHOW_FILES}; echo written >&{fds[0]}"],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=True,
                timeout=60,
                pass_fds=fds,
            ).stdout.split()
            for before in ([], [*RUN, "--"])
        ]
    assert shown[0] == shown[1]
    assert {"0", "1", "2", str(fds[0])} <= set(shown[1])
    assert (tmp_path / "passed").read_text("utf-8") == "written\n" * 2


@pytest.mark.parametrize("closed", ["<&-", ">&-", "<&- >&-", "<&- >&- 2>&-"])
def test_stream_that_was_closed_stays_closed(tmp_path, closed):
    show = f'for fd in 0 1 2; do [ -e "/proc/$$/fd/$fd" ] && echo $fd; done > "{tmp_path}/files"; exit 7'
    shell = f'exec {closed}; exec "$@"'
    done = subprocess.run(["sh", "-c", shell, "sh", *RUN, "--", "sh", "-c", show], check=False, timeout=60)
    assert done.returncode == 7
    # The redirection of the loop itself stands in for standard output.
    expected = [fd for fd, mark in enumerate(("<&-", "-", "2>&-")) if fd == 1 or mark not in closed]
    assert [int(line) for line in (tmp_path / "files").read_text("utf-8").split()] == expected


def test_environment_and_directory_are_ours_but_for_the_marker(tmp_path):
    show = ["sh", "-c", "pwd; cat /proc/$$/environ"]
    given = {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(sys.path), "ODD": "\udcff=\n x"}
    done = subprocess.run([*RUN, "--", *show], cwd=tmp_path, env=given, capture_output=True, check=True, timeout=60)
    directory, _, rest = done.stdout.partition(b"\n")
    found = [line for line in rest.strip().split(b"\0") if line and not line.startswith(b"SAFEPOOL_")]
    assert directory == os.fsencode(tmp_path)
    assert sorted(found) == sorted(os.fsencode(f"{name}={value}") for name, value in given.items())


# --- memory ---

HOLD_MEMORY = """
import subprocess, sys
from support.rendezvous import report
kept = bytearray(int(sys.argv[2]))
kept[::4096] = b"x" * len(kept[::4096])
report(sys.argv[1], sys.argv[3])
if len(sys.argv) > 4:
    subprocess.Popen([sys.executable, "-c", sys.argv[4], *sys.argv[1:3], "child"], start_new_session=True)
sys.stdin.read()
"""


def test_command_that_holds_too_much_with_its_children_is_ended(make_program, place):
    """Neither of the two is above the limit."""
    program = make_program()
    command = [sys.executable, "-c", HOLD_MEMORY, program.rendezvous.path, str(60 << 20), "parent", HOLD_MEMORY]
    start(program, command, "--memory", "100MB", **place)
    parent = program.hold_reported(["parent"])["parent"]

    assert program.finish() == 137
    assert not parent.alive()
    program.leaves_nothing()
    (line,) = program.stderr.splitlines()
    assert line.startswith(f"safepool run: '{sys.executable}' held ")
    assert line.endswith(" MiB with all that it had started, above its limit of 95 MiB, and was ended")


def test_command_within_its_limit_is_left_alone(make_program):
    program = make_program()
    command = [sys.executable, "-c", HOLD_MEMORY, program.rendezvous.path, str(60 << 20), "held"]
    start(program, command, "--memory", "200MB")
    program.rendezvous.expect("held")
    program.process.stdin.close()
    assert program.finish() == 0
    assert program.stderr == ""


# --- one within another ---


def test_run_within_run(make_program, place):
    program = make_program()
    start(program, [*RUN, "--", *leaving(program, "deaf")], **place)
    everybody = program.hold_reported(labels_of("first"))

    program.send(signal.SIGKILL)

    gone(everybody)
    program.leaves_nothing()


def test_run_within_run_passes_signal_and_status_through(make_program):
    program = make_program()
    start(program, [*RUN, "--", "sh", "-c", f"{SAY} trap 'exit 9' USR1; say ready; while :; do sleep 0.01; done"])
    program.rendezvous.expect("ready")

    program.send(signal.SIGUSR1)

    assert program.finish() == 9


@pytest.mark.parametrize("end", ["deadline", "host"])
def test_run_within_a_task_ends_with_it(make_host, end):
    host = make_host(max_workers=1)
    host.open_pool()
    command = [*RUN, "--", sys.executable, "-c", LEAVING, host.rendezvous.path, "deaf", " ".join(KINDS)]
    host.submit("task", "run_command", command, timeout=4.0 if end == "deadline" else None)
    everybody = host.hold_reported(labels_of("first"))

    if end == "host":
        host.send(signal.SIGKILL)
        gone(everybody)
    else:
        assert host.outcome("task")["error"] == "TaskTimeoutError"
        assert not any(handle.alive() for handle in everybody.values())
        host.tell("shutdown")
        host.process.stdin.close()
        host.finish()
    host.leaves_nothing()


# --- as the first process of a container ---

# Orphans are given to us then; a subreaper is what comes closest without being root.
AS_SUBREAPER = [
    sys.executable,
    "-c",
    "import ctypes, os, sys; ctypes.CDLL(None).prctl(36, 1, 0, 0, 0); os.execvp(sys.argv[1], sys.argv[1:])",
]


def test_orphans_that_are_given_to_us_are_reaped(make_program):
    program = make_program()
    orphaning = f'{SAY} for n in 1 2 3; do (sh -c "$ANNOUNCE" orphan$n &) ; done; say ready; sleep 900 & wait'
    start(program, ["sh", "-c", orphaning], before=AS_SUBREAPER)
    orphans = program.hold_reported(["orphan1", "orphan2", "orphan3"])
    command = program.hold_reported(["ready"])["ready"]
    ours = {program.process.pid}
    eventually(lambda: {census.look_at(orphan.pid).ppid for orphan in orphans.values()} == ours)

    for orphan in orphans.values():
        orphan.send(signal.SIGKILL)

    eventually(lambda: not any(census.look_at(orphan.pid) for orphan in orphans.values()))
    assert command.alive()
    command.send(signal.SIGKILL)
    assert program.finish() == -signal.SIGKILL
    program.leaves_nothing()


# --- what is wrong with the options ---


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--timeout", "soon"], "--timeout must be a number of seconds, or one with a unit, like '1.5m' or '2h'"),
        (["--timeout", "-1"], "--timeout"),
        (["--timeout", "1e3"], "--timeout must be a number of seconds"),
        (["--timeout", "9" * 400], "--timeout must be a number of seconds"),
        (["--timeout", "0"], "--timeout must be more than zero; leave it out for no limit"),
        (["--grace", "inf"], "--grace must be a number of seconds"),
        (["--memory", "lots"], "--memory must be a size with a unit, like '2GiB' or '500MB', not 'lots'"),
        (["--memory", "0MB"], "--memory must be more than zero"),
        (["--memory", "5"], "--memory must be a size with a unit"),
        (["--colour"], "--colour"),
    ],
)
def test_bad_option_is_one_line_and_starts_nothing(capfd, tmp_path, options, complaint):
    with pytest.raises(SystemExit) as refusal:
        main(["run", *options, "--", "touch", str(tmp_path / "started")])
    assert refusal.value.code == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("safepool run: " if options != ["--colour"] else "safepool")
    assert complaint in line
    assert not (tmp_path / "started").exists()


@pytest.mark.parametrize("arguments", [[], ["--"], ["--timeout", "3"]])
def test_no_command_is_one_line(capfd, arguments):
    with pytest.raises(SystemExit) as refusal:
        main(["run", *arguments])
    assert refusal.value.code == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("safepool run: no command")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--", "printf", "%s|", "--timeout", "--", "-x", ""],
        ["printf", "%s|", "--timeout", "--", "-x", ""],
        ["--grace", "3", "printf", "%s|", "--timeout", "--", "-x", ""],
        ["--grace=3", "--", "printf", "%s|", "--timeout", "--", "-x", ""],
    ],
)
def test_arguments_of_the_command_are_left_as_they_are(arguments):
    done = subprocess.run([*RUN, *arguments], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "--timeout|--|-x||", "")


def test_help_says_how_it_ends(capsys):
    with pytest.raises(SystemExit) as end:
        main(["run", "--help"])
    assert end.value.code == 0
    shown = capsys.readouterr().out
    assert all(status in shown for status in ("124", "125", "126", "127", "137", "128+N"))
