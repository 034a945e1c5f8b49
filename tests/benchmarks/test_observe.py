"""What is seen from outside is what is so."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from safepool.bench.observe import Reports, Watch, members, new_marker, voluntary_switches, wait_at_gate
from support.eventually import eventually

TELL = "import sys; open(sys.argv[1], 'w').write('1 2.5\\n')"


def test_reports_come_line_by_line() -> None:
    with Reports() as reports:
        subprocess.run([sys.executable, "-c", TELL, reports.path], check=True, timeout=30)

        assert reports.lines(1, 0.0) == [[1.0, 2.5]]


def test_reports_that_do_not_come_are_not_waited_for_for_ever() -> None:
    with Reports() as reports, pytest.raises(TimeoutError):
        reports.lines(1, 0.01)


def test_reports_of_a_host_that_has_ended_are_not_waited_for() -> None:
    with (
        subprocess.Popen([sys.executable, "-c", ""]) as host,
        Reports() as reports,
        reports.of(host.pid),
        pytest.raises(ChildProcessError, match="the host ended"),
    ):
        reports.lines(1, 50.0)


def test_gate_lets_a_process_go_on_when_it_opens() -> None:
    program = f"import sys; from safepool.bench.observe import {wait_at_gate.__name__} as wait; wait(sys.argv[1])"
    with Reports() as reports, subprocess.Popen([sys.executable, "-c", program, reports.path]) as waiting:
        reports.open_gate()

        assert waiting.wait(30) == 0


def test_watch_says_who_is_gone_and_who_is_not() -> None:
    with subprocess.Popen(["sleep", "1000"]) as long, subprocess.Popen(["true"]) as short:
        with Watch([long.pid, short.pid]) as watch:
            while short.pid not in watch.gone_at:
                left = watch.wait(0.01)
            assert left == {long.pid}
            long.kill()
            assert watch.wait(30) == set()
        assert watch.gone_at[short.pid] < watch.gone_at[long.pid]


def test_members_are_found_by_the_marker_wherever_they_went() -> None:
    marker = new_marker()
    with subprocess.Popen(["sleep", "1000"], env={**os.environ, marker: "1"}, start_new_session=True) as marked:
        with subprocess.Popen(["sleep", "1000"]) as other:
            found = eventually(lambda: members(marker))  # for an instant of its start, a process shows no environment
            by_session = members(new_marker(), marked.pid)
            other.kill()
        marked.kill()

    assert found == by_session == {marked.pid}


def test_switches_of_a_process_that_sleeps_are_counted() -> None:
    program = "import sys, time; [time.sleep(0.001) for _ in range(20)]; print(flush=True); sys.stdin.read()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", program], **pipes) as sleeper:
        assert sleeper.stdout
        sleeper.stdout.readline()
        counted = voluntary_switches([sleeper.pid])
        thread = f"/proc/{sleeper.pid}/task/{sleeper.pid}"

        assert counted >= 20
        assert voluntary_switches([sleeper.pid], without=[thread]) == 0
