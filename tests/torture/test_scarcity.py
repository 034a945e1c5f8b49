"""Where something cannot be had: an error that says so, no worker half born, and all well when it can be had again."""

from __future__ import annotations

import errno
import os
import platform
import signal
import subprocess
import sys

import pytest

from safepool._os.features import COSTS
from support import census
from support.eventually import eventually
from support.handles import gone
from support.scenes import hang_everywhere, strike, workers_of
from torture.surroundings import surround
from torture.users import AS_A_USER, NEEDS_ROOT

pytestmark = [pytest.mark.torture, pytest.mark.timeout(180)]

# Has one system call fail, by a filter that is inherited over exec: number, argument to look at, its value, error.
_WITHOUT = """
import ctypes, os, struct, sys
number, argument, value, error = map(int, sys.argv[1:5])
code = [(0x20, 0, 0, 0), (0x15, 0, 3 if argument >= 0 else 1, number)]  # load the number; another one is allowed
if argument >= 0:
    code += [(0x20, 0, 0, 16 + 8 * argument), (0x15, 0, 1, value)]
code += [(0x06, 0, 0, 0x00050000 | error), (0x06, 0, 0, 0x7FFF0000)]
filters = b"".join(struct.pack("HBBI", *line) for line in code)
memory = ctypes.create_string_buffer(filters)
program = ctypes.create_string_buffer(struct.pack("H6xP", len(code), ctypes.addressof(memory)))
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(38, 1, 0, 0, 0) == 0 and libc.prctl(22, 2, program) == 0, os.strerror(ctypes.get_errno())
os.execv(sys.argv[5], sys.argv[5:])
"""
OF_A_WORKER = 8  # descriptors in the host, beside the memory of its record: three sockets, three ends of pipes, a pidfd
PIDFD_OPEN, PIDFD_SEND_SIGNAL, MEMFD_CREATE, FCNTL, SOCKETPAIR = 434, 424, 319, 72, 53
F_SETSIG = 10

NEEDS_X86 = pytest.mark.skipif(platform.machine() != "x86_64", reason="the numbers of system calls are those of x86-64")


def without(number, error, argument=-1, value=0):
    return [sys.executable, "-c", _WITHOUT, str(number), str(argument), str(value), str(error)]


def only_worker(host):
    (worker,) = workers_of(host)
    return host.hold({"worker": worker.pid})["worker"]


def works(host, label="works"):
    host.submit(label, "square", 7)
    return host.outcome(label) == {"value": 49}


@pytest.mark.parametrize("room", range(13))
def test_host_without_descriptors_cannot_start_a_worker_and_says_so(make_host, room):
    """A start takes thirteen: each of its steps is the one that fails, once."""
    host = make_host(max_workers=1)
    canary = host.canary()
    host.open_pool()
    assert works(host, "before")
    worker = only_worker(host)
    files = census.open_files(host.process.pid)
    worker.send(signal.SIGKILL)
    gone({"worker": worker})
    eventually(lambda: len(census.open_files(host.process.pid)) <= len(files) - OF_A_WORKER)
    host.tell("limit_descriptors", room=room)
    host.rendezvous.expect("limited")

    host.submit("starved", "square", 7)
    outcome = host.outcome("starved")

    assert outcome["error"] == "WorkerDiedError", outcome
    assert "Too many open files" in outcome["text"]
    assert not workers_of(host)
    host.tell("limit_descriptors", room=None)
    assert works(host, "after")

    def now():
        return census.open_files(host.process.pid)

    eventually(lambda: len(now()) <= len(files), otherwise=lambda: f"before: {files}\nafter: {now()}")
    assert canary.alive()
    host.tell("return")
    assert host.finish() == 0
    host.leaves_nothing()


@NEEDS_ROOT
def test_host_that_may_have_no_more_processes_cannot_start_a_worker_and_says_so(make_host):
    host = make_host(max_workers=1, launcher=AS_A_USER)
    host.open_pool()
    assert works(host, "before")
    worker = only_worker(host)
    host.tell("limit_processes", most=1)
    host.rendezvous.expect("limited")
    worker.send(signal.SIGKILL)
    gone({"worker": worker})

    host.submit("starved", "square", 7)
    outcome = host.outcome("starved")

    assert outcome["error"] == "WorkerDiedError", outcome
    assert "Resource temporarily unavailable" in outcome["text"]
    assert not workers_of(host)
    host.tell("limit_processes", most=None)
    assert works(host, "after")
    host.tell("return")
    assert host.finish() == 0
    host.leaves_nothing()


@NEEDS_ROOT
def test_full_file_systems_are_nothing_that_a_pool_needs(make_host, tmp_path):
    launcher, environment = surround("full", tmp_path)
    host = make_host(max_workers=2, launcher=launcher, environment=environment)
    host.open_pool()
    for number, where in enumerate(("/dev/shm", environment["TMPDIR"])):
        host.submit(f"full{number}", "torture.acts:can_write_to", where)
        assert host.outcome(f"full{number}") == {"value": errno.ENOSPC}

    host.submit("large", "torture.acts:length_of", 100_000_000)
    assert host.outcome("large") == {"value": "large"}
    everybody = hang_everywhere(host, "c")

    strike(host, "SIGKILL")

    gone(everybody)
    host.leaves_nothing()


@NEEDS_X86
@pytest.mark.parametrize(
    ("launcher", "missing", "error"),
    [
        (without(PIDFD_OPEN, errno.ENOSYS), "pidfd", errno.ENOSYS),
        (without(PIDFD_OPEN, errno.EPERM), "pidfd", errno.EPERM),
        (without(PIDFD_SEND_SIGNAL, errno.EPERM), "pidfd", errno.EPERM),
        (without(FCNTL, errno.EPERM, argument=1, value=F_SETSIG), "setsig", errno.EPERM),
        (without(MEMFD_CREATE, errno.ENOSYS), "memfd", errno.ENOSYS),
    ],
    ids=["no pidfd", "pidfd refused", "signal by pidfd refused", "F_SETSIG refused", "no memfd"],
)
def test_kernel_that_lacks_something_has_a_pool_that_does_without(make_host, launcher, missing, error):
    """It says so, and nothing is missed that is not documented."""
    host = make_host(max_workers=2, launcher=launcher)
    canary = host.canary()
    host.open_pool()
    worker_dies_and_another_is_late(host)
    everybody = hang_everywhere(host, "c")

    strike(host, "SIGKILL")

    gone(everybody)
    host.leaves_nothing()
    assert canary.alive()
    assert [line for line in host.stderr.splitlines() if " here (" in line] == [
        f"no {missing} here ([Errno {error}] {os.strerror(error)}): {COSTS[missing]}"
    ]


@NEEDS_X86
def test_sandbox_that_refuses_everything_has_a_pool_all_the_same(make_host):
    """As emulations of a kernel do."""
    launcher = [
        *without(PIDFD_OPEN, errno.ENOSYS),
        *without(PIDFD_SEND_SIGNAL, errno.ENOSYS),
        *without(FCNTL, errno.EINVAL, argument=1, value=F_SETSIG),
        *without(MEMFD_CREATE, errno.ENOSYS),
    ]
    host = make_host(max_workers=2, launcher=launcher)
    canary = host.canary()
    host.open_pool()
    worker_dies_and_another_is_late(host)
    everybody = hang_everywhere(host, "c")

    strike(host, "SIGKILL")

    gone(everybody)
    host.leaves_nothing()
    assert canary.alive()
    assert [line.split()[1] for line in host.stderr.splitlines() if " here (" in line] == ["setsig", "pidfd", "memfd"]


@NEEDS_ROOT
@pytest.mark.parametrize("init", [False, True], ids=["host is process 1", "with an init"])
def test_proc_of_another_namespace_is_not_believed(make_host, init):
    """As in a container without a /proc of its own: each number there is somebody else's here."""
    shell = ["sh", "-c", 'trap "" HUP; "$@"; exit $?', "sh"] if init else []
    host = make_host(max_workers=2, launcher=["unshare", "-pf", "--kill-child", *shell])
    host.open_pool()
    worker_dies_and_another_is_late(host)
    assert "no proc here ([Errno 2] /proc is of another namespace" in host.stderr
    host.tell("shutdown")
    host.rendezvous.expect("shutdown")
    strike(host, "SIGKILL")
    host.leaves_nothing()


@NEEDS_ROOT
@pytest.mark.parametrize("end", ["deadline", "host death"])
def test_host_in_a_namespace_of_users_is_like_any_other(make_host, end):
    host = make_host(max_workers=2, launcher=["unshare", "-U", "-r"])
    canary = host.canary()
    host.open_pool()
    everybody = hang_everywhere(host, "c", timeout=6.0 if end == "deadline" else None)
    if end == "deadline":
        assert {host.outcome(name)["error"] for name in ("w0", "w1")} == {"TaskTimeoutError"}
        assert works(host)
    else:
        strike(host, "SIGKILL")
    gone(everybody)
    if end == "host death":
        host.leaves_nothing()
    assert canary.alive()
    assert " here (" not in host.stderr


def worker_dies_and_another_is_late(host):
    """Their tasks fail as they should, and the pool goes on."""
    host.submit("dies", "exit_now", 3)
    outcome = host.outcome("dies")
    assert (outcome["error"], outcome["exitcode"]) == ("WorkerDiedError", 3)
    host.submit("late", "work_then_hang", host.rendezvous.path, "late", "c", timeout=1.0)
    assert host.outcome("late")["error"] == "TaskTimeoutError"
    host.submit("large", "torture.acts:length_of", 10_000_000)
    assert host.outcome("large") == {"value": "large"}
    assert works(host)


@NEEDS_X86
def test_filter_refuses_that_call_and_no_other():
    """Else the test above would show little."""
    program = "import os; os.memfd_create('x'); print('made'); os.pidfd_open(1)"
    command = [*without(PIDFD_OPEN, errno.ENOSYS), sys.executable, "-c", program]
    outcome = subprocess.run(command, check=False, capture_output=True, text=True)
    assert outcome.stdout == "made\n"
    assert f"[Errno {errno.ENOSYS}]" in outcome.stderr


WITHOUT_ANY = """
import os, resource, signal, sys
from safepool import SafeProcessPoolExecutor
from torture.acts import hang_holding_memory_in_a_file

if __name__ == "__main__":
    with SafeProcessPoolExecutor(1) as pool, open(os.open(sys.argv[1], os.O_RDWR), "rb", buffering=0) as reports:
        future = pool.submit(hang_holding_memory_in_a_file, sys.argv[1], "task", 256 << 20)
        pid = int(reports.read(1000).split()[1])
        resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))
        taken = []
        try:
            while True:
                taken.append(os.dup(0))
        except OSError:
            os.kill(pid, signal.SIGKILL)
        print(future.exception(60))
        for fd in taken:
            os.close(fd)
        print(pool.submit(abs, -3).result(60))
"""


def test_worker_that_dies_while_there_is_no_descriptor_fails_its_task_alone(tmp_path):
    """That its channel has closed is seen before its death, which frees memory; /proc cannot be asked which it is."""
    (tmp_path / "program.py").write_text(WITHOUT_ANY)
    os.mkfifo(tmp_path / "reports")
    command = [sys.executable, tmp_path / "program.py", tmp_path / "reports"]
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    outcome = subprocess.run(command, check=False, capture_output=True, text=True, env=variables, timeout=100)
    error, result = outcome.stdout.splitlines()
    assert "was ended by SIGKILL while it ran hang_holding_memory_in_a_file" in error
    assert result == "3"
    assert outcome.stderr == ""


@NEEDS_X86
def test_machine_without_room_for_another_file_cannot_start_a_worker_and_says_so(make_host):
    """ENFILE is the whole machine's, and has no namespace: so it is the answer of a filter, of this host alone."""
    host = make_host(max_workers=1, launcher=without(SOCKETPAIR, errno.ENFILE))
    canary = host.canary()
    host.open_pool()
    host.submit("task", "square", 7)

    outcome = host.outcome("task")

    assert outcome["error"] == "WorkerDiedError", outcome
    assert "Too many open files in system" in outcome["text"]
    assert not workers_of(host)
    assert canary.alive()
    host.tell("return")
    assert host.finish() == 0
    host.leaves_nothing()
