"""The kernel ends a group when a pipe closes; each of the facts that this rests on, shown on real processes."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator

import pytest

from safepool._os import lifeline
from safepool._os.lifeline import ArmedPipe
from support.handles import Handle, gone
from unit.brood import Brood, forked, is_in_state

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
