"""``safepool run`` at a terminal, as a person sees it: Ctrl-C, Ctrl-Z, pipelines, and a shell within."""

from __future__ import annotations

import os
import shlex
import signal
import sys
import termios

import pytest

from support import census
from support.eventually import eventually
from support.handles import gone
from support.shells import CTRL_C, CTRL_D, CTRL_Z, Person

pytestmark = pytest.mark.timeout(120)

RUN = [sys.executable, "-m", "safepool", "run"]

TALKATIVE = """
import signal, sys, threading
from support.rendezvous import report
reports, label = sys.argv[1:]
names = {signal.SIGINT: "int", signal.SIGUSR1: "usr1"}
def listen():  # a handler would only be called once the reading below is over
    while True:
        report(reports, f"{label}.{names[signal.sigwait(names)]}")
signal.pthread_sigmask(signal.SIG_BLOCK, names)
threading.Thread(target=listen, daemon=True).start()
report(reports, label)
for line in sys.stdin:
    report(reports, f"{label}.{line.strip()}")
"""


@pytest.fixture(params=["bash", "dash"])
def person(request, make_program, terminal):
    return Person(make_program(), terminal, request.param)


@pytest.fixture
def bash_person(make_program, terminal):
    return Person(make_program(), terminal, "bash")


def talkative(person, label):
    return [sys.executable, "-c", TALKATIVE, person.program.rendezvous.path, label]


def hold(person, *labels):
    return person.program.hold_reported(labels)


def is_foreground(pid, terminal):
    return os.tcgetpgrp(terminal["ours"]) == census.look_at(pid).pgid


def count(person, label):
    return [report.label for report in person.program.rendezvous.reports].count(label)


def test_command_is_in_the_foreground_in_a_group_of_its_own(person, terminal):
    person.runs([*RUN, "--", *talkative(person, "it")])
    it = hold(person, "it")["it"]
    seen = census.look_at(it.pid)
    host = census.look_at(seen.ppid)
    assert "safepool" in host.command
    assert seen.pgid == it.pid != host.pgid
    assert seen.sid == host.sid == person.program.process.pid
    assert is_foreground(it.pid, terminal)

    person.types("hello")
    person.program.rendezvous.expect("it.hello")
    person.presses(CTRL_D)
    person.is_asked()

    assert person.status() == 0
    assert is_foreground(person.program.process.pid, terminal)


def test_ctrl_c_reaches_the_command_once(person):
    person.runs([*RUN, "--", *talkative(person, "it")])
    it = hold(person, "it")["it"]

    person.presses(CTRL_C)
    person.program.rendezvous.expect("it.int")
    it.send(signal.SIGUSR1)  # what came twice would have come before this
    person.program.rendezvous.expect("it.usr1")

    assert count(person, "it.int") == 1
    assert it.alive()
    person.presses(CTRL_D)
    person.is_asked()
    assert person.status() == 0


def test_ctrl_c_ends_a_command_that_does_not_handle_it_and_its_tree(person):
    reports = person.program.rendezvous.path
    child = f'setsid sh -c \'echo "child $$" > {reports}; exec sleep 900\' & echo "it $$" > {reports}; wait'
    person.runs([*RUN, "--", "sh", "-c", child])
    both = hold(person, "it", "child")

    person.presses(CTRL_C)

    gone(both)
    person.is_asked()
    assert person.status() == 128 + signal.SIGINT


def test_ctrl_z_stops_and_fg_goes_on(person, terminal):
    person.runs([*RUN, "--", *talkative(person, "it")])
    it = hold(person, "it")["it"]
    host = census.look_at(it.pid).ppid
    for number in range(3):
        person.presses(CTRL_Z)
        assert "topped" in person.is_asked()
        assert census.look_at(it.pid).state == census.look_at(host).state == "T"
        assert is_foreground(person.program.process.pid, terminal)

        person.types("fg")
        eventually(lambda: is_foreground(it.pid, terminal))
        person.types(f"line{number}")
        person.program.rendezvous.expect(f"it.line{number}")

    person.presses(CTRL_D)
    person.is_asked()
    assert person.status() == 0


def test_command_that_somebody_stops_is_a_stopped_job(person, terminal):
    person.runs([*RUN, "--", *talkative(person, "it")])
    it = hold(person, "it")["it"]

    it.send(signal.SIGSTOP)

    assert "topped" in person.is_asked()
    assert is_foreground(person.program.process.pid, terminal)
    person.types("fg")
    eventually(lambda: is_foreground(it.pid, terminal))
    person.types("hello")
    person.program.rendezvous.expect("it.hello")
    person.presses(CTRL_D)
    person.is_asked()
    assert person.status() == 0


def test_stopped_command_goes_on_in_the_background(person, terminal):
    person.runs([*RUN, "--", "sh", "-c", f'echo "it $$" > {person.program.rendezvous.path}; sleep 900 & wait'])
    it = hold(person, "it")["it"]
    person.presses(CTRL_Z)
    person.is_asked()
    assert census.look_at(it.pid).state == "T"

    person.types("bg")
    person.is_asked()
    eventually(lambda: census.look_at(it.pid).state == "S")
    assert is_foreground(person.program.process.pid, terminal)

    person.types("fg")
    eventually(lambda: not is_foreground(person.program.process.pid, terminal))
    person.presses(CTRL_C)
    gone({"it": it})
    person.is_asked()
    assert person.status() == 128 + signal.SIGINT


def test_command_in_the_background_that_reads_is_stopped_until_it_may(person, terminal):
    person.runs([*RUN, "--", *talkative(person, "it")], "&")
    it = hold(person, "it")["it"]
    person.is_asked()
    host = census.look_at(it.pid).ppid
    eventually(lambda: census.look_at(it.pid).state == census.look_at(host).state == "T")
    assert is_foreground(person.program.process.pid, terminal)

    person.types("fg")
    eventually(lambda: is_foreground(it.pid, terminal))
    person.types("hello")
    person.program.rendezvous.expect("it.hello")
    person.presses(CTRL_D)
    person.is_asked()
    assert person.status() == 0


def test_command_that_was_started_in_the_background_comes_to_the_foreground(person, terminal):
    reports = person.program.rendezvous.path
    script = f'echo "it $$" > {reports}; sleep 900 & wait; echo late'
    person.runs([*RUN, "--", "sh", "-c", script], "&")
    person.is_asked()
    it = hold(person, "it")["it"]
    assert not is_foreground(it.pid, terminal)

    person.types("fg")
    person.sees("safepool")
    eventually(lambda: not is_foreground(person.program.process.pid, terminal))
    person.presses(CTRL_C)

    gone({"it": it})
    person.is_asked()
    assert person.status() == 128 + signal.SIGINT


def test_killed_job_takes_its_tree_along_though_it_is_stopped(person):
    person.runs([*RUN, "--", *talkative(person, "it")])
    it = hold(person, "it")["it"]
    person.presses(CTRL_Z)
    person.is_asked()

    person.types("kill -9 %1")

    gone({"it": it})


def test_shell_within_has_job_control_of_its_own(bash_person, terminal):
    person = bash_person
    reports = person.program.rendezvous.path
    person.runs([*RUN, "--", *person.shell])
    person.is_asked()
    person.types(f"echo inner $$ > {reports}")
    person.is_asked()
    inner = hold(person, "inner")["inner"]

    person.runs(talkative(person, "job"))
    job = hold(person, "job")["job"]
    assert is_foreground(job.pid, terminal)
    person.presses(CTRL_Z)
    person.is_asked()
    assert is_foreground(inner.pid, terminal)
    person.types("fg")
    eventually(lambda: is_foreground(job.pid, terminal))
    person.presses(CTRL_C)
    person.program.rendezvous.expect("job.int")

    person.presses(CTRL_Z)
    person.is_asked()
    person.types("suspend -f")  # now the inner shell is the stopped job of the outer one
    person.is_asked()
    assert census.look_at(inner.pid).state == "T"
    assert is_foreground(person.program.process.pid, terminal)
    person.types("fg")
    eventually(lambda: is_foreground(inner.pid, terminal))
    person.is_asked()

    person.types("exit 7")  # the first time it says that there is a stopped job
    person.is_asked()
    person.types("exit 7")
    gone({"inner": inner, "job": job})
    person.is_asked()
    assert person.status() == 7
    assert count(person, "job.int") == 1


def test_next_in_the_pipeline_keeps_the_terminal(person, terminal):
    """As with ``safepool run -- find / | less``."""
    reports = person.program.rendezvous.path
    producer = f'echo "producer $$" > {reports}; read line < {person.program.gate("gate").path}'
    reader = f'echo "reader $$" > {reports}; read line < /dev/tty; echo "read $$ $line" > {reports}'
    person.runs([*RUN, "--", "sh", "-c", producer], f"| sh -c '{reader}'")
    both = hold(person, "producer", "reader")
    eventually(lambda: is_foreground(both["reader"].pid, terminal))

    person.types("hello")
    assert person.program.rendezvous.expect("read").detail == "hello"
    person.presses(CTRL_C)

    gone(both)
    person.is_asked()


def test_last_in_the_pipeline_gets_the_terminal_when_it_asks(person, terminal):
    """As with ``git log | safepool run -- less``, which reads from the terminal."""
    reports = person.program.rendezvous.path
    reader = f'echo "reader $$" > {reports}; read line < /dev/tty; echo "read $$ $line" > {reports}'
    person.types(f"(echo text; sleep 900) | {' '.join(RUN)} -- sh -c '{reader}'")
    it = hold(person, "reader")["reader"]
    eventually(lambda: is_foreground(it.pid, terminal))

    person.types("hello")
    assert person.program.rendezvous.expect("read").detail == "hello"
    gone({"it": it})
    eventually(lambda: os.tcgetpgrp(terminal["ours"]) != it.pid)
    person.presses(CTRL_C)
    person.is_asked()


def test_script_hears_ctrl_c_and_its_command_hears_it_once(person, terminal, tmp_path):
    """The script shares our group: were the command in the foreground, the script would not be told."""
    reports = person.program.rendezvous.path
    gate = person.program.gate("gate")
    (tmp_path / "program").write_text(TALKATIVE)
    command = shlex.join([*RUN, "--", sys.executable, f"{tmp_path}/program", reports, "it"])
    (tmp_path / "script").write_text(
        f"trap 'echo script.int $$ > {reports}' INT\necho script $$ > {reports}\n{command} < {gate.path}\n"
    )
    person.types(f"sh {tmp_path}/script")
    both = hold(person, "script", "it")
    assert is_foreground(both["script"].pid, terminal)

    person.presses(CTRL_C)
    person.program.rendezvous.expect("it.int")
    both["it"].send(signal.SIGUSR1)  # what came twice would have come before this
    person.program.rendezvous.expect("it.usr1")
    both["it"].send(signal.SIGKILL)

    person.program.rendezvous.expect("script.int")
    person.is_asked()
    assert count(person, "it.int") == 1


def test_script_has_the_terminal_again_after_its_command(person, terminal, tmp_path):
    reports = person.program.rendezvous.path
    reading = f'read line < /dev/tty; echo "it $$ $line" > {reports}'
    (tmp_path / "script").write_text(
        f"{shlex.join([*RUN, '--', 'sh', '-c', reading])}\nread line\necho script $$ $line > {reports}\n"
    )
    person.types(f"sh {tmp_path}/script")
    person.types("for the command")
    person.types("for the script")

    assert person.program.rendezvous.expect("it").detail == "for the command"
    assert person.program.rendezvous.expect("script").detail == "for the script"
    person.is_asked()


def test_terminal_is_as_it_was_after_a_command_that_was_ended(person, terminal):
    before = termios.tcgetattr(terminal["theirs"])
    reports = person.program.rendezvous.path
    script = f'stty raw -echo; echo "it $$" > {reports}; exec sleep 900'
    person.runs([*RUN, "--timeout", "2", "--grace", "0", "--", "sh", "-c", script])
    hold(person, "it")
    assert termios.tcgetattr(terminal["theirs"])[3] != before[3]

    assert "was still running after 2 s" in person.is_asked()

    assert person.status() == 124
    eventually(lambda: termios.tcgetattr(terminal["theirs"])[3] == before[3])


def test_run_within_run_stops_and_goes_on(person, terminal):
    person.runs([*RUN, "--", *RUN, "--", *talkative(person, "it")])
    it = hold(person, "it")["it"]
    assert is_foreground(it.pid, terminal)
    person.presses(CTRL_Z)
    person.is_asked()
    person.types("fg")
    eventually(lambda: is_foreground(it.pid, terminal))
    person.types("hello")
    person.program.rendezvous.expect("it.hello")
    person.presses(CTRL_C)
    person.program.rendezvous.expect("it.int")
    person.presses(CTRL_D)
    person.is_asked()
    assert person.status() == 0
    assert count(person, "it.int") == 1


def test_ctrl_z_where_nobody_could_continue_does_nothing(make_program, terminal):
    """``safepool run`` leads the session, as in a terminal that was opened for it: there is no shell to say ``fg``."""
    program = make_program()
    program.run(
        [*RUN, "--", sys.executable, "-c", TALKATIVE, program.rendezvous.path, "it"], terminal=terminal["theirs"]
    )
    it = program.hold_reported(["it"])["it"]

    os.write(terminal["ours"], CTRL_Z + b"hello\n")

    program.rendezvous.expect("it.hello")
    assert is_foreground(it.pid, terminal)
    os.write(terminal["ours"], CTRL_D)
    assert program.finish() == 0


def test_closed_terminal_ends_everything(make_program, terminal):
    program = make_program()
    program.run(
        [*RUN, "--", "sh", "-c", f'echo "it $$" > {program.rendezvous.path}; sleep 900'], terminal=terminal["theirs"]
    )
    it = program.hold_reported(["it"])

    os.close(terminal["ours"])
    terminal["ours"] = -1

    assert program.finish() == -signal.SIGHUP
    gone(it)
    program.leaves_nothing()
