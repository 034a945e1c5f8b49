"""Shared memory and semaphores of tasks that come to a bad end: /dev/shm is as it was once the host is gone.

The resource tracker unlinks them when the last process that could use them is gone. Whoever ends it too early
leaves them behind for good.
"""

from __future__ import annotations

import os
import signal

import pytest

from support.eventually import eventually
from support.handles import gone
from support.scenes import strike

pytestmark = [pytest.mark.torture, pytest.mark.timeout(120)]

LABELS = [f"w{number}" for number in range(3)]


def names_of(host, labels):
    """The names under /dev/shm that were reported; all of them exist."""
    reports = host.rendezvous.expect_all(labels)
    names = {name for report in reports.values() for name in report.detail.split()}
    assert len(names) == 2 * len(labels)
    assert names <= set(os.listdir("/dev/shm"))
    return names


def all_unlinked(names):
    def left():
        return names & set(os.listdir("/dev/shm"))

    try:
        eventually(lambda: not left(), within=20, otherwise=lambda: f"leaked: {left()}")
    finally:
        for name in left():
            os.unlink(f"/dev/shm/{name}")


@pytest.mark.parametrize("death", ["SIGKILL", "segfault", "exit"])
def test_host_that_dies_leaves_no_shared_object(make_host, death):
    host = make_host(max_workers=3)
    host.open_pool()
    for label in LABELS:
        host.submit(label, "hold_shared_objects", host.rendezvous.path, label)
    names = names_of(host, LABELS)

    strike(host, death)

    host.finish()
    host.leaves_nothing()
    all_unlinked(names)


@pytest.mark.parametrize("how", ["deadline", "exit", "segfault", "kill"])
def test_workers_that_are_ended_leave_no_shared_object_behind_their_host(make_host, how):
    host = make_host(max_workers=3)
    gate = host.gate("gate")
    host.open_pool()
    for label in LABELS:
        if how == "deadline":
            host.submit(label, "hold_shared_objects", host.rendezvous.path, label, timeout=1.5)
        else:
            host.submit(label, "hold_shared_objects_then_die", host.rendezvous.path, label, gate.path, how)
    names = names_of(host, LABELS)
    gate.open()

    error = "TaskTimeoutError" if how == "deadline" else "WorkerDiedError"
    assert [host.outcome(label)["error"] for label in LABELS] == [error] * 3
    host.submit("next", "square", 7)
    assert host.outcome("next") == {"value": 49}
    host.tell("return")

    assert host.finish() == 0
    host.leaves_nothing()
    all_unlinked(names)


def test_tracker_that_a_task_started_gets_to_unlink_what_it_tracks(make_host):
    """A program with shared objects is ended with the worker that started it; the host lives on."""
    host = make_host(max_workers=1)
    everybody, names = start_program_with_a_tracker(host, timeout=10.0)

    gone(everybody)
    all_unlinked(names)
    assert host.outcome("task")["error"] == "TaskTimeoutError"


@pytest.mark.parametrize("end", ["worker killed", "host killed"])
def test_tracker_of_a_task_goes_with_a_worker_that_dies_by_itself(make_host, end):
    """The kernel ends the group at once, and cannot tell a tracker from the rest.

    What it tracked stays in /dev/shm: a miss that docs/failure-modes.md lists, asserted exactly, so that it cannot
    outlive its mending unnoticed. The processes do not stay.
    """
    host = make_host(max_workers=1)
    everybody, names = start_program_with_a_tracker(host, timeout=None)

    if end == "worker killed":
        everybody["task"].send(signal.SIGKILL)
    else:
        strike(host, "SIGKILL")

    try:
        gone(everybody)
        if end == "worker killed":
            assert host.outcome("task")["error"] == "WorkerDiedError"
        assert names <= set(os.listdir("/dev/shm"))
    finally:
        for name in names & set(os.listdir("/dev/shm")):
            os.unlink(f"/dev/shm/{name}")


def start_program_with_a_tracker(host, *, timeout):
    """Have a task start a program that has shared objects, and with them a resource tracker of its own."""
    gate = host.gate("gate")
    host.open_pool()
    arguments = (host.rendezvous.path, "task", gate.path)
    host.submit("task", "start_program_with_shared_objects", *arguments, timeout=timeout)
    everybody = host.hold_reported(["task", "task.owner"])
    return everybody, names_of(host, ["task.owner"])
