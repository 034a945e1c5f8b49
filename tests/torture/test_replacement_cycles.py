"""A thousand workers die one after the other: the host is as it was."""

from __future__ import annotations

import os
import threading

import pytest

from safepool import WorkerDiedError
from support import census, tasks
from support.eventually import eventually

pytestmark = [pytest.mark.torture, pytest.mark.timeout(480)]

CYCLES = 1000
WARM_UP = 50
OTHERS = 200  # names in /dev/shm: it is the whole machine's, and others work there; a leak would be a thousand
TOLERATED_GROWTH = 30_000_000  # bytes; a leak of one frame or one buffer a cycle is far more


def test_a_thousand_deaths_leave_the_host_as_it_was(make_pool, meeting, make_gate, measured):
    pool, gate = make_pool(2), make_gate()

    def die(count):
        """Two at a time, so that one worker's replacement overlaps with the other's death."""
        for _ in range(count // 2):
            pair = [pool.submit(tasks.exit_now, 3) for _ in range(2)]
            assert all(isinstance(future.exception(60), WorkerDiedError) for future in pair)

    def come_to_rest(name):
        """Have both workers there and idle."""
        labels = [f"{name}-{number}" for number in range(2)]
        pair = [pool.submit(tasks.work_then_wait, meeting.path, label, gate.path) for label in labels]
        meeting.expect_all(labels)
        gate.open(2)
        assert len({future.result(60) for future in pair}) == 2

    die(WARM_UP)
    come_to_rest("before")
    files, threads, shared, memory = measure()

    die(CYCLES)
    come_to_rest("after")

    grown = measure()[3] - memory
    measured("rss_growth", grown)
    eventually(lambda: measure()[0] <= files, otherwise=census.open_files)
    eventually(lambda: measure()[1] <= threads, otherwise=threading.enumerate)
    eventually(lambda: len(measure()[2] - shared) < OTHERS, within=30, otherwise=lambda: measure()[2] - shared)
    eventually(lambda: not census.zombies_of(os.getpid()))
    assert grown < TOLERATED_GROWTH


def measure():
    """Descriptors, threads, names in /dev/shm, bytes in memory."""
    with open("/proc/self/statm") as file:
        resident = int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return len(census.open_files()), threading.active_count(), set(os.listdir("/dev/shm")), resident
