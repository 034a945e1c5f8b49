"""The kernel ends a group when a pipe closes; each of the facts that this rests on, shown on real processes."""

from __future__ import annotations

import fcntl
import os
import select
import signal
import subprocess
import threading
import warnings
from collections.abc import Callable, Iterator

import pytest

from safepool._os import lifeline
from safepool._os.lifeline import ArmedPipe
from support.handles import Handle, gone
from unit.brood import Brood, forked, in_forked_child, is_in_state

pytestmark = pytest.mark.timeout(60)

# The leader of a group of two, which says whatever it is told to.
_GROUP = """
if not os.fork():
    say("member")
    stay()
say("leader")
echo()
"""


@pytest.fixture
def pipe() -> Iterator[ArmedPipe]:
    pipe = ArmedPipe()
    yield pipe
    pipe.close()


@pytest.fixture
def leader(brood: Brood) -> subprocess.Popen[bytes]:
    return brood.python(_GROUP, stdin=subprocess.PIPE)


@pytest.fixture
def group(brood: Brood, leader: subprocess.Popen[bytes]) -> dict[str, Handle]:
    return brood.hold("leader", "member")


# --- what ends a group ---


def test_group_dies_when_the_last_writer_closes(
    pipe: ArmedPipe, leader: subprocess.Popen[bytes], group: dict[str, Handle]
) -> None:
    pipe.arm(leader.pid)
    assert all(handle.alive() for handle in group.values())
    pipe.close_write()
    gone(group)
    assert leader.wait(30) == -signal.SIGKILL


def test_group_dies_when_a_byte_is_written(
    pipe: ArmedPipe, leader: subprocess.Popen[bytes], group: dict[str, Handle]
) -> None:
    pipe.arm(leader.pid)
    pipe.fire()
    gone(group)


def test_stopped_group_dies(pipe: ArmedPipe, leader: subprocess.Popen[bytes], group: dict[str, Handle]) -> None:
    pipe.arm(leader.pid)
    for handle in group.values():
        handle.send(signal.SIGSTOP)
        is_in_state(handle.pid, "T")
    pipe.close_write()
    gone(group)


def test_process_that_blocks_every_signal_dies(pipe: ArmedPipe, brood: Brood) -> None:
    deaf = brood.python("signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals()); say('deaf'); stay()")
    handles = brood.hold("deaf")
    pipe.arm(deaf.pid)
    pipe.close_write()
    gone(handles)


def test_member_dies_although_its_leader_is_dead_and_reaped(
    pipe: ArmedPipe, leader: subprocess.Popen[bytes], group: dict[str, Handle]
) -> None:
    pipe.arm(leader.pid)
    group.pop("leader").send(signal.SIGKILL)
    leader.wait(30)
    assert group["member"].alive()
    pipe.close_write()
    gone(group)


def test_forked_child_of_the_host_that_was_given_copies_does_not_delay_the_end(
    pipe: ArmedPipe, leader: subprocess.Popen[bytes], group: dict[str, Handle]
) -> None:
    pipe.arm(leader.pid)
    with forked(signal.pause) as child:
        pipe.close_write()
        gone(group)
        assert child.alive()


@pytest.mark.parametrize("keeps", [True, False], ids=["keeps_its_copy", "closed_every_descriptor"])
def test_group_dies_with_its_host(brood: Brood, keeps: bool) -> None:
    """Even a worker that has closed its copy: the host's own, the lower number, is still there to fire."""
    host = brood.python(
        """
        import subprocess
        from safepool._os.lifeline import ArmedPipe
        pipe = ArmedPipe()
        worker = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", sys.argv[1]], start_new_session=True, pass_fds=[pipe.read_fd]
        )
        pipe.arm(worker.pid)
        say("host")
        stay()
        """,
        brood.text("say('begun')" if keeps else "os.closerange(0, 256)", "say('worker'); stay()"),
    )
    handles = brood.hold("host", "worker")
    assert handles["host"].pid == host.pid
    handles["host"].send(signal.SIGKILL)
    gone(handles)


# --- what does not ---


def test_disarmed_pipe_ends_nobody(
    pipe: ArmedPipe, brood: Brood, leader: subprocess.Popen[bytes], group: dict[str, Handle]
) -> None:
    pipe.arm(leader.pid)
    pipe.disarm()
    pipe.fire()
    pipe.close_write()
    brood.ask(leader, "unharmed")
    assert group["member"].alive()


def test_pipe_that_is_armed_after_the_hang_up_ends_nobody_but_says_so(
    pipe: ArmedPipe, brood: Brood, leader: subprocess.Popen[bytes], group: dict[str, Handle]
) -> None:
    assert not lifeline.has_hung_up(pipe.read_fd)
    pipe.close_write()
    pipe.arm(leader.pid)
    brood.ask(leader, "unharmed")
    assert group["member"].alive()
    assert lifeline.has_hung_up(pipe.read_fd)


def test_written_byte_is_no_hang_up(pipe: ArmedPipe) -> None:
    pipe.fire()
    assert not lifeline.has_hung_up(pipe.read_fd)


def test_process_outside_the_group_is_not_touched(
    pipe: ArmedPipe, brood: Brood, leader: subprocess.Popen[bytes], group: dict[str, Handle]
) -> None:
    canary = brood.python("say('canary'); echo()", stdin=subprocess.PIPE, session=False)
    brood.hold("canary")
    pipe.arm(leader.pid)
    pipe.close_write()
    gone(group)
    brood.ask(canary, "unharmed")


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


# --- the worker's side ---


def test_worker_whose_host_died_before_arming_ends_itself(pipe: ArmedPipe, brood: Brood) -> None:
    source = "from safepool._os import lifeline; lifeline.adopt_lifeline(int(sys.argv[1])); say('survived')"
    pipe.close_write()
    worker = brood.python(source, pipe.read_fd, pass_fds=[pipe.read_fd])
    assert worker.wait(30) == -signal.SIGKILL
    assert brood.meeting.find("survived") is None


def test_worker_that_adopts_its_lifeline_arms_it(pipe: ArmedPipe, brood: Brood) -> None:
    """The host may have died, or been held up, between starting and arming."""
    source = """
    from safepool._os import lifeline
    lifeline.adopt_lifeline(int(sys.argv[1]))
    say("adopted", os.get_inheritable(int(sys.argv[1])))
    stay()
    """
    brood.python(source, pipe.read_fd, pass_fds=[pipe.read_fd])
    handles = brood.hold("adopted")
    assert brood.meeting.expect("adopted").detail == "False"
    pipe.close_write()
    gone(handles)


def test_switch_ends_the_group_of_a_worker_that_dies(pipe: ArmedPipe, brood: Brood) -> None:
    """A child that the worker forked has no copy of the switch, so only the worker's own death decides."""
    source = """
    from safepool._os import lifeline
    switch = int(sys.argv[1])
    lifeline.adopt_switch(switch)
    if not os.fork():
        try:
            os.fstat(switch)
        except OSError:
            say("member")
        stay()
    say("worker", os.get_inheritable(switch))
    stay()
    """
    worker = brood.python(source, pipe.write_fd, pass_fds=[pipe.write_fd])
    pipe.arm(worker.pid)
    pipe.close_write()
    handles = brood.hold("worker", "member")
    assert brood.meeting.expect("worker").detail == "False"
    handles["worker"].send(signal.SIGKILL)
    gone(handles)


# --- descriptors ---


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
