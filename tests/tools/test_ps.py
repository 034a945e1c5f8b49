"""``safepool ps``: pools as they look from outside."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from safepool._os.marker import namespaces
from safepool._worker.record import Words
from safepool.cli import main
from safepool.tools import marked, pools, ps
from safepool.tools.pools import Host as Seen
from safepool.tools.pools import Worker, look
from support import census
from support.descendants import KINDS, TRACELESS
from support.eventually import eventually
from support.halves import launcher_for
from support.handles import gone
from support.hosts import Host, Program
from support.refusals import is_refused_in_one_line
from support.scenes import hang_everywhere, labels_of

pytestmark = pytest.mark.timeout(120)

BUSY = 3  # the place of a state in ``WorkerState``
IDLE = 2


def see(pid: int) -> Seen | None:
    """The host of that number, if there is one to be seen."""
    return next((host for host in look().hosts if host.pid == pid), None)


def workers_of(pid: int) -> dict[int, Worker]:
    host = see(pid)
    return {} if host is None else {worker.pid: worker for worker in host.workers}


def states_of(pid: int) -> list[str]:
    return sorted(worker.state for worker in workers_of(pid).values())


def test_busy_worker_is_shown_with_its_task_and_its_time(make_host: Callable[..., Host]) -> None:
    host = make_host(max_workers=1, task_timeout=500)
    host.open_pool()
    host.submit("first", "square", 3)
    assert host.outcome("first") == {"value": 9}
    everybody = hang_everywhere(host, "loop", workers=1)

    pid = everybody["w0"].pid
    worker = eventually(lambda: (found := workers_of(host.process.pid).get(pid)) and found.state == "busy" and found)

    assert worker.runs == 2
    assert worker.task is not None
    assert worker.running is not None
    assert worker.left is not None
    assert 0 <= worker.running < 500
    assert worker.left == pytest.approx(500 - worker.running, abs=30)  # it counts from when it was sent, at first
    assert worker.memory > 1 << 20
    assert worker.cpu > 0
    later = workers_of(host.process.pid)[pid]
    assert later.task == worker.task
    assert later.running is not None
    assert later.running > worker.running


def test_whoever_is_beneath_a_worker_is_shown_with_it_wherever_he_went(make_host: Callable[..., Host]) -> None:
    host = make_host(max_workers=2)
    host.open_pool()
    everybody = hang_everywhere(host, "stopped")

    found = workers_of(host.process.pid)

    for name in ("w0", "w1"):
        below = {process.pid for process in found[everybody[name].pid].below}
        assert below >= {everybody[label].pid for label in labels_of(name)[1:]}
        other = "w1" if name == "w0" else "w0"
        assert not below & {everybody[label].pid for label in labels_of(other)}


def test_workers_beneath_guardians_are_shown_with_what_their_guardians_know(make_host: Callable[..., Host]) -> None:
    """The host has not started them itself, and who carries no trace is known by his parent alone."""
    host = make_host(max_workers=2, containment="strict", launcher=launcher_for("guardian"))
    host.open_pool()
    everybody = hang_everywhere(host, "loop", leave=(*KINDS, *TRACELESS))

    found = workers_of(host.process.pid)

    assert found.keys() == {everybody[name].pid for name in ("w0", "w1")}
    for name in ("w0", "w1"):
        below = {process.pid for process in found[everybody[name].pid].below}
        assert below >= {everybody[label].pid for label in labels_of(name, (*KINDS, *TRACELESS))[1:]}
        other = "w1" if name == "w0" else "w0"
        assert not below & {everybody[label].pid for label in labels_of(other, (*KINDS, *TRACELESS))}
    host.send(signal.SIGKILL)
    gone(everybody)  # by the guardians: whoever ends the host's processes by their environment misses some


def test_orphan_that_came_to_a_guardian_is_no_second_worker(make_host: Callable[..., Host]) -> None:
    """It leads a session, carries the marker, and has the guardian for a parent, as the worker."""
    host = make_host(max_workers=1, containment="strict", launcher=launcher_for("guardian"))
    host.open_pool()
    everybody = hang_everywhere(host, "loop", workers=1, leave=("daemon", "orphan"))
    assert census.look_at(everybody["w0.orphan"].pid).sid == everybody["w0.orphan"].pid  # type: ignore[union-attr]

    found = workers_of(host.process.pid)

    assert found.keys() == {everybody["w0"].pid}
    assert {process.pid for process in found[everybody["w0"].pid].below} >= {everybody["w0.orphan"].pid}


def test_worker_without_a_task_is_idle(make_host: Callable[..., Host]) -> None:
    host = make_host(max_workers=1)
    host.open_pool()
    host.submit("first", "square", 3)
    assert host.outcome("first") == {"value": 9}
    eventually(lambda: states_of(host.process.pid) == ["idle"])
    (worker,) = workers_of(host.process.pid).values()
    assert (worker.task, worker.running, worker.left, worker.runs, worker.below) == (None, None, None, 1, ())


def test_worker_that_is_not_ready_is_starting(make_program: Callable[[], Program]) -> None:
    program = make_program()
    program.run_text(
        """
        import sys, time
        from safepool import SafeProcessPoolExecutor
        from support.rendezvous import report

        def prepare(reports):
            report(reports, "preparing")
            time.sleep(900)

        if __name__ == "__main__":
            SafeProcessPoolExecutor(1, initializer=prepare, initargs=sys.argv[1:]).submit(abs, 1).result()
        """
    )
    pid = program.hold_reported(["preparing"])["preparing"].pid
    worker = workers_of(program.process.pid)[pid]
    assert (worker.state, worker.task) == ("starting", None)


def test_stopped_worker_and_stopped_host_are_shown_as_such(make_host: Callable[..., Host]) -> None:
    host = make_host(max_workers=1)
    host.open_pool()
    hang_everywhere(host, "stopped", workers=1, leave=())
    assert states_of(host.process.pid) == ["stopped"]
    host.stop()
    found = see(host.process.pid)
    assert found is not None
    assert found.is_stopped
    host.resume()


def test_pool_within_a_task_has_a_host_of_its_own(make_host: Callable[..., Host]) -> None:
    """The inner host has the record of its own worker, too, which is one of the outer pool."""
    host = make_host(max_workers=1)
    host.open_pool()
    host.submit("nest", "nest", host.rendezvous.path, "nest", 1)
    everybody = host.hold_reported(["nest", "nest0", "nest1"])
    inner = everybody["nest"].pid

    eventually(lambda: states_of(inner) == ["busy", "busy"])
    assert workers_of(inner).keys() == {everybody["nest0"].pid, everybody["nest1"].pid}
    outer = workers_of(host.process.pid)
    assert outer.keys() == {inner}
    assert (outer[inner].state, outer[inner].runs) == ("busy", 1)
    assert {process.pid for process in outer[inner].below} >= workers_of(inner).keys()


def test_process_of_the_multiprocessing_context_is_no_worker_with_tasks(make_program: Callable[[], Program]) -> None:
    program = make_program()
    program.run_text(
        """
        import sys, time, safepool
        from support.rendezvous import report

        def work(reports):
            report(reports, "started")
            time.sleep(900)

        if __name__ == "__main__":
            safepool.get_context().Process(target=work, args=(sys.argv[1],)).start()
        """
    )
    pid = program.hold_reported(["started"])["started"].pid
    worker = workers_of(program.process.pid)[pid]
    assert (worker.state, worker.task, worker.runs) == ("process", None, None)


# --- those that vanish ---


def test_pool_that_dies_while_it_is_looked_at_does_no_harm(
    make_host: Callable[..., Host], monkeypatch: pytest.MonkeyPatch
) -> None:
    """1. Everybody is on the list. 2. They all die. 3. Each is asked what it is."""
    host = make_host(max_workers=2)
    host.open_pool()
    everybody = hang_everywhere(host, "loop", leave=KINDS)
    scan = pools.scan

    def scan_and_lose() -> Any:
        found = scan()
        host.send(signal.SIGKILL)
        gone(everybody)
        host.finish()
        return found

    with monkeypatch.context() as patch:
        patch.setattr(pools, "scan", scan_and_lose)
        found = see(host.process.pid)

    assert found is not None
    assert (found.memory, {worker.memory for worker in found.workers}) == (0, {0})
    assert {worker.state for worker in found.workers} == {"process"}
    assert see(host.process.pid) is None


def test_looking_again_and_again_while_processes_come_and_go_shows_the_pool_each_time(
    make_host: Callable[..., Host],
) -> None:
    host = make_host(max_workers=1)
    host.open_pool()
    everybody = hang_everywhere(host, "loop", workers=1, leave=())
    source = "import os\nwhile os.getppid() == int(os.environ['PARENT']):\n os.fork() or os._exit(0)\n os.wait()"
    with subprocess.Popen([sys.executable, "-c", source], env={**os.environ, "PARENT": str(os.getpid())}) as churner:
        try:
            for _ in range(30):
                assert workers_of(host.process.pid).keys() == {everybody["w0"].pid}
            assert churner.poll() is None
        finally:
            churner.kill()


# --- what cannot be shown with a pool ---


@contextlib.contextmanager
def claiming(*values: str) -> Iterator[int]:
    """A process that carries markers with these values."""
    markers = {f"SAFEPOOL_{os.urandom(16).hex()}_1": value for value in values}
    with subprocess.Popen(["sleep", "900"], env={**os.environ, **markers}) as process:
        try:
            eventually(lambda: all(census.carrying(marker) for marker in markers))
            yield process.pid
        finally:
            process.kill()


def test_processes_whose_host_is_gone_or_elsewhere_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that are beneath a host that lives, too, are shown with it."""
    pids, times = namespaces()
    row = census.look_at(os.getpid())
    assert row is not None
    alive, gone, elsewhere = (
        f"{os.getpid()}.{row.started}.{pids}.{times}",
        f"{os.getpid()}.{row.started - 1}.{pids}.{times}",
        f"{os.getpid()}.{row.started}.{pids + 1}.{times}",
    )
    for values, counts in [
        ([gone], (1, 0)),
        ([elsewhere], (0, 1)),
        ([gone, elsewhere], (0, 1)),
        ([alive, gone], (0, 0)),
        ([alive, elsewhere], (0, 0)),
    ]:
        with claiming(*values) as pid, monkeypatch.context() as patch:
            patch.setattr(marked, "list_pids", lambda pid=pid: {pid})
            seen = look()
        assert (seen.left_behind, seen.elsewhere) == counts, values


# --- what stands in a record ---


def words(**changes: Any) -> Words:
    values = {"number": 0, "begun": 0.0, "pid": 1, "state": BUSY, "runs": 1, "task": 5, "handed": 50.0, "due": 0.0}
    return Words(**{**values, **changes})


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (words(number=5, begun=51.0, due=60.0), (5, 51.0, 60.0)),
        (words(number=5, begun=51.0), (5, 51.0, None)),
        (words(number=5, begun=49.0, due=60.0), (5, 49.0, 60.0)),  # sent ahead, and begun before the host knew
        (words(number=4, begun=49.0, due=60.0), (5, None, 60.0)),  # not begun yet
        (words(number=6, begun=51.0, due=60.0), (6, 51.0, None)),  # further than the host knows
        (words(number=5, begun=51.0, state=IDLE, due=60.0), (None, None, None)),
        (words(state=0), (None, None, None)),
        (words(state=10**9), (None, None, None)),
        (None, (None, None, None)),
    ],
)
def test_task_is_told_from_what_worker_and_host_have_written(found: Words | None, expected: object) -> None:
    assert pools._task_of(found) == expected


# --- the command ---


def test_command_shows_hosts_workers_and_trees(
    make_host: Callable[..., Host], capsys: pytest.CaptureFixture[str]
) -> None:
    host = make_host(max_workers=1, task_timeout=500)
    host.open_pool()
    everybody = hang_everywhere(host, "loop", workers=1, leave=("plain", "daemon"))
    eventually(lambda: states_of(host.process.pid) == ["busy"])

    assert main(["ps"]) == 0
    plain = capsys.readouterr().out
    assert main(["ps", "--tree"]) == 0
    tree = capsys.readouterr().out

    assert f"host {host.process.pid}: " in plain
    assert "  PID " in plain
    assert f"  {everybody['w0'].pid}  busy " in plain
    assert "sleep 900" not in plain.partition(f"host {host.process.pid}: ")[2].partition("\n\n")[0]
    for label in ("w0.plain", "w0.daemon"):
        assert f"    {everybody[label].pid} sleep 900  [" in tree


def test_json_holds_all_of_it(make_host: Callable[..., Host], capsys: pytest.CaptureFixture[str]) -> None:
    host = make_host(max_workers=1)
    host.open_pool()
    everybody = hang_everywhere(host, "loop", workers=1, leave=("plain",))

    assert main(["ps", "--json"]) == 0

    told = json.loads(capsys.readouterr().out)
    assert told.keys() == {"hosts", "left_behind", "elsewhere"}
    (found,) = [one for one in told["hosts"] if one["pid"] == host.process.pid]
    assert found.keys() == {"pid", "command", "is_stopped", "memory", "cpu", "workers"}
    (worker,) = found["workers"]
    assert worker.keys() == {"pid", "state", "task", "running", "left", "runs", "memory", "cpu", "below"}
    assert worker["pid"] == everybody["w0"].pid
    assert worker["below"][0].keys() == {"pid", "parent", "command", "memory", "cpu"}
    assert worker["below"][0]["pid"] == everybody["w0.plain"].pid


def test_command_that_would_draw_on_the_terminal_does_not() -> None:
    host = pools.Host(4711, "evil\x1b[2J\nhost 1: init", is_stopped=False, memory=0, cpu=0.0, workers=())
    text = ps._render(pools.Overview((host,), left_behind=0, elsewhere=0), with_trees=False)
    assert text.splitlines()[0].startswith("host 4711: evil?[2J?host 1: init  [")


def test_without_pools_it_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(pools, "look", lambda: pools.Overview((), left_behind=0, elsewhere=0))
    assert main(["ps"]) == 0
    assert capsys.readouterr().out == "no live pools of this user\n"


def test_watch_looks_again_until_ctrl_c(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "safepool", "ps", "--watch"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as watching:
        assert watching.stdout is not None
        empty = 0
        for line in watching.stdout:  # a picture ends with an empty line; a pool's lines do, too
            empty += line == b"\n"
            if empty == 3:
                break
        watching.send_signal(signal.SIGINT)
        _, complaint = watching.communicate(timeout=30)
    assert (watching.returncode, complaint) == (0, b"")


def test_watch_draws_over_what_it_has_drawn_on_a_terminal(terminal: dict[str, int]) -> None:
    """On one that can do no more than that; ``test_ps_live`` has the others."""
    command = [sys.executable, "-m", "safepool", "ps", "--watch"]
    plain = {**os.environ, "TERM": "dumb"}
    with subprocess.Popen(command, stdout=terminal["theirs"], stderr=subprocess.PIPE, env=plain) as watching:
        drawn = b""
        while drawn.count(b"\x1b[H") < 2 or not drawn.endswith(b"\x1b[J"):
            drawn += os.read(terminal["ours"], 4096)
        watching.send_signal(signal.SIGINT)
        _, complaint = watching.communicate(timeout=30)
    assert (watching.returncode, complaint) == (0, b"")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["ps", "--json", "--watch"], "--json shows one moment"),
        (["ps", "4711"], "unrecognized arguments: 4711"),
        (["ps", "--watch=often"], "ignored explicit argument"),
    ],
)
def test_wrong_input_is_refused_in_one_line(
    arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    is_refused_in_one_line(arguments, complaint, capsys)
