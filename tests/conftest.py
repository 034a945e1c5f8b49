"""No test may leave anything behind: process, thread, descriptor."""

from __future__ import annotations

import contextlib
import gc
import itertools
import os
import platform
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

_TESTS = str(Path(__file__).parent)
if _TESTS not in sys.path:  # workers get the same path, and find the functions they are given there
    sys.path.insert(0, _TESTS)

pytest.register_assert_rewrite("support")  # what it asserts is explained as in a test

from support import census  # noqa: E402  the path comes first
from support.eventually import eventually  # noqa: E402
from support.handles import end_all  # noqa: E402
from support.hosts import Host, Program  # noqa: E402
from support.rendezvous import Gate, Rendezvous  # noqa: E402
from support.tasks import square  # noqa: E402
from support.without import reason_to_leave_out  # noqa: E402

if TYPE_CHECKING:
    from safepool import SafeProcessPoolExecutor


def pytest_configure() -> None:
    """Heed Ctrl-C, and have whoever is started here heed it: what a shell starts in the background does not."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_report_header() -> str:
    return f"{platform.python_implementation()} {platform.python_version()}, {platform.system()} {platform.release()}"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what rests on something that the environment takes away (``tox -e degraded``)."""
    from safepool._os.features import disabled

    def is_left_out(item: pytest.Item) -> bool:
        test = f"{item.path.parent.name}/{item.path.name}::{item.name.partition('[')[0]}"
        return reason_to_leave_out(test, disabled()) is not None

    left_out = [item for item in items if is_left_out(item)]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """With ``-v``, show what was measured: facts to read, never to pass or fail by."""
    if terminalreporter.verbosity > 0:
        for report in terminalreporter.getreports("passed"):
            for name, value in report.user_properties:
                terminalreporter.write_line(f"{report.nodeid}: {name} = {value}")


@pytest.fixture
def measured(request: pytest.FixtureRequest) -> Callable[[str, object], None]:
    """Put a measurement on record (pytest's own ``record_property`` warns with one of the report formats)."""
    return lambda name, value: request.node.user_properties.append((name, value))


@pytest.fixture(scope="session")
def warmed_up() -> None:
    """Let one pool run, so that what a host process keeps for good (janitor, resource tracker) is there."""
    from safepool import SafeProcessPoolExecutor

    with SafeProcessPoolExecutor(1) as pool:
        assert pool.submit(square, 3).result(60) == 9


@pytest.fixture(autouse=True)
def nothing_left_behind(warmed_up: None) -> Iterator[None]:
    """Compare processes, threads and descriptors after the test with those before."""
    before = _Belongings()
    yield
    gc.collect()
    try:
        eventually(lambda: not before.extra(), otherwise=lambda: f"left behind: {before.extra()}")
    finally:
        end_all(_marker())


@pytest.fixture
def meeting(tmp_path: Path) -> Iterator[Rendezvous]:
    rendezvous = Rendezvous(tmp_path)
    yield rendezvous
    rendezvous.close()


@pytest.fixture
def make_gate(tmp_path: Path) -> Iterator[Callable[[], Gate]]:
    gates: list[Gate] = []

    def make() -> Gate:
        gates.append(Gate(tmp_path, f"gate-{len(gates)}"))
        return gates[-1]

    yield make
    for gate in gates:
        gate.close()


@pytest.fixture
def stack() -> Iterator[contextlib.ExitStack]:
    """What is entered here is left when the test ends."""
    with contextlib.ExitStack() as stack:
        yield stack


@pytest.fixture
def make_pool() -> Iterator[Callable[..., SafeProcessPoolExecutor]]:
    """Pools of this process; a test that fails does not wait for what still runs in them."""
    from safepool import SafeProcessPoolExecutor

    with contextlib.ExitStack() as pools:

        def make(*args: Any, **options: Any) -> SafeProcessPoolExecutor:
            pool = SafeProcessPoolExecutor(*args, **options)
            pools.callback(pool.shutdown, kill=True)
            return pool

        yield make


@pytest.fixture
def make_program(tmp_path: Path) -> Iterator[Callable[[], Program]]:
    """Programs to be run as scripts; whatever they leave is ended after the test."""
    programs: list[Program] = []

    def make() -> Program:
        programs.append(Program(_room(tmp_path)))
        return programs[-1]

    yield make
    for program in programs:
        program.close()
        sys.stderr.write(program.stderr)  # pytest shows it if the test failed


@pytest.fixture
def make_host(tmp_path: Path) -> Iterator[Callable[..., Host]]:
    """Hosts that take commands; whatever they leave is ended after the test."""
    hosts: list[Host] = []

    def make(**pool: Any) -> Host:
        hosts.append(Host(_room(tmp_path), **pool))
        return hosts[-1]

    yield make
    for host in hosts:
        host.close()
        sys.stderr.write(host.stderr)  # pytest shows it if the test failed


@pytest.fixture
def terminal() -> Iterator[dict[str, int]]:
    """Both ends of a terminal; a test that closes one says so by -1."""
    ends = dict(zip(("ours", "theirs"), os.openpty(), strict=True))
    yield ends
    for fd in ends.values():
        if fd >= 0:
            os.close(fd)


class _Belongings:
    """What this process owns at one moment."""

    def __init__(self) -> None:
        self.children = {child.pid for child in _children()}
        self.threads = set(threading.enumerate())
        self.files = census.open_files()

    def extra(self) -> list[object]:
        """What has come since."""
        found: list[object] = list(census.carrying(_marker()))
        found += [child for child in _children() if child.pid not in self.children]
        found += [thread for thread in threading.enumerate() if thread not in self.threads]
        if len(files := census.open_files()) > len(self.files):
            found.append({fd: target for fd, target in files.items() if self.files.get(fd) != target})
        return found


def _children() -> list[census.Seen]:
    """Children and unreaped children; the resource tracker stays for good."""
    found = census.children_of(os.getpid()) + census.zombies_of(os.getpid())
    return [child for child in found if "resource_tracker" not in child.command]


def _marker() -> str:
    from safepool._os.marker import host_marker

    return host_marker()


_rooms = itertools.count()


def _room(tmp_path: Path) -> Path:
    room = tmp_path / f"room-{next(_rooms)}"
    room.mkdir()
    return room
