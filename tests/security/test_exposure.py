"""What others can see and reach of a running pool: no port, no path, no file, no memory; and no secret in a name."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from contract.patience import eventually, result_of
from safepool import SafeProcessPoolExecutor
from safepool._os.marker import host_marker, next_worker_marker
from security import acts
from support import census

pytestmark = pytest.mark.timeout(60)

_NOBODY = 65534
_ACCEPTS = 1 << 16  # flag of a socket in /proc/net/unix


@pytest.fixture
def processes(pool: SafeProcessPoolExecutor) -> dict[str, int]:
    """The processes of a pool that is at work, and has had large data: by role, their numbers."""
    assert result_of(pool.submit(acts.give_large, 1 << 20)) == bytes(1 << 20)
    assert result_of(pool.submit(len, bytes(1 << 20))) == 1 << 20
    janitor = eventually(lambda: [seen.pid for seen in census.living() if f"'{host_marker()}'" in seen.command])
    workers = [worker.contained.pid for worker in pool._pool._state.workers.values()]
    assert workers
    return {"host": os.getpid(), "janitor": janitor[0], **{f"worker {pid}": pid for pid in workers}}


def sockets_of(pid: int) -> set[str]:
    links = census.open_files(pid).values()
    return {found[1] for link in links if (found := re.fullmatch(r"socket:\[(\d+)\]", link))}


def memory_files_of(pid: int) -> list[int]:
    return [fd for fd, link in census.open_files(pid).items() if "memfd:safepool" in link]


def test_nobody_listens_and_no_socket_has_a_name_or_an_address(processes) -> None:
    ours = {role: sockets_of(pid) for role, pid in processes.items()}
    assert all(ours.values()), "each of them has a socket"
    for protocol in ("tcp", "tcp6", "udp", "udp6", "raw", "raw6", "packet", "netlink"):
        with contextlib.suppress(FileNotFoundError):  # not in every kernel
            inodes = set(Path(f"/proc/net/{protocol}").read_text().split())
            assert not any(sockets & inodes for sockets in ours.values()), protocol
    rows = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()[1:]]
    found = {row[6]: row for row in rows if row[6] in set().union(*ours.values())}
    assert set().union(*ours.values()) == set(found)
    assert not any(int(row[3], 16) & _ACCEPTS for row in found.values())
    assert not any(row[7:] for row in found.values()), "a path, or an abstract name"


_AT_WORK = """
import sys
from safepool import SafeProcessPoolExecutor
from security.acts import give_large
from support.rendezvous import pass_gate, report

if __name__ == "__main__":
    with SafeProcessPoolExecutor(2) as pool:
        assert len(pool.submit(give_large, 1 << 22).result(60)) == 1 << 22
        assert pool.submit(len, bytes(1 << 22)).result(60) == 1 << 22
        report(sys.argv[1], "working")
        pass_gate(sys.argv[2])
"""


def test_nothing_is_put_into_tmp_or_shared_memory(make_program, tmp_path: Path) -> None:
    program = make_program()
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    (program.directory / "at_work.py").write_text(_AT_WORK)
    gate = program.gate("gate")
    shared = set(os.listdir("/dev/shm"))
    script = str(program.directory / "at_work.py")
    program.run(["env", f"TMPDIR={temporary}", sys.executable, script, program.rendezvous.path, gate.path])
    program.rendezvous.expect("working")
    everybody = [program.process.pid, *(seen.pid for seen in program.left())]
    assert len(everybody) >= 4

    links = {link for pid in everybody for link in _files(pid).values()}

    assert list(temporary.iterdir()) == []
    foreign = [link for link in links if not link.startswith(f"{program.directory}/")]  # where the test meets it
    assert not any(link.startswith(("/tmp/", "/dev/shm", f"{tmp_path}/")) for link in foreign), foreign
    mapped = "".join(Path(f"/proc/{pid}/maps").read_text() for pid in everybody)
    assert "/dev/shm" not in mapped
    assert "/memfd:safepool" in mapped
    gate.open()
    assert program.finish() == 0
    assert not [name for name in set(os.listdir("/dev/shm")) - shared if "safepool" in name]


def test_another_user_can_open_read_or_signal_none_of_it(processes) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can become another user to try")
    memory = {role: memory_files_of(pid) for role, pid in processes.items()}
    assert all(memory.values()), "each of them has something to be opened"
    for role, pid in processes.items():
        attempts = {
            "list descriptors": lambda pid=pid: os.listdir(f"/proc/{pid}/fd"),
            "open memory": lambda pid=pid, fd=memory[role][0]: os.open(f"/proc/{pid}/fd/{fd}", os.O_RDONLY),
            "read environment": lambda pid=pid: Path(f"/proc/{pid}/environ").read_bytes(),
            "read memory": lambda pid=pid: os.open(f"/proc/{pid}/mem", os.O_RDONLY),
            "signal": lambda pid=pid: os.kill(pid, signal.SIGUSR1),
            "take a descriptor": lambda pid=pid: _take_descriptor(pid),
        }
        for name, attempt in attempts.items():
            # Where /proc is mounted so that it shows a user his own only, there is nothing to be found either.
            assert as_nobody(attempt) in {"PermissionError", "FileNotFoundError"}, (role, name)


def test_marker_is_a_random_number_and_a_count_and_nothing_else() -> None:
    """It stands in command lines, which everybody may read; to know it is of no use, since it opens nothing."""
    assert re.fullmatch(r"SAFEPOOL_[0-9a-f]{32}", host_marker())
    assert re.fullmatch(rf"{host_marker()}_\d+", next_worker_marker())


def test_command_lines_hold_no_secret(processes) -> None:
    """The key of multiprocessing travels to workers in memory."""
    import multiprocessing

    key = bytes(multiprocessing.current_process().authkey)
    for pid in processes.values():
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
        assert key not in command
        assert key.hex().encode() not in command


def as_nobody(attempt: Callable[[], object]) -> str:
    """Try something in a child that has become nobody; return the name of the error, or nothing."""
    read, write = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # 3.12: fork with threads
        child = os.fork()
    if not child:
        try:
            os.setgroups([])
            os.setresgid(_NOBODY, _NOBODY, _NOBODY)
            os.setresuid(_NOBODY, _NOBODY, _NOBODY)
            os.write(write, _error_of(attempt).encode())
        except BaseException:
            os.write(write, traceback.format_exc().encode())
        finally:
            os._exit(0)
    os.close(write)
    with open(read, encoding="utf-8") as answer:
        text = answer.read()
    os.waitpid(child, 0)
    return text


def _error_of(attempt: Callable[[], object]) -> str:
    try:
        attempt()
    except OSError as error:
        return type(error).__name__
    return "it was done"


def _take_descriptor(pid: int) -> None:
    """As a debugger does, by pidfd_getfd(2), which has one number on every machine."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(438, os.pidfd_open(pid), 0, 0) < 0:
        raise OSError(ctypes.get_errno(), "pidfd_getfd")


def _files(pid: int) -> dict[int, str]:
    try:
        return census.open_files(pid)
    except FileNotFoundError:
        return {}
