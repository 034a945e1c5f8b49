"""``safepool reap``: what was left behind is ended, and nobody else is touched.

Each test asks for the processes of one host alone, since others on this machine may have theirs.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping

import pytest

from safepool._os.marker import namespaces
from safepool._os.process_tree import TreeEnding
from safepool.cli import main
from safepool.tools.leftbehind import end, find
from safepool.tools.marked import scan
from support import census
from support.descendants import ESCAPING, TRACELESS
from support.eventually import eventually
from support.halves import launcher_for
from support.handles import Handle, gone
from support.hosts import Host
from support.refusals import is_refused_in_one_line
from support.scenes import hang_everywhere, hold_janitor, stop_guardians

pytestmark = pytest.mark.timeout(120)

HERE = ".".join(map(str, namespaces()))
TOKEN = f"SAFEPOOL_{os.urandom(16).hex()}"  # of a host that there never was
AGES_AGO = 1  # clock ticks since boot: no process that there is now can be so old
NOBODY = 65534


def reap(host: int, *options: str) -> int:
    return main(["reap", "--host", str(host), *options])


def condemned(host: int) -> set[int]:
    return {process.pid for process in find(host).processes}


@pytest.fixture
def orphaned(make_host: Callable[..., Host]) -> Callable[..., tuple[Host, dict[str, Handle]]]:
    """Makes a host that died together with its janitor; gives it, and those that nobody has ended."""

    def make(leave: tuple[str, ...] = ESCAPING) -> tuple[Host, dict[str, Handle]]:
        host = make_host(max_workers=1)
        host.open_pool()
        everybody = hang_everywhere(host, "loop", workers=1, leave=leave)
        die_with_janitor(host, everybody)
        return host, everybody

    return make


@pytest.fixture(params=["once", "again and again"])
def stopped_guardian(make_host: Callable[..., Host], request: pytest.FixtureRequest) -> tuple[Host, dict[str, Handle]]:
    """The same, with a guardian that somebody stops: only it knows those who carry no trace."""
    host = make_host(max_workers=1, containment="strict", launcher=launcher_for("guardian"))
    host.open_pool()
    leave = (*ESCAPING, *TRACELESS) if request.param == "once" else (*ESCAPING, *TRACELESS, "stopper")
    everybody = hang_everywhere(host, "loop", workers=1, leave=leave)
    everybody |= stop_guardians(host, everybody)
    die_with_janitor(host, everybody)
    return host, everybody


def die_with_janitor(host: Host, everybody: dict[str, Handle]) -> None:
    """Have a host and its janitor die together, and with them the worker, by the kernel's hand; the others live."""
    janitor = hold_janitor(host)
    janitor.send(signal.SIGSTOP)
    eventually(lambda: (seen := census.look_at(janitor.pid)) and seen.state == "T")
    host.send(signal.SIGKILL)
    host.finish()
    janitor.send(signal.SIGKILL)
    gone({"janitor": janitor, "worker": everybody.pop("w0")})
    # The host's resource tracker leaves by itself, a moment after it: nobody's business here.
    eventually(lambda: not any("resource_tracker" in seen.command for seen in host.left()))
    assert all(handle.alive() for handle in everybody.values()), "somebody was ended: there is nothing to reap"


@pytest.fixture
def number_of_the_dead() -> int:
    """The number of a process that has just ended, and that the kernel gives to nobody for a long time."""
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


@contextlib.contextmanager
def stranger(variables: Mapping[str, str], *, user: int | None = None) -> Iterator[Handle]:
    """A process of nobody's pool, with these variables."""
    with subprocess.Popen(["sleep", "900"], env={**os.environ, **variables}, user=user) as process:
        try:
            eventually(lambda: all(name.encode() in census.environment_of(process.pid) for name in variables))
            with Handle(process.pid) as handle:
                yield handle
        finally:
            process.kill()


# --- what is left behind ---


def test_dry_run_shows_what_is_left_behind_and_ends_nothing(
    orphaned: Callable[..., tuple[Host, dict[str, Handle]]], capsys: pytest.CaptureFixture[str]
) -> None:
    host, left = orphaned()

    assert reap(host.process.pid, "--dry-run") == 1

    first, *lines = capsys.readouterr().out.splitlines()
    assert first == "left behind by pools whose host is gone:"
    shown = {int(line.split()[0]) for line in lines}
    assert shown == {seen.pid for seen in host.left()}
    assert shown >= {handle.pid for handle in left.values()}
    assert f"  {left['w0.daemon'].pid}  sleep 900" in lines
    assert all(handle.alive() for handle in left.values())


def test_reaping_ends_everything_that_is_left_behind(
    orphaned: Callable[..., tuple[Host, dict[str, Handle]]], capsys: pytest.CaptureFixture[str]
) -> None:
    host, left = orphaned()

    assert reap(host.process.pid) == 0

    gone(left)
    host.leaves_nothing()
    shown = capsys.readouterr()
    count = len(shown.out.splitlines()) - 2
    assert shown.out.endswith(f"\nended: {count} of {count}\n")
    assert shown.err == ""
    assert reap(host.process.pid) == 0
    assert capsys.readouterr().out == "nothing is left behind by pools of this user\n"


def test_guardian_that_was_stopped_is_continued_when_those_whom_it_has_are_ended(
    stopped_guardian: tuple[Host, dict[str, Handle]], capsys: pytest.CaptureFixture[str]
) -> None:
    host, left = stopped_guardian

    assert condemned(host.process.pid) >= {handle.pid for handle in left.values()}
    assert reap(host.process.pid) == 0

    gone(left)
    host.leaves_nothing()
    assert capsys.readouterr().err == ""


BENEATH_A_STRANGER = """
import os, subprocess, sys
user = {"user": int(sys.argv[1])} if sys.argv[1] else {}
child = subprocess.Popen(["/bin/sleep", "900"], env={"HERE": "1", sys.argv[2]: sys.argv[3]}, **user)
print(child.pid, flush=True)
child.wait()
"""


@pytest.mark.parametrize(
    "state", ["stopped", "running", "above one that is spared", "above another user's", "its host lives", "elsewhere"]
)
def test_one_that_calls_itself_a_guardian_is_condemned_if_it_is_idle_and_nobody_beneath_it_is_spared(
    number_of_the_dead: int, state: str
) -> None:
    """All that it has is ended with it; one that runs is about to end them, and needs nobody."""
    if state == "above another user's" and os.geteuid() != 0:
        pytest.skip("only root can have processes of another user")
    me = census.look_at(os.getpid())
    assert me is not None
    living, dead = f"{me.pid}.{me.started}.{HERE}", f"{number_of_the_dead}.{AGES_AGO}.{HERE}"
    claim = {"its host lives": living, "elsewhere": f"{number_of_the_dead}.{AGES_AGO}.1.1"}.get(state, dead)
    program = f"# safepool._os.guardian_main import main; main(0, '{TOKEN}_1={claim}', 0){BENEATH_A_STRANGER}"
    variable = f"{TOKEN}_2" if state == "above one that is spared" else "UNUSED"
    arguments = [str(NOBODY) if state == "above another user's" else "", variable, living]
    command = [sys.executable, "-I", "-S", "-c", program, *arguments]
    with subprocess.Popen(command, start_new_session=True, stdout=subprocess.PIPE) as guardian:
        assert guardian.stdout is not None
        child = int(guardian.stdout.readline())
        try:
            eventually(lambda: b"HERE=1" in census.environment_of(child))  # its exec is over
            if state != "running":
                guardian.send_signal(signal.SIGSTOP)
                eventually(lambda: (seen := census.look_at(guardian.pid)) and seen.state == "T")
            host = me.pid if state == "its host lives" else number_of_the_dead
            assert condemned(host) == ({guardian.pid, child} if state == "stopped" else set())
        finally:
            os.kill(child, signal.SIGKILL)
            guardian.kill()


def test_tree_of_a_host_that_lives_is_not_touched(
    orphaned: Callable[..., tuple[Host, dict[str, Handle]]], make_host: Callable[..., Host]
) -> None:
    living = make_host(max_workers=1)
    canary = living.canary()
    living.open_pool()
    theirs = hang_everywhere(living, "loop", workers=1)
    dead, left = orphaned()

    assert not condemned(living.process.pid)
    assert reap(living.process.pid) == 0
    assert reap(dead.process.pid) == 0

    gone(left)
    assert canary.alive()
    assert all(handle.alive() for handle in theirs.values())


def test_child_that_cleared_its_environment_goes_with_its_parent(number_of_the_dead: int) -> None:
    source = "env -i sleep 900 & wait"
    marker = {f"{TOKEN}_1": f"{number_of_the_dead}.{AGES_AGO}.{HERE}"}
    with subprocess.Popen(["sh", "-c", source], env={**os.environ, **marker}) as shell:
        (child,) = eventually(lambda: [seen for seen in census.children_of(shell.pid) if seen.command == "sleep 900"])
        with Handle(child.pid) as handle:
            assert condemned(number_of_the_dead) == {shell.pid, child.pid}
            assert reap(number_of_the_dead) == 0
            gone({"child": handle})


def test_pool_that_a_process_left_behind_has_made_is_left_behind_too(
    orphaned: Callable[..., tuple[Host, dict[str, Handle]]],
    make_host: Callable[..., Host],
    number_of_the_dead: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its workers name a host that lives, and that is condemned itself."""
    with monkeypatch.context() as patch:
        patch.setenv(f"{TOKEN}_1", f"{number_of_the_dead}.{AGES_AGO}.{HERE}")
        inner = make_host(max_workers=1)
    inner.open_pool()
    everybody = hang_everywhere(inner, "loop", workers=1)

    assert condemned(number_of_the_dead) >= {inner.process.pid, *(handle.pid for handle in everybody.values())}
    assert reap(number_of_the_dead) == 0

    inner.finish()
    gone(everybody)
    inner.leaves_nothing()


def test_number_of_the_host_that_another_process_has_now_does_not_save_what_it_left() -> None:
    """The start time tells."""
    me = census.look_at(os.getpid())
    assert me is not None
    with stranger({f"{TOKEN}_1": f"{me.pid}.{me.started - 1}.{HERE}"}) as left:
        assert condemned(me.pid) == {left.pid}
        assert reap(me.pid) == 0
        gone({"left": left})


def test_orphan_in_the_session_of_a_process_left_behind_goes_with_it(number_of_the_dead: int) -> None:
    """It has no marker and no parent."""
    marker = {f"{TOKEN}_1": f"{number_of_the_dead}.{AGES_AGO}.{HERE}"}
    with subprocess.Popen(
        ["sh", "-c", "(env -i sleep 900 &); exec sleep 901"], env={**os.environ, **marker}, start_new_session=True
    ) as leader:
        orphan = eventually(
            lambda: [
                seen
                for seen in census.in_session(leader.pid)
                if seen.command == "sleep 900" and seen.ppid != leader.pid and not census.environment_of(seen.pid)
            ]
        )[0]
        eventually(lambda: census.environment_of(leader.pid))
        with Handle(orphan.pid) as handle:
            assert condemned(number_of_the_dead) == {leader.pid, orphan.pid}
            assert reap(number_of_the_dead) == 0
            gone({"orphan": handle})


def test_what_another_dead_host_has_left_is_not_asked_for(number_of_the_dead: int) -> None:
    other = f"{number_of_the_dead}.{AGES_AGO + 1}.{HERE}"
    me = census.look_at(os.getpid())
    assert me is not None
    with (
        stranger({f"{TOKEN}_1": f"{me.pid}.{AGES_AGO}.{HERE}"}) as left,
        stranger({f"SAFEPOOL_{os.urandom(16).hex()}_1": other}) as spared,
    ):
        assert condemned(me.pid) == {left.pid}
        assert {process.pid for process in find().processes} >= {left.pid, spared.pid}
        assert reap(me.pid) == 0
        gone({"left": left})
        assert spared.alive()


# --- whoever must not be touched ---


def test_claim_on_a_living_stranger_is_believed_and_spares() -> None:
    me = census.look_at(os.getpid())
    assert me is not None
    with stranger({f"{TOKEN}_1": f"{me.pid}.{me.started}.{HERE}"}) as spared:
        assert reap(me.pid) == 0
        assert spared.alive()


def test_claim_on_a_dead_host_cannot_be_told_from_the_truth(number_of_the_dead: int) -> None:
    """It takes the right to run processes as this user to make one."""
    with stranger({f"{TOKEN}_1": f"{number_of_the_dead}.{AGES_AGO}.{HERE}"}) as claiming:
        assert condemned(number_of_the_dead) == {claiming.pid}


def test_process_that_is_beneath_a_living_host_as_well_is_its_business(number_of_the_dead: int) -> None:
    """With whoever descends from it, and carries no marker; and though its parent is left behind."""
    me = census.look_at(os.getpid())
    assert me is not None
    variables = {
        f"{TOKEN}_1": f"{number_of_the_dead}.{AGES_AGO}.{HERE}",
        f"SAFEPOOL_{os.urandom(16).hex()}_1": f"{me.pid}.{me.started}.{HERE}",
    }
    inner = "env " + " ".join(f"{name}={value}" for name, value in variables.items()) + ' sh -c "env -i sleep 900; :"'
    marker = {f"{TOKEN}_2": f"{number_of_the_dead}.{AGES_AGO}.{HERE}"}
    with subprocess.Popen(["sh", "-c", f"{inner}; :"], env={**os.environ, **marker}) as left:
        (shell,) = eventually(lambda: [seen for seen in census.children_of(left.pid) if "env -i" in seen.command])
        (child,) = eventually(lambda: [seen for seen in census.children_of(shell.pid) if seen.command == "sleep 900"])
        with Handle(child.pid) as handle, Handle(shell.pid) as its_parent:
            assert condemned(number_of_the_dead) == {left.pid}
            assert reap(number_of_the_dead) == 0
            assert left.wait(30) == -signal.SIGKILL
            assert handle.alive()
            assert its_parent.alive()
            handle.send(signal.SIGKILL)
            gone({"child": handle, "its parent": its_parent})


def test_process_that_is_started_meanwhile_by_one_that_is_spared_is_spared(number_of_the_dead: int) -> None:
    """1. We have looked. 2. It starts a child, which has both of its markers. 3. We end those of the first."""
    me = census.look_at(os.getpid())
    assert me is not None
    variables = {
        f"{TOKEN}_1": f"{number_of_the_dead}.{AGES_AGO}.{HERE}",
        f"SAFEPOOL_{os.urandom(16).hex()}_1": f"{me.pid}.{me.started}.{HERE}",
    }
    with (
        stranger({f"{TOKEN}_2": f"{number_of_the_dead}.{AGES_AGO}.{HERE}"}) as left,
        subprocess.Popen(["sh", "-c", "read go; sleep 900; :"], env={**os.environ, **variables}, stdin=-1) as shell,
    ):
        eventually(lambda: TOKEN.encode() in census.environment_of(shell.pid))
        looked = find(number_of_the_dead)
        assert [process.pid for process in looked.processes] == [left.pid]
        assert shell.stdin is not None
        shell.stdin.write(b"go\n")
        shell.stdin.flush()
        (child,) = eventually(lambda: [seen for seen in census.children_of(shell.pid) if seen.command == "sleep 900"])
        with Handle(child.pid) as handle:
            assert end(looked) == ()
            gone({"left": left})
            assert handle.alive()
            handle.send(signal.SIGKILL)


@pytest.mark.parametrize(
    "claim",
    [
        pytest.param(f"{{dead}}.{2**62}.{HERE}", id="older than the host that it names"),
        pytest.param(f"{{dead}}.{AGES_AGO}.1.1", id="of a host in another namespace"),
        pytest.param("1", id="that does not say whose it is"),
    ],
)
def test_process_that_cannot_be_judged_is_spared(claim: str, number_of_the_dead: int) -> None:
    """Though another of the same marker can be, and is ended."""
    with (
        stranger({f"{TOKEN}_1": claim.format(dead=number_of_the_dead)}) as spared,
        stranger({f"{TOKEN}_2": f"{number_of_the_dead}.{AGES_AGO}.{HERE}"}) as left,
    ):
        assert condemned(number_of_the_dead) == {left.pid}
        assert reap(number_of_the_dead) == 0
        gone({"left": left})
        assert spared.alive()


def test_process_that_only_mentions_a_marker_is_spared(number_of_the_dead: int) -> None:
    claim = f"{number_of_the_dead}.{AGES_AGO}.{HERE}"
    with stranger({"NOTE": f"{TOKEN}_1={claim}"}) as spared, stranger({f"{TOKEN}_2": claim}) as left:
        assert reap(number_of_the_dead) == 0
        gone({"left": left})
        assert spared.alive()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can have processes of another user")
def test_other_variables_of_ours_are_no_markers() -> None:
    """Else whoever has one would be spared as a tree, with those that he has adopted."""
    with stranger({"SAFEPOOL_DISABLE": "cgroup"}) as process:
        found = scan()
        assert process.pid in found.rows
        assert process.pid not in found.marked


def test_process_of_another_user_is_spared(number_of_the_dead: int) -> None:
    claim = f"{number_of_the_dead}.{AGES_AGO}.{HERE}"
    with stranger({f"{TOKEN}_1": claim}, user=NOBODY) as spared, stranger({f"{TOKEN}_2": claim}) as left:
        assert condemned(number_of_the_dead) == {left.pid}
        assert reap(number_of_the_dead) == 0
        gone({"left": left})
        assert spared.alive()


def test_reaping_from_within_what_was_left_behind_spares_itself_and_its_ancestors(number_of_the_dead: int) -> None:
    """A shell that a task had started, in which somebody asks."""
    claim = f"{number_of_the_dead}.{AGES_AGO}.{HERE}"
    source = '"$0" -m safepool reap --host "$1"; :'
    command = ["sh", "-c", f"sh -c '{source}' \"$@\"; echo and goes on", "sh", sys.executable, str(number_of_the_dead)]
    with stranger({f"{TOKEN}_2": claim}) as left:
        done = subprocess.run(
            command,
            env={**os.environ, f"{TOKEN}_1": claim, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        gone({"left": left})
    assert done.stdout.endswith("ended: 1 of 1\nand goes on\n")


# --- the command ---


def test_process_that_does_not_die_is_told(
    number_of_the_dead: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(TreeEnding, "run", lambda _ending: None)
    with stranger({f"{TOKEN}_1": f"{number_of_the_dead}.{AGES_AGO}.{HERE}"}) as left:
        assert reap(number_of_the_dead) == 1
        shown = capsys.readouterr()
        assert shown.err == f"safepool reap: process {left.pid} would not die: sleep 900\n"
        assert shown.out.endswith("ended: 0 of 1\n")


def test_what_cannot_be_shown_is_not_ended(number_of_the_dead: int) -> None:
    with (
        open("/dev/full", "wb") as full,
        stranger({f"{TOKEN}_1": f"{number_of_the_dead}.{AGES_AGO}.{HERE}"}) as left,
    ):
        done = subprocess.run(
            [sys.executable, "-m", "safepool", "reap", "--host", str(number_of_the_dead)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            timeout=60,
        )
        assert left.alive()
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "No space left on device" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["reap", "--host", "0"], "0 is no process's number"),
        (["reap", "--host", "me"], "invalid _pid value: 'me'"),
        (["reap", "everything"], "unrecognized arguments: everything"),
    ],
)
def test_wrong_input_is_refused_in_one_line(
    arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    is_refused_in_one_line(arguments, complaint, capsys)
