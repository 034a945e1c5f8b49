"""A thread of the worker ends its group when the host is gone: how it sees that, and what must not be taken for it."""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import sys

import pytest

from safepool._os import host_watch
from support.handles import gone
from unit.brood import Brood

pytestmark = pytest.mark.timeout(60)

# A host, which is told what to do; its worker, which has a child in its group; and whatever mask there is.
_HOST = """
import ctypes, subprocess
pipe = os.pipe()
worker = subprocess.Popen(
    [sys.executable, "-I", "-S", "-c", sys.argv[1], str(pipe[0]), str(os.getpid())],
    pass_fds=[pipe[0]], start_new_session=True,
)
say("host")
for line in sys.stdin:
    exec(line)
"""
_WORKER = """
from safepool._os.host_watch import HostWatch
HostWatch(int(sys.argv[1]), int(sys.argv[2])).start()
if not os.fork():
    say("member")
    stay()
{then}
say("worker")
stay()
"""
ADOPTED = "ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)"  # PR_SET_CHILD_SUBREAPER


def start(brood: Brood, mask: str, then: str = "") -> tuple[subprocess.Popen[bytes], dict]:
    worker = brood.text(_WORKER.format(then=then))
    host = brood.python(_HOST, worker, stdin=subprocess.PIPE, env={"SAFEPOOL_DISABLE": mask})
    return host, brood.hold("host", "worker", "member")


def tell(host: subprocess.Popen[bytes], line: str) -> None:
    assert host.stdin is not None
    host.stdin.write(f"{line}\n".encode())
    host.stdin.flush()


def both(handles: dict) -> dict:
    return {name: handles[name] for name in ("worker", "member")}


@pytest.mark.parametrize("mask", ["", "pipe_watch", "parent_watch"])
def test_group_goes_with_its_host_by_either_watch(brood: Brood, mask: str) -> None:
    _, handles = start(brood, mask)
    handles["host"].send(signal.SIGKILL)
    gone(both(handles))


def test_without_either_watch_the_group_stays(brood: Brood) -> None:
    """So it was the watch, above."""
    host, handles = start(brood, "pipe_watch,parent_watch")
    handles["host"].send(signal.SIGKILL)
    host.wait(30)
    brood.sleeper()
    assert not [name for name, handle in both(handles).items() if not handle.alive()]


def test_without_group_kill_only_the_worker_goes(brood: Brood) -> None:
    _, handles = start(brood, "group_kill")
    handles["host"].send(signal.SIGKILL)
    gone({"worker": handles["worker"]})
    assert handles["member"].alive()


def test_byte_in_the_pipe_ends_the_group(brood: Brood) -> None:
    host, handles = start(brood, "parent_watch")
    tell(host, "os.write(pipe[1], b'x')")
    gone(both(handles))
    assert handles["host"].alive()


@pytest.mark.parametrize(("mask", "is_ended"), [("", True), ("pipe_watch", True), ("parent_watch", False)])
def test_pipe_that_a_child_forked_in_c_holds_open_is_what_the_parent_watch_is_for(
    brood: Brood, mask: str, is_ended: bool
) -> None:
    host, handles = start(brood, mask)
    tell(host, "ctypes.PyDLL(None).fork() or (say('copy'), stay())")
    copy = brood.hold("copy")["copy"]
    handles["host"].send(signal.SIGKILL)
    host.wait(30)
    if is_ended:
        gone(both(handles))
    assert copy.alive()
    if not is_ended:
        assert handles["worker"].alive()
        copy.send(signal.SIGKILL)  # the last writer
        gone(both(handles))


@pytest.mark.parametrize("mask", ["pipe_watch", "parent_watch", ""])
def test_worker_that_closed_its_pipe_lives_and_is_not_led_astray_by_its_number(brood: Brood, mask: str) -> None:
    """What has the number then is readable, and no lifeline."""
    then = """
other = os.pipe()
os.write(other[1], b"x")
os.dup2(other[0], int(sys.argv[1]))
time.sleep(0.5)  # five looks; that nothing comes of them cannot be waited for
"""
    host, handles = start(brood, mask, then)
    assert all(handle.alive() for handle in handles.values())
    handles["host"].send(signal.SIGKILL)
    host.wait(30)
    if mask != "parent_watch":
        gone(both(handles))
    else:
        assert handles["worker"].alive()


def test_file_that_takes_the_place_of_the_pipe_during_a_look_is_not_taken_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """1. The pipe is found to be open. 2. A task puts a file with bytes in it under its number. 3. That is waited for."""
    pipe, other = os.pipe(), os.pipe()
    os.write(other[1], b"x")
    watch = host_watch.HostWatch(pipe[0], os.getppid())
    assert watch._is_there(1)
    poll = select.poll()

    class Late:
        def register(self, fd: int, events: int) -> None:
            poll.register(fd, events)
            os.dup2(other[0], fd)

        def poll(self, wait: int) -> list[tuple[int, int]]:
            found = poll.poll(wait)
            assert found
            return found

    with monkeypatch.context() as during:
        during.setattr(host_watch.select, "poll", Late)
        assert watch._is_there(1)
    for fd in (*pipe, *other):
        os.close(fd)


def test_worker_whose_host_was_gone_before_it_looked_ends_itself(brood: Brood) -> None:
    """Its parent is somebody else from the start, and the pipe is held open by somebody."""
    reader, writer = os.pipe()
    source = """
    from safepool._os.host_watch import HostWatch
    HostWatch(int(sys.argv[1]), 1 << 22).start()
    stay()
    """
    worker = brood.python(source, reader, pass_fds=[reader])
    assert worker.wait(30) == -signal.SIGKILL
    os.close(reader)
    os.close(writer)


@pytest.mark.parametrize("mask", ["", "pipe_watch", "parent_watch"])
def test_last_look_ends_the_group_of_a_worker_whose_host_is_gone_and_no_other(brood: Brood, mask: str) -> None:
    """No thread here: the worker looks when it is told to."""
    source = """
    from safepool._os.host_watch import HostWatch
    watch = HostWatch(int(sys.argv[1]), os.getppid())
    watch.look_once_more()
    if not os.fork():
        say("member")
        stay()
    parent = os.getppid()
    say("worker")
    while os.getppid() == parent:
        time.sleep(0.001)
    watch.look_once_more()
    stay()
    """
    host = brood.python(_HOST, brood.text(source), stdin=subprocess.PIPE, env={"SAFEPOOL_DISABLE": mask})
    handles = brood.hold("host", "worker", "member")
    host.kill()
    gone(handles)


def test_host_under_a_subreaper_is_like_any_other(brood: Brood) -> None:
    """The orphan's new parent is not process 1."""
    source = f"""
import ctypes
{ADOPTED}
if not os.fork():
    {_HOST.strip().replace(chr(10), chr(10) + "    ")}
say("reaper")
stay()
"""
    worker = brood.text(_WORKER.format(then=""))
    brood.python(source, worker, stdin=subprocess.PIPE, env={"SAFEPOOL_DISABLE": "pipe_watch"})
    handles = brood.hold("reaper", "host", "worker", "member")
    handles["host"].send(signal.SIGKILL)
    gone(both(handles))
    assert handles["reaper"].alive()


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("unshare") is None, reason="makes a pid namespace")
@pytest.mark.parametrize("mask", ["pipe_watch", "parent_watch"])
def test_worker_of_process_1_lives_until_its_host_is_gone(brood: Brood, tmp_path, mask: str) -> None:
    """As in a container: its parent has the number that orphans' parents have elsewhere."""
    source = f"""
{_HOST.partition("for line")[0]}
time.sleep(0.5)  # five looks at the parent; that nothing comes of them cannot be waited for
assert os.getpid() == 1 and worker.poll() is None
say("fine")
worker.kill()
"""
    watching = "from safepool._os.host_watch import HostWatch\nHostWatch(*map(int, sys.argv[1:])).start()\nstay()"
    worker = brood.text(watching)
    python = [sys.executable, "-I", "-S", "-c"]
    command = ["unshare", "-pf", "--kill-child", "--mount-proc", *python, brood.text(source), worker]
    process = brood.start(command, env={"SAFEPOOL_DISABLE": mask})
    assert process.wait(30) == 0
    assert brood.meeting.find("fine") is not None
