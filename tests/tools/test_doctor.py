"""``safepool doctor``: what holds is found to hold, what is taken away is missed, and nothing is left behind."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from safepool._os.control_group import ControlGroup
from safepool.cli import main
from safepool.tools import doctor, probes_files, probes_limits, probes_pool, probes_process, probes_strict, staged
from safepool.tools.probe import EVERY_POOL, LIMITS, MISSING, OK, STRICT, Finding, Probe
from support import census
from support.eventually import eventually
from support.handles import Handle, end_all, gone
from support.refusals import is_refused_in_one_line
from tools.masked import FEATURES, is_possible

pytestmark = pytest.mark.timeout(180)

PROBES = [
    *probes_process.PROBES,
    *probes_files.PROBES,
    *probes_pool.PROBES,
    *probes_strict.PROBES,
    *probes_limits.PROBES,
]
DOCTOR = [sys.executable, "-m", "safepool", "doctor"]
MASKED = [sys.executable, str(Path(__file__).with_name("masked.py"))]
ROOM = 14  # descriptors: enough for the doctor, and too few for a pool


@pytest.fixture
def mark() -> Iterator[str]:
    """What everybody carries who comes of the test; in the end nobody does."""
    mark = f"UNDER_TEST_{secrets.token_hex(8)}"
    yield mark
    try:
        census.nobody(lambda: census.carrying(mark))
    finally:
        end_all(mark)


def environment(mark: str) -> dict[str, str]:
    return {**os.environ, mark: "1", "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}


def examine(mark: str, *before: str, only: str | None = None, **options: Any) -> tuple[int, dict[str, Any]]:
    """Run the doctor behind other commands; give its status and what it found, by name."""
    command = [*before, *DOCTOR, "--json", *([] if only is None else ["--only", only])]
    done = subprocess.run(command, env=environment(mark), capture_output=True, check=False, timeout=150, **options)
    assert done.stderr == b""
    told = json.loads(done.stdout)
    return done.returncode, {probe["name"]: probe for probe in told["probes"]}


# --- what is told ---


def test_json_tells_of_every_probe_and_agrees_with_the_exit_status(mark: str) -> None:
    done = subprocess.run([*DOCTOR, "--json"], env=environment(mark), capture_output=True, check=False, timeout=150)
    told = json.loads(done.stdout)

    assert told.keys() == {"safepool", "python", "kernel", "cpus", "user", "holds", "strict_by", "probes"}
    assert [probe["name"] for probe in told["probes"]] == [probe.name for probe in PROBES]
    for probe in told["probes"]:
        assert probe.keys() == {"name", "needed_for", "status", "found", "lost", "remedy"}
        assert probe["status"] in {"ok", "degraded", "missing"}
        assert (probe["lost"] is None) == (probe["remedy"] is None) == (probe["status"] == "ok")
    lacking = {p["name"] for p in told["probes"] if p["status"] != "ok" and p["needed_for"] == EVERY_POOL}
    assert told["holds"] == (not lacking)
    assert done.returncode == (1 if lacking else 0)


def test_what_this_library_needs_to_pass_its_tests_is_here(mark: str) -> None:
    """Tests have shown that these work, so a doctor that misses one is wrong."""
    _, found = examine(mark, only="pidfd,lifeline,janitor,memfd,fd-passing,proc,pool")
    assert {name for name, probe in found.items() if probe["status"] != "ok"} == set()


def test_row_of_what_is_missing_says_what_is_lost_and_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused() -> Finding:
        raise PermissionError("the kernel refused")

    probes = [
        Probe("here", EVERY_POOL, lambda: Finding(OK, "it works"), "much", "somehow"),
        Probe("away", EVERY_POOL, refused, "a promise", "ask for it"),
        Probe("later", STRICT, refused, "nothing in this release", "wait"),
    ]
    monkeypatch.setattr(doctor, "_chosen", lambda *_: probes)

    assert main(["doctor"]) == 1

    lines = capsys.readouterr().out.splitlines()
    assert "  ok        here          it works" in lines
    at = lines.index("  missing   away          the kernel refused")
    assert [line.strip() for line in lines[at + 1 : at + 3]] == ["lost: a promise", "to get it: ask for it"]
    assert "  missing   later         the kernel refused" in lines
    assert lines[-1] == "not all that docs/failure-modes.md promises holds here: away"


def test_only_what_every_pool_needs_counts_for_the_exit_status(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    probe = Probe("later", STRICT, lambda: Finding(MISSING, "no"), "nothing in this release", "wait")
    monkeypatch.setattr(doctor, "_chosen", lambda *_: [probe])
    assert main(["doctor"]) == 0
    assert capsys.readouterr().out.endswith("\nall that docs/failure-modes.md promises holds here\n")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["doctor", "--only", "pidfd,luck"], "no such probe: luck (there are pidfd, "),
        (["doctor", "--only", ""], "no such probe: ''"),
        (["doctor", "please"], "unrecognized arguments: please"),
    ],
)
def test_wrong_input_is_refused_in_one_line(
    arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    is_refused_in_one_line(arguments, complaint, capsys)


# --- what is taken away ---


@pytest.mark.skipif(not is_possible(), reason="needs seccomp, and a machine whose calls have numbers here")
@pytest.mark.parametrize(
    ("feature", "only", "missed"),
    [
        ("pidfd_open", "pidfd,lifeline,memfd,pool", {"pidfd": "degraded"}),
        ("PIDFD_GET_INFO", "pidfd,exit-status", {"exit-status": "degraded"}),
        ("PIDFD_SIGNAL_PROCESS_GROUP", "pidfd,group-signal,pool", {"group-signal": "degraded"}),
        ("F_SETSIG", "pidfd,lifeline,janitor,pool", {"lifeline": "degraded"}),
        ("memfd_create", "pidfd,lifeline,memfd,pool", {"memfd": "degraded"}),
        ("kcmp", "proc,memory", {"memory": "degraded"}),
        ("sendmsg", "memfd,fd-passing", {"fd-passing": "missing"}),
    ],
)
def test_feature_that_the_kernel_refuses_is_missed(mark: str, feature: str, only: str, missed: dict[str, str]) -> None:
    """Its own row tells, and those that rest on it; the others are as without."""
    assert feature in FEATURES
    status, found = examine(mark, *MASKED, feature, only=only)
    assert {name: probe["status"] for name, probe in found.items() if probe["status"] != "ok"} == missed
    assert status == 1


@pytest.mark.skipif(not is_possible(), reason="needs seccomp, and a machine whose calls have numbers here")
def test_lifeline_that_does_not_fire_is_missed(mark: str) -> None:
    """A kernel that takes F_SETSIG and does not heed it sends SIGIO, which can be blocked."""
    status, found = examine(mark, *MASKED, "F_SETSIG, heeded", only="lifeline")
    assert found["lifeline"]["status"] == "missing"
    assert "a group was alive" in found["lifeline"]["found"]
    assert status == 1


@pytest.mark.skipif(not is_possible(), reason="needs seccomp, and a machine whose calls have numbers here")
def test_what_strict_containment_needs_is_missed_without_complaint(mark: str) -> None:
    status, found = examine(mark, *MASKED, "mkdir", *MASKED, "subreaper", only="pidfd,cgroup,guardian")
    assert {name: probe["status"] for name, probe in found.items()} == {
        "pidfd": "ok",
        "cgroup": "missing",
        "guardian": "missing",
    }
    assert found["cgroup"]["needed_for"] == found["guardian"]["needed_for"] == STRICT
    assert "Delegate=yes" in found["cgroup"]["remedy"]
    assert "Operation not permitted" in found["guardian"]["found"]
    assert status == 0


@pytest.mark.skipif(not is_possible(), reason="needs seccomp, and a machine whose calls have numbers here")
@pytest.mark.parametrize(
    ("masks", "only", "kept"),
    [
        (["mkdir"], "cgroup,guardian", "guardian"),
        (["mkdir", "subreaper"], "cgroup,guardian", None),
        (["mkdir"], "guardian", None),
    ],
)
def test_what_keeps_strict_containment_is_told_where_all_was_tried(
    mark: str, masks: list[str], only: str, kept: str | None
) -> None:
    before = [word for mask in masks for word in (*MASKED, mask)]
    command = [*before, *DOCTOR, "--only", only]
    shown, told = (
        subprocess.run([*command, *more], env=environment(mark), capture_output=True, check=True, timeout=150).stdout
        for more in ([], ["--json"])
    )
    assert json.loads(told)["strict_by"] == kept
    lines = [line for line in shown.decode().splitlines() if "is kept by" in line]
    assert lines == ([] if kept is None else ['containment="strict" is kept by a guardian for each worker here'])


@pytest.mark.skipif(not is_possible(), reason="needs seccomp, and a machine whose calls have numbers here")
def test_limits_that_the_kernel_does_not_keep_are_missed_without_complaint(mark: str) -> None:
    """For want of the controllers, or of a group that could have them."""
    status, found = examine(mark, *MASKED, "mkdir", only="pidfd,memory-limit,cpu-limit")
    assert {name: probe["status"] for name, probe in found.items()} == {
        "pidfd": "ok",
        "memory-limit": "missing",
        "cpu-limit": "missing",
    }
    for name in ("memory-limit", "cpu-limit"):
        assert found[name]["needed_for"] == LIMITS
        assert "-p Delegate=yes" in found[name]["remedy"]
        assert "docker run" in found[name]["remedy"]
    assert status == 0


@pytest.mark.parametrize(
    ("name", "files", "found"),
    [
        ("memory-limit", {"memory.max": str(64 << 20)}, "limited it to 64 MiB"),
        ("cpu-limit", {"cpu.max": "50000 100000"}, "limited it to 0.5 CPUs"),
    ],
)
def test_limit_is_tried_on_a_group(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, files: dict[str, str], found: str
) -> None:
    """A directory of files stands for the group, which takes what it is told: few machines that test have another."""
    monkeypatch.setattr(probes_limits, "janitor", Mock())
    monkeypatch.setattr(probes_limits, "house_of_this_process", lambda: str(tmp_path))
    monkeypatch.setattr(probes_limits, "controller_for_a_while", lambda _name: contextlib.nullcontext())
    monkeypatch.setattr(probes_limits, "new_group", lambda _name: ControlGroup(str(tmp_path)))
    monkeypatch.setattr(ControlGroup, "remove", lambda _group: None)
    (probe,) = (probe for probe in probes_limits.PROBES if probe.name == name)
    assert probe.run().status == MISSING, "the group does not have the controller's files"
    for file in (*files, "memory.oom.group"):
        (tmp_path / file).touch()
    assert probe.run() == (OK, f"made a group with the {name.partition('-')[0]} controller, and {found}")
    assert {file: (tmp_path / file).read_text() for file in files} == files


def test_few_descriptors_are_missed(mark: str) -> None:
    few = 32 + os.cpu_count()  # type: ignore[operator]  # for the doctor and its pool, and not for two workers per CPU
    limit = lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (few, few))  # noqa: E731  # for the child alone
    status, found = examine(mark, only="pidfd,descriptors", preexec_fn=limit)
    assert found["pidfd"]["status"] == "ok"
    assert found["descriptors"]["status"] == "degraded"
    assert f"of {few} " in found["descriptors"]["found"]
    assert status == 1


def test_too_few_descriptors_for_a_pool_are_told_with_the_reason(mark: str) -> None:
    limit = lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (ROOM, ROOM))  # noqa: E731  # for the child alone
    status, found = examine(mark, only="pidfd,pool", preexec_fn=limit)
    assert (found["pidfd"]["status"], found["pool"]["status"]) == ("ok", "missing")
    assert "Too many open files" in found["pool"]["found"]
    assert status == 1


def can_unshare() -> bool:
    if shutil.which("unshare") is None:
        return False
    command = ["unshare", "--pid", "--fork", "--mount-proc", "true"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(not can_unshare(), reason="needs the right to make a pid namespace")
def test_first_process_of_a_container_is_told_that_nobody_reaps_orphans(mark: str) -> None:
    status, found = examine(mark, "unshare", "--pid", "--fork", "--mount-proc", only="init,pidfd,janitor,pool")
    assert {name for name, probe in found.items() if probe["status"] != "ok"} == {"init"}
    assert "this very process" in found["init"]["found"]
    assert "docker run --init" in found["init"]["remedy"]
    assert status == 1


@pytest.mark.skipif(not can_unshare(), reason="needs the right to make a pid namespace")
def test_container_with_an_init_is_well(mark: str) -> None:
    shell = 'trap "" HUP; "$@"; exit $?'  # it is the first process, and reaps whom it inherits
    before = ["unshare", "--pid", "--fork", "--mount-proc", "sh", "-c", shell, "sh"]
    status, found = examine(mark, *before, only="init,pidfd,janitor,pool")
    assert {name for name, probe in found.items() if probe["status"] != "ok"} == set()
    assert status == 0


# --- what is left behind ---


def test_doctor_that_is_killed_at_any_moment_leaves_nothing(mark: str) -> None:
    """Its programs wait for the end of their input. The fixture looks for them."""
    start = time.monotonic()
    subprocess.run(DOCTOR, env=environment(mark), capture_output=True, check=False, timeout=150)
    whole = time.monotonic() - start
    for part in range(1, 9):
        with subprocess.Popen(DOCTOR, env=environment(mark), stdout=subprocess.DEVNULL) as process:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(whole * part / 9)
            process.kill()


def test_program_that_never_comes_to_the_point_is_given_up_with_those_beneath_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(staged, "LIMIT", 0.5)
    source = "os.fork()\nsay('one', os.getpid())\nstay()"
    with staged.Program(source) as program:
        handle = Handle(program.hear("one")["one"])
        with pytest.raises(TimeoutError, match="never came to 'two'"):
            program.hear("one", "two")
    gone({"one": handle})
    handle.close()


def test_program_that_does_not_wait_for_its_end_is_ended() -> None:
    with staged.Program("say('one', os.getpid())\nwhile True: pass") as program:
        handle = Handle(program.hear("one")["one"])
        assert handle.alive()
    assert not handle.alive()
    handle.close()


def test_program_that_fails_is_told_by_its_last_words() -> None:
    complaint = pytest.raises(TimeoutError, match=r"^LookupError: no such luck$")
    with staged.Program("raise LookupError('no such luck')") as program, complaint:
        program.hear("one")


def test_whoever_is_held_and_does_not_die_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staged, "LIMIT", 0.1)
    with subprocess.Popen(["sleep", "900"]) as process:
        with staged.Held([process.pid]) as held:
            assert held.milliseconds_until_dead() is None
            assert process.poll() is None
        assert process.wait(30) == -signal.SIGKILL


@pytest.mark.parametrize("probe", PROBES, ids=lambda probe: probe.name)
def test_probe_costs_no_descriptor_and_leaves_no_process(probe: Probe) -> None:
    """Whatever it finds."""
    probe.run()
    files = len(census.open_files())
    assert probe.run().status in {"ok", "degraded", "missing"}
    eventually(lambda: len(census.open_files()) == files)


def test_probe_of_groups_leaves_none(measured: Callable[[str, object], None]) -> None:
    (probe,) = [probe for probe in PROBES if probe.name == "cgroup"]
    measured("cgroup", probe.run().found)
    assert groups_of(os.getpid()) == []


def test_group_of_a_doctor_that_is_killed_is_removed(mark: str) -> None:
    """1. There is a group, and a process that is to be in it. 2. The doctor is killed."""
    own = probes_strict._own_group()
    if own is None or not os.access(own, os.W_OK):
        pytest.skip("no group can be made here")
    with subprocess.Popen([sys.executable, "-c", _STUCK], env=environment(mark), stdin=-1, stdout=-1) as stuck:
        assert stuck.stdout is not None
        stuck.stdout.readline()
        assert len(groups_of(stuck.pid)) == 1
        stuck.kill()
    eventually(lambda: groups_of(stuck.pid) == [])


# The doctor comes as far as to move the process.
_STUCK = """
from safepool.tools import probes_strict

def wait(*_):
    print("here", flush=True)
    input()

probes_strict._write = wait
probes_strict._cgroup()
"""


def groups_of(pid: int) -> list[str]:
    own = probes_strict._own_group()
    return [] if own is None else [name for name in os.listdir(own) if name == f"safepool-doctor-{pid}"]
