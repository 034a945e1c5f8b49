"""Controllers are had where the kernel allows it, and nobody else's processes are moved for that."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from containment import acts
from safepool import SafeProcessPoolExecutor
from safepool._os import bare, control_group, controllers, janitor
from safepool._os.control_group import ControlGroup, NoControlGroupError
from safepool._os.process_table import list_rows, read_row, with_descendants
from support import census, tasks
from support.eventually import eventually
from support.hosts import Program
from support.scenes import hold_janitor
from unit.brood import Brood

pytestmark = pytest.mark.timeout(120)

MIB = 1 << 20

_numbers = itertools.count()

# It moves into the group that it is given, with a child in the same, and does as it is told.
HOST = """
import os, subprocess, sys
from safepool._os import control_group, controllers
from safepool._os.control_group import ControlGroup
from safepool._os.janitor import janitor
from support.rendezvous import report

reports, group = sys.argv[1:3]
ControlGroup(group).take_in(os.getpid())
janitor().note_house(control_group.house_of_this_process())
janitor().ensure()
child = subprocess.Popen(["sleep", "900"])
report(reports, "child", str(child.pid))

def have(name):
    try:
        controllers.have_controller(name)
        return "had"
    except OSError as error:
        return str(error)

def have_for_a_while(name):
    with controllers.controller_for_a_while(name):
        group = control_group.new_group("probe")
        there = open(f"{group.path}/cgroup.controllers").read()
        group.remove()
    return " ".join(there.split())

def start():
    worker = control_group.new_group("1")
    worker.take_in(subprocess.Popen(["sleep", "900"], start_new_session=True).pid)
    return worker.path

def kill():
    child.kill()
    return str(child.wait())

for line in sys.stdin:
    number, command, *words = line.split()
    report(reports, number, globals()[command](*words))
"""


def words(path: Path) -> list[str]:
    return path.read_text().split()


def members(path: Path) -> set[int]:
    return set(map(int, words(path / "cgroup.procs")))


@pytest.fixture
def controller() -> str:
    """One of this machine that a group with processes in it cannot hand on; the test is not for machines without."""
    base = Path(control_group.house_of_this_process()).parent
    there = [name for name in ("memory", "io", "hugetlb") if name in words(base / "cgroup.controllers")]
    if not there:
        pytest.skip(f"{base} has none of these controllers")
    return there[0]


@pytest.fixture
def base(controller: str) -> Iterator[Path]:
    """A control group with that controller, in which nobody is."""
    above = Path(control_group.house_of_this_process()).parent
    path = above / f"test-{os.getpid()}-{threading.get_ident()}"
    with handed_on(above, controller):
        try:
            path.mkdir()
        except OSError as error:
            pytest.skip(f"no group can be made here: {error}")
        yield path
        ControlGroup(str(path)).kill()
        eventually(lambda: not ControlGroup(str(path)).is_populated)
        for folder, _, _ in os.walk(path, topdown=False):
            os.rmdir(folder)


@contextlib.contextmanager
def handed_on(above: Path, controller: str) -> Iterator[None]:
    """Have a group hand on a controller; one test after the other on this machine, so that it is then as it was."""
    fd = os.open(above, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        was_so = controller in words(above / "cgroup.subtree_control")
        try:
            (above / "cgroup.subtree_control").write_text(f"+{controller}")
        except OSError as error:
            pytest.skip(f"{above} cannot hand on {controller}: {error}")
        yield
        if not was_so:
            (above / "cgroup.subtree_control").write_text(f"-{controller}")
    finally:
        os.close(fd)


@pytest.fixture
def host(make_program: Callable[[], Program], base: Path) -> Program:
    program = make_program()
    program.run_text(HOST, str(base))
    program.rendezvous.expect("child")
    hold_janitor(program)  # type: ignore[arg-type]  # a program has all that is asked of a host
    eventually(lambda: len(members(base)) == 3)  # it, its child, its janitor; the process that started that has gone
    return program


def tell(program: Program, command: str) -> str:
    assert program.process.stdin is not None
    number = f"answer-{next(_numbers)}"
    program.process.stdin.write(f"{number} {command}\n".encode())
    program.process.stdin.flush()
    return program.rendezvous.expect(number).detail


def test_program_that_is_alone_in_its_group_moves_aside(host: Program, base: Path, controller: str) -> None:
    everybody = members(base)
    assert tell(host, f"have {controller}") == "had"
    (aside,) = (entry for entry in base.iterdir() if entry.name.endswith("_host"))
    assert members(base) == set()
    assert members(aside) == everybody

    worker = Path(tell(host, "start"))
    assert worker.parent.parent == base
    assert controller in words(worker / "cgroup.controllers")
    assert len(members(worker)) == 1


def test_controller_that_was_had_for_a_while_is_put_back_with_the_program(
    host: Program, base: Path, controller: str
) -> None:
    assert controller in tell(host, f"have_for_a_while {controller}").split()
    assert tell(host, "kill") == "-9"
    host.process.kill()
    host.finish()
    eventually(lambda: not [entry for entry in base.iterdir() if entry.is_dir()])
    assert words(base / "cgroup.subtree_control") == []


def test_janitor_puts_everything_back(host: Program, base: Path, controller: str) -> None:
    assert tell(host, f"have {controller}") == "had"
    tell(host, "start")
    assert tell(host, "kill") == "-9"
    host.process.kill()
    host.finish()
    eventually(lambda: not [entry for entry in base.iterdir() if entry.is_dir()])
    assert words(base / "cgroup.subtree_control") == []
    eventually(lambda: not members(base))  # the janitor, a moment later


def test_child_of_the_host_that_outlives_it_stays_where_it_was(host: Program, base: Path, controller: str) -> None:
    child = int(host.rendezvous.expect("child").detail)
    assert tell(host, f"have {controller}") == "had"
    host.process.kill()
    host.finish()
    eventually(lambda: words(base / "cgroup.subtree_control") == [])
    host.spared.append(child)
    host.leaves_nothing()
    (aside,) = (entry for entry in base.iterdir() if entry.is_dir())
    assert members(aside) == {child}


def test_strangers_are_not_moved_and_the_error_names_them(host: Program, base: Path, controller: str) -> None:
    with subprocess.Popen(["sleep", "901"]) as stranger:
        try:
            ControlGroup(str(base)).take_in(stranger.pid)
            everybody = members(base)
            complaint = tell(host, f"have {controller}")
            assert f"sleep 901 (pid {stranger.pid})" in complaint
            assert "not this program's" in complaint
            assert members(base) == everybody
            assert not [entry for entry in base.iterdir() if entry.is_dir()]
        finally:
            stranger.kill()
    assert tell(host, f"have {controller}") == "had"


_ORPHAN = """
if os.fork():
    os._exit(0)
say("orphan")
stay()
"""


def is_orphan(pid: int) -> bool:
    return pid not in with_descendants([os.getpid()], list(list_rows()))


@pytest.mark.parametrize(
    ("whose", "is_stranger"), [("ours", False), ("a task's", False), ("our number's before us", True), ("init's", True)]
)
def test_janitor_is_a_stranger_if_its_host_is_one(brood: Brood, files: Path, whose: str, is_stranger: bool) -> None:
    """It is nobody's child, and carries no marker: its command line says whose it is."""
    own, task = (read_row(pid) for pid in (os.getpid(), brood.sleeper().pid))
    assert own is not None
    assert task is not None
    hosts = {
        "ours": (own.pid, own.start),
        "a task's": (task.pid, task.start),
        "our number's before us": (own.pid, own.start - 1),
        "init's": (1, own.start),
    }
    command = bare._OPENING + janitor._PROGRAM.format(arguments=(*hosts[whose], "SAFEPOOL_OF_NOBODY", 3, 4))
    brood.python(_ORPHAN, command)
    orphan = brood.hold("orphan")["orphan"]
    eventually(lambda: is_orphan(orphan.pid))
    (files / "cgroup.procs").write_text(f"{os.getpid()}\n{orphan.pid}\n")
    assert controllers._strangers_in(str(files)) == ({orphan.pid} if is_stranger else set())


def test_janitor_of_a_pool_that_a_task_has_had_is_no_stranger(
    make_pool: Callable[..., SafeProcessPoolExecutor], files: Path
) -> None:
    pool = make_pool(1)
    worker = pool.submit(tasks.own_pid).result(60)
    pool.submit(acts.have_had_a_pool).result(60)
    name = f"janitor_main import main; main({worker}, "
    (found,) = eventually(lambda: [seen for seen in census.living() if name in seen.command and is_orphan(seen.pid)])
    (files / "cgroup.procs").write_text(f"{os.getpid()}\n{worker}\n{found.pid}\n")
    assert controllers._strangers_in(str(files)) == set()


def test_controller_that_is_not_there_is_named(host: Program, base: Path) -> None:
    assert tell(host, "have misc-nonsense") == f"{base} does not have the kernel's 'misc-nonsense' controller"
    assert not [entry for entry in base.iterdir() if entry.is_dir()]


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A base that is a tree of files, with this process in it: it takes any move, and obeys no order."""
    base = tmp_path / "base"
    base.mkdir()
    content = {"controllers": "memory cpu", "subtree_control": "", "procs": f"{os.getpid()}\n", "type": "domain\n"}
    for name, text in content.items():
        (base / f"cgroup.{name}").write_text(text)
    monkeypatch.setattr(controllers, "house_of_this_process", lambda: str(base / "house"))
    return base


def test_base_is_emptied_before_it_is_told_to_hand_on(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With processes in it, it would hand on "cpu" without an error, and be a group of threads from then on."""
    done: list[str] = []
    monkeypatch.setattr(controllers, "_move_all", lambda source, _target: done.append(f"empty {source}"))
    monkeypatch.setattr(controllers, "_order", lambda group, words: done.append(f"{words} {group}"))
    monkeypatch.setattr(controllers, "hand_on_from_house", done.append)
    controllers.have_controller("cpu")
    assert done == [f"empty {files}", f"+cpu {files}", "cpu"]


@pytest.mark.parametrize(("handed_on", "orders"), [("", ["+memory", "-memory"]), ("memory", [])])
def test_root_of_all_hands_on_no_more_after_a_while_than_before(
    files: Path, monkeypatch: pytest.MonkeyPatch, handed_on: str, orders: list[str]
) -> None:
    done: list[str] = []
    (files / "cgroup.type").unlink()
    (files / "cgroup.subtree_control").write_text(handed_on)
    monkeypatch.setattr(controllers, "_order", lambda _group, words: done.append(words))
    monkeypatch.setattr(controllers, "hand_on_from_house", lambda _name: None)
    with controllers.controller_for_a_while("memory"):
        assert done == orders[:1]
    assert done == orders


def test_janitor_waits_until_the_host_has_left_its_group(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may hear of the end by a descriptor, which a dying process closes first."""
    aside = files / "house_host"
    aside.mkdir()
    (aside / "cgroup.events").write_text("populated 1\n")

    def leave(_seconds: float) -> None:
        (aside / "cgroup.events").unlink()

    monkeypatch.setattr(controllers.time, "sleep", leave)
    controllers.step_back(str(files / "house"))
    assert not aside.exists()


def test_where_no_controller_can_be_handed_on_everybody_goes_back(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where somebody forks on and on."""
    moves: list[tuple[str, str]] = []

    def refuse(_group: str, _words: str) -> None:
        raise OSError(16, "Device or resource busy")

    monkeypatch.setattr(controllers, "_order", refuse)
    monkeypatch.setattr(controllers, "_move_all", lambda source, target: moves.append((source, target)))
    with pytest.raises(
        NoControlGroupError, match="cannot hand on the kernel's 'memory' controller: Device or resource"
    ):
        controllers.have_controller("memory")
    assert moves[-1] == (str(files / "house_host"), str(files))
    assert not (files / "house_host").exists()


# --- limits of one group, as files ---


@pytest.fixture
def group(tmp_path: Path) -> ControlGroup:
    for name in ("memory.max", "memory.swap.max", "memory.oom.group", "cpu.max"):
        (tmp_path / name).write_text("as it was")
    return ControlGroup(str(tmp_path))


def read(group: ControlGroup, name: str) -> str:
    return (Path(group.path) / name).read_text()


def test_limit_of_memory_is_one_for_all_without_swap(group: ControlGroup) -> None:
    assert group.limit_memory(64 * MIB)
    assert read(group, "memory.max") == str(64 * MIB)
    assert read(group, "memory.swap.max") == "0"
    assert read(group, "memory.oom.group") == "1"


def test_limit_of_memory_can_be_lifted(group: ControlGroup) -> None:
    assert group.limit_memory(64 * MIB)
    assert group.limit_memory(None)
    assert read(group, "memory.max") == read(group, "memory.swap.max") == "max"


def test_limit_that_cannot_be_lifted_is_as_it_was(group: ControlGroup) -> None:
    assert group.limit_memory(64 * MIB)
    os.unlink(f"{group.path}/memory.max")
    os.mkdir(f"{group.path}/memory.max")  # which nobody can write to
    assert not group.limit_memory(None)
    assert read(group, "memory.swap.max") == "0"


def test_limit_that_is_lifted_is_so_though_swapping_is_not_allowed_again(group: ControlGroup) -> None:
    assert group.limit_memory(64 * MIB)
    os.unlink(f"{group.path}/memory.swap.max")
    os.mkdir(f"{group.path}/memory.swap.max")
    assert group.limit_memory(None)
    assert read(group, "memory.max") == "max"


def test_kernel_without_swap_has_limits_all_the_same(group: ControlGroup) -> None:
    os.unlink(f"{group.path}/memory.swap.max")
    assert group.limit_memory(64 * MIB)
    assert read(group, "memory.max") == str(64 * MIB)


def test_group_without_the_controller_has_no_limit_and_says_so(tmp_path: Path) -> None:
    assert not ControlGroup(str(tmp_path)).limit_memory(64 * MIB)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(FileNotFoundError):
        ControlGroup(str(tmp_path)).limit_cpu(1.0)


@pytest.mark.parametrize(("cpus", "quota"), [(1, "100000"), (1.5, "150000"), (0.01, "1000"), (64, "6400000")])
def test_limit_of_cpus_is_their_time_in_a_tenth_of_a_second(group: ControlGroup, cpus: float, quota: str) -> None:
    group.limit_cpu(cpus)
    assert read(group, "cpu.max") == f"{quota} 100000"


@pytest.mark.parametrize(
    ("local", "whole", "is_exhausted"),
    [
        ("oom 0\noom_kill 0", "oom 0\noom_kill 0", False),
        ("oom 1\noom_kill 1", "oom 1\noom_kill 1", True),
        ("oom 1\noom_kill 0", "oom 1\noom_kill 2", True),  # who was killed is in a group below
        ("oom 0\noom_kill 1", "oom 0\noom_kill 1", False),  # it was the limit of a group above, or there was none left
        ("oom 0\noom_kill 0", "oom 1\noom_kill 1", False),  # it was the limit of a group below
        ("oom 1\noom_kill 0", "oom 1\noom_kill 0", False),  # somebody was told that there is none
        (None, "oom 1\noom_kill 1", True),  # before Linux 5.2
        (None, None, False),
        ("nonsense", "oom", False),
    ],
)
def test_who_was_killed_for_the_limit_of_this_very_group_is_told(
    tmp_path: Path, local: str | None, whole: str | None, is_exhausted: bool
) -> None:
    for name, content in (("memory.events.local", local), ("memory.events", whole)):
        if content is not None:
            (tmp_path / name).write_text(f"low 0\nhigh 0\nmax 3\n{content}\n" if " " in content else content)
    assert ControlGroup(str(tmp_path)).is_exhausted is is_exhausted
