"""Whose hands the ends of a pipe are in: the write end in one process only, the read end under the lower number."""

from __future__ import annotations

import fcntl
import os
import select
import threading
import warnings
from collections.abc import Callable, Iterator

import pytest

from safepool._os import lifeline
from safepool._os.lifeline import ArmedPipe
from unit.brood import in_forked_child

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def pipe() -> Iterator[ArmedPipe]:
    pipe = ArmedPipe()
    yield pipe
    pipe.close()


def is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def test_read_end_has_the_lower_number_even_where_the_kernel_deals_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    deal: Callable[[], tuple[int, int]] = os.pipe

    def crossed() -> tuple[int, int]:
        """As when another thread frees a lower number between the two."""
        read, write = deal()
        higher = fcntl.fcntl(read, fcntl.F_DUPFD_CLOEXEC, write + 1)
        os.close(read)
        return higher, write

    ends = crossed()
    assert ends[0] > ends[1]
    monkeypatch.setattr(os, "pipe", crossed)
    pipe = ArmedPipe()
    assert pipe.read_fd < pipe.write_fd
    assert not os.get_inheritable(pipe.write_fd)
    pipe.close_write()
    assert lifeline.has_hung_up(pipe.read_fd)
    pipe.close()
    for fd in ends:
        os.close(fd)


def test_write_end_is_closed_in_forked_children_and_the_read_end_is_not(pipe: ArmedPipe) -> None:
    assert in_forked_child(lambda: f"{is_open(pipe.read_fd)} {is_open(pipe.write_fd)}") == "True False"


def test_descriptor_is_closed_in_forked_children_until_that_is_taken_back(pipe: ArmedPipe) -> None:
    lifeline.close_in_forked_children(pipe.read_fd)
    assert in_forked_child(lambda: str(is_open(pipe.read_fd))) == "False"
    lifeline.keep_in_forked_children(pipe.read_fd)
    assert in_forked_child(lambda: str(is_open(pipe.read_fd))) == "True"


def test_child_that_is_forked_while_a_pipe_is_being_closed_keeps_no_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    """1. A thread takes the write end off the list. 2. Another forks. 3. The first closes its own copy only."""

    class Interrupted(set[int]):
        def discard(self, fd: int) -> None:
            super().discard(fd)
            fork.start()
            fork.join(0.5)  # with the list guarded, it has to wait until the pipe is closed

    def fork_and_wait() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            child = os.fork()
        if not child:
            os.read(gate, 1)
            os._exit(0)
        children.append(child)

    gate, opened = os.pipe()
    children: list[int] = []
    fork = threading.Thread(target=fork_and_wait)
    monkeypatch.setattr(lifeline, "_write_ends", Interrupted(lifeline._write_ends))
    pipe = ArmedPipe()

    pipe.close_write()

    fork.join(30)
    hung_up = lifeline.has_hung_up(pipe.read_fd)
    os.write(opened, b".")
    os.waitpid(children[0], 0)
    pipe.close()
    os.close(gate)
    os.close(opened)
    assert hung_up


def test_pipe_that_was_closed_fires_no_more_and_closes_nothing_else(pipe: ArmedPipe) -> None:
    numbers = {pipe.read_fd, pipe.write_fd}
    pipe.close()
    strangers = os.pipe()
    assert numbers == set(strangers)
    pipe.fire()
    pipe.close()
    assert select.select([strangers[0]], [], [], 0)[0] == []  # neither written to nor hung up
    for fd in strangers:
        os.close(fd)
