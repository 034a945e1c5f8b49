"""Pools without some mechanism hold what is documented of them (the quick choice; all of it is in ``torture``)."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from contract.scripts import environment, run_script
from support.degraded import EVERYTHING, degraded, host_dies_without, worker_ends_without
from support.handles import gone
from support.scenes import hang_everywhere, hold_janitor, strike
from support.without import EXCEPTIONS

pytestmark = pytest.mark.timeout(120)


@pytest.mark.parametrize("mask", ["setsig", "pidfd", "setsig,proc", EVERYTHING])
def test_host_that_dies_takes_everything_along_but_what_is_documented(make_host, mask):
    host_dies_without(make_host, mask, "c")


@pytest.mark.parametrize("how", ["kill", "deadline"])
def test_worker_that_ends_takes_everything_along_but_what_is_documented(make_host, how):
    worker_ends_without(make_host, EVERYTHING, how)


@pytest.mark.parametrize("kind", ["loop", "idle"])
def test_worker_that_can_run_a_thread_outlives_neither_host_nor_janitor(make_host, kind):
    """They die together: only the watch in the worker is left."""
    host, everybody = host_and_janitor_die(make_host, kind)
    gone(everybody)
    host.leaves_nothing()


def test_worker_that_cannot_run_a_thread_outlives_host_and_janitor_together(make_host):
    """The documented miss, exactly. With F_SETSIG the kernel ends it."""
    host, everybody = host_and_janitor_die(make_host, "c")
    assert all(handle.alive() for handle in everybody.values())
    for handle in everybody.values():
        handle.send(signal.SIGKILL)
    gone(everybody)
    host.leaves_nothing()


def host_and_janitor_die(make_host, kind):
    host = degraded(make_host, "setsig", max_workers=1)
    host.open_pool()
    everybody = hang_everywhere(host, kind, workers=1, leave=("plain",))
    janitor = hold_janitor(host)
    host.stop()  # so that it starts no other
    janitor.send(signal.SIGKILL)
    gone({"janitor": janitor})
    strike(host, "SIGKILL")
    host.finish()
    return host, everybody


def test_every_exception_is_a_test():
    for test in EXCEPTIONS:
        path, _, name = test.partition("::")
        assert (f"def {name}(" if name else "def test_") in (Path(__file__).parents[1] / path).read_text("utf-8"), test


# --- what is said ---

_PROGRAM = """
import logging, sys
from safepool import SafeProcessPoolExecutor

if __name__ == "__main__":
    logging.basicConfig(level=sys.argv[1], format="%(levelname)s %(name)s %(message)s")
    for _ in range(2):
        with SafeProcessPoolExecutor(1) as pool:
            print(pool.submit(pow, 2, 5).result())
"""


def said(tmp_path, mask, level):
    path = tmp_path / "program.py"
    path.write_text(_PROGRAM)
    command = [sys.executable, str(path), level]
    variables = {**environment(), "SAFEPOOL_DISABLE": mask}
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "32\n32\n"
    return done.stderr.splitlines()


def test_what_is_masked_is_said_once_to_whoever_wants_to_know(tmp_path):
    lines = said(tmp_path, " memfd, setsig,", "INFO")
    assert [line.partition(":")[0] for line in lines] == [
        "INFO safepool no setsig here (disabled by SAFEPOOL_DISABLE)",
        "INFO safepool no memfd here (disabled by SAFEPOOL_DISABLE)",
    ]


def test_what_is_masked_is_no_warning(tmp_path):
    assert said(tmp_path, EVERYTHING, "WARNING") == []


def test_variable_that_names_what_there_is_not_is_refused_at_the_first_pool(tmp_path):
    program = """
        import os
        os.environ["SAFEPOOL_DISABLE"] = "pidfd,luck"
        from safepool import SafeProcessPoolExecutor, get_context
        for make in (lambda: SafeProcessPoolExecutor(1), get_context().Process(target=abs, args=(1,)).start):
            try:
                make()
            except ValueError as error:
                print(error)
    """
    done = run_script(tmp_path / "program.py", textwrap.dedent(program))
    complaint = (
        "SAFEPOOL_DISABLE must name mechanisms (setsig, pidfd, pidfd_group, pidfd_info, proc, memfd, cgroup,"
        " pipe_watch, parent_watch, group_kill), with commas between, not 'luck'"
    )
    assert done.stdout.splitlines() == [complaint] * 2


@pytest.mark.parametrize("command", [["doctor"], ["ps"], ["reap"], ["run", "--", "true"]])
def test_variable_that_names_what_there_is_not_is_refused_by_every_command_in_one_line(command):
    variables = {**environment(), "SAFEPOOL_DISABLE": "luck"}
    line = [sys.executable, "-m", "safepool", *command]
    done = subprocess.run(line, env=variables, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert f"safepool {command[0]}: SAFEPOOL_DISABLE must name mechanisms" in done.stderr


def test_doctor_shows_what_is_masked():
    variables = {**environment(), "SAFEPOOL_DISABLE": EVERYTHING}
    command = [sys.executable, "-m", "safepool", "doctor", "--json"]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False, timeout=100)
    probes = {probe["name"]: probe for probe in json.loads(done.stdout)["probes"]}
    masked = {name for name, probe in probes.items() if "disabled by SAFEPOOL_DISABLE" in probe["found"]}
    for_all = {"pidfd", "exit-status", "group-signal", "lifeline", "memfd", "proc"}
    assert masked == for_all | {"cgroup", "guardian", "memory-limit", "cpu-limit"}
    assert all(probes[name]["lost"] for name in masked)
    assert probes["pool"]["status"] == "ok"
    assert done.returncode == 1


# --- what cannot be had, and is refused ---


@pytest.mark.parametrize(
    ("option", "shown"),
    [
        ({"memory_limit": "1GiB"}, "memory_limit cannot be '1GiB' here"),
        ({"max_worker_memory": "1GiB"}, "max_worker_memory cannot be '1GiB' here"),
        ({"leftovers": "end"}, "leftovers cannot be 'end' here"),
        ({"containment": "strict"}, 'containment="strict"'),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_option_that_could_not_be_kept_is_refused(tmp_path, option, shown):
    program = f"""
        import os
        os.environ["SAFEPOOL_DISABLE"] = "proc,cgroup"
        from safepool import SafeProcessPoolExecutor
        try:
            SafeProcessPoolExecutor(1, **{option!r})
        except RuntimeError as error:
            print(error)
    """
    done = run_script(tmp_path / "program.py", textwrap.dedent(program))
    assert shown in done.stdout
    assert "disabled by SAFEPOOL_DISABLE" in done.stdout


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        (["ps"], "safepool ps: there is no /proc to find anybody in"),
        (["reap"], "safepool reap: there is no /proc to find anybody in"),
        (["run", "--memory", "1GiB", "--", "true"], "safepool run: --memory cannot be had here"),
    ],
)
def test_command_that_needs_proc_says_so_in_one_line(command, shown):
    variables = {**environment(), "SAFEPOOL_DISABLE": "proc"}
    line = [sys.executable, "-m", "safepool", *command]
    done = subprocess.run(line, env=variables, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert shown in done.stderr
