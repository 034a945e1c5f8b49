"""The count of the OOM killer is found wherever a kernel of either kind keeps it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import pytest

from safepool._os import oom

pytestmark = pytest.mark.timeout(60)

V2 = "low 0\nhigh 0\nmax 4\noom 3\noom_kill 2\noom_group_kill 0\n"
V1 = "oom_kill_disable 0\nunder_oom 0\noom_kill 5\n"

Machine = Callable[..., None]


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Puts up a machine on which these files are all that can be read."""

    def open_inside(path: str, *args: Any, **options: Any) -> IO[Any]:
        return open(f"{tmp_path}{path}", *args, **options)

    def put_up(groups: str, **files: str) -> None:
        (tmp_path / "proc/self").mkdir(parents=True)
        (tmp_path / "proc/self/cgroup").write_text(groups)
        for path, content in files.items():
            file = Path(f"{tmp_path}{path}")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(content)

    monkeypatch.setattr(oom, "open", open_inside, raising=False)
    return put_up


def test_version_two_is_read_from_the_group_s_own_directory(machine: Machine) -> None:
    machine("0::/user.slice/app.scope\n", **{"/sys/fs/cgroup/user.slice/app.scope/memory.events": V2})
    assert oom.oom_kill_count() == 2


def test_version_one_is_read_from_the_memory_controller(machine: Machine) -> None:
    groups = "9:name=systemd:/\n4:memory:/jobs/one\n3:cpuset:/\n1:cpu:/\n"
    machine(groups, **{"/sys/fs/cgroup/memory/jobs/one/memory.oom_control": V1})
    assert oom.oom_kill_count() == 5


def test_machine_with_both_versions_is_read_where_memory_is_controlled(machine: Machine) -> None:
    machine("4:memory:/jobs/one\n0::/\n", **{"/sys/fs/cgroup/memory/jobs/one/memory.oom_control": V1})
    assert oom.oom_kill_count() == 5


@pytest.mark.parametrize(
    ("groups", "path", "content", "count"),
    [
        ("0::/docker/4f2a\n", "/sys/fs/cgroup/memory.events", V2, 2),
        ("0::/../../other\n", "/sys/fs/cgroup/memory.events", V2, 2),
        ("4:memory:/docker/4f2a\n", "/sys/fs/cgroup/memory/memory.oom_control", V1, 5),
        ("0::/\n", "/sys/fs/cgroup/memory.events", V2, 2),
    ],
    ids=["container", "outside", "container_v1", "root"],
)
def test_group_that_is_mounted_as_the_root_is_read_there(
    machine: Machine, groups: str, path: str, content: str, count: int
) -> None:
    machine(groups, **{path: content})
    assert oom.oom_kill_count() == count


def test_group_whose_name_holds_colons_and_blanks_is_found(machine: Machine) -> None:
    machine("0::/a:b c/d\n", **{"/sys/fs/cgroup/a:b c/d/memory.events": V2})
    assert oom.oom_kill_count() == 2


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"/sys/fs/cgroup/memory.events": ""},
        {"/sys/fs/cgroup/memory.events": "low 0\nhigh 0\n"},
        {"/sys/fs/cgroup/memory.events": "not what it should be\n"},
    ],
    ids=["absent", "empty", "old_kernel", "malformed"],
)
def test_count_that_cannot_be_read_is_none(machine: Machine, files: dict[str, str]) -> None:
    machine("0::/\n", **files)
    assert oom.oom_kill_count() is None


@pytest.mark.parametrize("groups", ["", "7:pids:/\n"], ids=["no_groups", "no_memory_controller"])
def test_process_without_a_memory_group_has_no_count(machine: Machine, groups: str) -> None:
    machine(groups, **{"/sys/fs/cgroup/memory.events": V2})
    assert oom.oom_kill_count() is None


def test_machine_without_control_groups_has_no_count(machine: Machine) -> None:
    assert oom.oom_kill_count() is None


def test_count_of_this_machine_is_a_number_or_unknown_and_does_not_fall() -> None:
    before = oom.oom_kill_count()
    after = oom.oom_kill_count()
    assert (before is None) == (after is None)
    assert before is None or after is None or 0 <= before <= after
