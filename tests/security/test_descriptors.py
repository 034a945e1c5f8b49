"""Who has which descriptor: the lists are exact, and nothing is handed on that was not meant to be."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator

import pytest

from contract.patience import eventually, result_of
from safepool._os.marker import host_marker
from security import acts
from support import census

pytestmark = pytest.mark.timeout(60)

# Its standard streams, and a second /dev/null that multiprocessing opens as its ``sys.stdin``; the record; channel and
# tickets; lifeline, switch and the pipe of the resource tracker.
WORKER = Counter({"/dev/null": 1, "memfd:safepool-start": 1, "socket": 2, "pipe": 3})
# Forked children have no channel, no tickets and no switch: what they wrote there, or read, would be their parent's.
FORKED = Counter({"/dev/null": 1, "memfd:safepool-start": 1, "pipe": 2})
JANITOR = Counter({"memfd:safepool-register": 1, "socket": 1, "pidfd": 1})


def kinds(files: dict[int, str]) -> Counter[str]:
    """What they are, but for standard input, output and error."""
    return Counter(kind(link) for fd, link in files.items() if int(fd) > 2)


def kind(link: str) -> str:
    found = re.match(r"(?:/|anon_inode:\[?)?(memfd:[\w-]+|pidfd|socket|pipe)", link)
    return found[1] if found else link


@pytest.fixture
def inheritable() -> Iterator[set[str]]:
    """Descriptors of the host that a careless library has made inheritable; what they are."""
    read, write = os.pipe()
    memory = os.memfd_create("careless", 0)
    for fd in (read, write, memory):
        os.set_inheritable(fd, True)
    yield {os.readlink(f"/proc/self/fd/{fd}") for fd in (read, memory)}
    for fd in (read, write, memory):
        os.close(fd)


def test_worker_has_its_own_descriptors_and_none_of_the_host_s(new_pool, inheritable) -> None:
    files = result_of(new_pool(1).submit(acts.open_files))

    assert kinds(files) == WORKER
    assert not inheritable & set(files.values())
    streams = [os.readlink(f"/proc/self/fd/{fd}") for fd in (1, 2)]
    assert [files[fd] for fd in (0, 1, 2)] == ["/dev/null", *streams]


def test_worker_of_a_pool_with_an_initializer_has_no_others(new_pool) -> None:
    assert kinds(result_of(new_pool(1, initializer=os.getpid).submit(acts.open_files))) == WORKER


@pytest.mark.parametrize("way", [acts.files_of_popen, acts.files_of_posix_spawn, acts.files_of_fork_and_exec])
def test_program_that_a_task_starts_is_given_none_of_them(pool, way) -> None:
    """Though the task closes nothing, as ``os.system`` and many a C library do not."""
    assert kinds(result_of(pool.submit(way))) == Counter()


def test_child_that_a_task_forks_has_neither_channel_nor_tickets_nor_switch(pool) -> None:
    assert kinds(result_of(pool.submit(acts.files_of_fork))) == FORKED


def test_janitor_has_register_and_pipe_and_none_of_the_host_s(pool, inheritable) -> None:
    result_of(pool.submit(os.getpid))
    janitor = eventually(_detached_janitor)

    files = census.open_files(janitor.pid)

    assert kinds(files) == JANITOR
    assert {files[fd] for fd in range(3)} == {"/dev/null"}


# Started by the import of the main module, before anything is said to the worker: earlier than any task.
_EARLY = """
import sys
from safepool import SafeProcessPoolExecutor
from security.acts import files_of_popen
from support.rendezvous import report

def tell():
    return ",".join(link for fd, link in files.items() if int(fd) > 2) or "none"

if __name__ == "__main__":
    with SafeProcessPoolExecutor(1) as pool:
        report(sys.argv[1], "files", pool.submit(tell).result())
else:
    files = files_of_popen()
"""


def test_program_that_is_started_by_the_import_of_the_main_module_is_given_none_of_them(make_program) -> None:
    program = make_program()
    program.run_text(_EARLY)

    assert program.finish() == 0
    assert program.rendezvous.expect("files").detail == "none"
    program.leaves_nothing()


def _detached_janitor() -> census.Seen | None:
    found = [seen for seen in census.living() if f"'{host_marker()}'" in seen.command]
    return next((seen for seen in found if seen.ppid != os.getpid()), None)
