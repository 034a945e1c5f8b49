"""Where there are no pidfds: what stands in for one does not mistake one process, or one descriptor, for another."""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Callable, Iterator

import pytest

from safepool._os import exit_watch, process_table
from support import census
from support.eventually import eventually
from unit.brood import Brood, forked, in_forked_child

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def watch() -> Iterator[Callable[[int], int]]:
    watched: list[int] = []

    def watch(pid: int) -> int:
        fd = exit_watch.watch(pid)
        assert fd is not None
        watched.append(fd)
        return fd

    yield watch
    for fd in watched:
        os.close(fd)
    eventually(lambda: not exit_watch._is_running)


def is_readable(fd: int, wait: float = 30.0) -> bool:
    return bool(select.select([fd], [], [], wait)[0])


def test_death_makes_it_and_its_copies_readable(brood: Brood, watch: Callable[[int], int]) -> None:
    process = brood.sleeper()
    fd = watch(process.pid)
    copy = os.dup(fd)
    assert not is_readable(fd, 0.05)
    process.kill()
    assert is_readable(fd)
    assert is_readable(copy)
    os.close(copy)


def test_death_of_a_stranger_is_told_before_anybody_reaps_it(brood: Brood, watch: Callable[[int], int]) -> None:
    brood.python("if not os.fork(): say('grandchild'); stay()\nsay('parent'); stay()")
    handles = brood.hold("grandchild", "parent")
    fd = watch(handles["grandchild"].pid)
    handles["grandchild"].send(signal.SIGKILL)
    assert is_readable(fd)
    assert census.zombies_of(handles["parent"].pid)


def test_forked_child_with_a_copy_does_not_hold_it_back(brood: Brood, watch: Callable[[int], int]) -> None:
    process = brood.sleeper()
    fd = watch(process.pid)
    with forked(signal.pause):
        process.kill()
        assert is_readable(fd)


def test_forked_child_knows_nobody(brood: Brood, watch: Callable[[int], int]) -> None:
    process = brood.sleeper()
    fd = watch(process.pid)
    assert in_forked_child(lambda: str(exit_watch.send_signal(fd, signal.SIGKILL))) == "False"
    assert process.poll() is None


def test_forked_child_can_watch(brood: Brood, watch: Callable[[int], int]) -> None:
    """The thread of its parent is not there, and one of its own is."""
    process = brood.sleeper()
    watch(process.pid)

    def body() -> str:
        fd = exit_watch.watch(process.pid)
        assert fd is not None
        os.kill(process.pid, signal.SIGKILL)
        return str(is_readable(fd))

    assert in_forked_child(body) == "True"


def test_descriptor_that_was_closed_stands_for_nobody_when_its_number_is_used_again(brood: Brood) -> None:
    process = brood.sleeper()
    fd = exit_watch.watch(process.pid)
    assert fd is not None
    os.close(fd)
    reader, writer = os.pipe()
    try:
        assert fd in (reader, writer)
        assert not exit_watch.send_signal(fd, signal.SIGKILL)
        with pytest.raises(ChildProcessError):
            exit_watch.number_of(fd)
    finally:
        os.close(reader)
        os.close(writer)
    assert process.poll() is None


def test_descriptors_and_thread_go_with_whoever_watches(brood: Brood) -> None:
    files = census.open_files()
    process = brood.sleeper()
    fd = exit_watch.watch(process.pid)
    assert fd is not None
    assert exit_watch._is_running
    os.close(fd)
    eventually(lambda: census.open_files() == files)
    eventually(lambda: not exit_watch._is_running)


def test_write_end_that_somebody_closed_is_not_written_to(brood: Brood, watch: Callable[[int], int]) -> None:
    """1. The program closes it. 2. Its number is another file's. 3. The process dies."""
    process = brood.sleeper()
    fd = watch(process.pid)
    write = exit_watch._known[fd].write_fd
    reader, writer = os.pipe()
    try:
        os.dup2(writer, write)
        process.kill()
        eventually(lambda: not exit_watch._is_running)
        assert not is_readable(reader, 0)
        os.fstat(write)
    finally:
        for number in (write, reader, writer):
            os.close(number)


def test_number_that_has_changed_hands_is_not_signalled(
    brood: Brood, watch: Callable[[int], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    process = brood.sleeper()
    fd = watch(process.pid)
    row = process_table.read_row(process.pid)
    assert row is not None
    with monkeypatch.context() as later:
        later.setattr(exit_watch, "read_row", lambda _: row._replace(start=row.start + 1))
        assert not exit_watch.send_signal(fd, signal.SIGKILL)
        with pytest.raises(ChildProcessError):
            exit_watch.number_of(fd)
    assert process.poll() is None
    assert exit_watch.send_signal(fd, signal.SIGKILL)


def test_process_that_is_hidden_is_not_taken_for_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether a host lives hangs on it (``origin``)."""
    monkeypatch.setattr(exit_watch, "read_row", lambda _: None)
    with pytest.raises(PermissionError, match="process 1 is hidden from us"):
        exit_watch.watch(1)
    assert exit_watch.watch(1 << 23) is None


def test_thread_that_cannot_be_started_is_an_error_and_costs_no_descriptor(
    brood: Brood, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    process = brood.sleeper()
    files = census.open_files()
    monkeypatch.setattr(exit_watch._thread, "start_new_thread", refuse)
    with pytest.raises(OSError, match="can't start new thread"):
        exit_watch.watch(process.pid)
    assert census.open_files() == files
