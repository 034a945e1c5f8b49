"""A DataLoader on ``safepool.get_context()``: the same batches, and nobody left, whoever dies.

Every training runs as a script in a process of its own (``trainer.py``). Its workers each start three descendants:
a plain child, one in a session of its own, and a daemon that has left its parent. A fault is proved from outside
before its outcome is looked at.
"""

from __future__ import annotations

import importlib.util
import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from support.handles import Handle, gone
from support.hosts import Program
from support.proofs import new_counter, prove
from support.rendezvous import Gate

pytestmark = [
    pytest.mark.torch,
    pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="PyTorch is not installed"),
]

TRAINER = str(Path(__file__).with_name("trainer.py"))
WORKERS = ["worker-0", "worker-1"]
DESCENDANTS = [f"{worker}.{kind}" for worker in WORKERS for kind in ("plain", "setsid", "daemon")]
EVERYONE = WORKERS + DESCENDANTS

Train = Callable[..., Program]


@pytest.fixture
def gate(make_gate: Callable[[], Gate]) -> Gate:
    """One gate."""
    return make_gate()


@pytest.fixture
def train(make_program: Callable[[], Program]) -> Train:
    """Start a training."""

    def start(scenario: str, *arguments: str) -> Program:
        training = make_program()
        training.run([sys.executable, TRAINER, training.rendezvous.path, scenario, *arguments])
        return training

    return start


def let_go(training: Program) -> None:
    """End the training's lingering, and see it leave without an error and without a trace."""
    assert training.process.stdin is not None
    training.process.stdin.close()
    assert training.finish() == 0, training.stderr
    training.leaves_nothing()


def kill_the_host(training: Program, everyone: dict[str, Handle]) -> None:
    """SIGKILL; whoever was held must go, and nobody else may stay."""
    training.send(signal.SIGKILL)
    gone(everyone)
    training.leaves_nothing()


def test_an_epoch_equals_the_one_without_workers_and_leaves_nobody(train: Train, gate: Gate) -> None:
    """The training lives on: nobody but safepool can have ended the descendants."""
    training = train("whole_epoch", gate.path)
    everyone = training.hold_reported(EVERYONE)
    gate.open()
    training.rendezvous.expect("done")
    gone(everyone)
    let_go(training)


def test_persistent_workers_stay_for_every_epoch_and_leave_with_the_host(train: Train) -> None:
    training = train("persistent_workers")
    everyone = training.hold_reported(EVERYONE)
    training.rendezvous.expect("done")
    assert all(handle.alive() for handle in everyone.values())
    let_go(training)
    gone(everyone)


def test_the_host_is_killed_while_its_workers_are_idle(train: Train) -> None:
    training = train("persistent_workers")
    everyone = training.hold_reported(EVERYONE)
    training.rendezvous.expect("done")
    for worker in WORKERS:
        prove("idle", everyone[worker].pid, "")
    kill_the_host(training, everyone)


@pytest.mark.parametrize("kind", ["loop", "c"])
def test_the_host_is_killed_while_its_workers_are_stuck(train: Train, tmp_path: Path, kind: str) -> None:
    heartbeats = [new_counter(tmp_path, worker) for worker in WORKERS]
    training = train("stuck", kind, *heartbeats)
    everyone = training.hold_reported(EVERYONE)
    training.rendezvous.expect_all([f"{worker}.stuck" for worker in WORKERS])
    for worker, heartbeat in zip(WORKERS, heartbeats, strict=True):
        prove(kind, everyone[worker].pid, heartbeat)
    kill_the_host(training, everyone)


def test_a_worker_is_killed_and_the_loop_is_told_and_its_descendants_go(train: Train, gate: Gate) -> None:
    """The gate stays closed, and the training lives on: nobody but safepool can have ended the descendants."""
    training = train("bereaved", gate.path)
    everyone = training.hold_reported(EVERYONE)
    training.rendezvous.expect_all([f"{worker}.stuck" for worker in WORKERS])
    everyone["worker-0"].send(signal.SIGKILL)
    victim = everyone["worker-0"].pid
    # PyTorch has two sentences for it: which one comes depends on whether its SIGCHLD handler or its queue is first.
    told = rf"DataLoader worker \(pid(\(s\))? {victim}\) (is killed by signal|exited unexpectedly)"
    assert re.search(told, training.rendezvous.expect("error").detail)
    gone({name: handle for name, handle in everyone.items() if name.startswith("worker-0")})
    assert training.process.poll() is None
    training.rendezvous.expect("done")
    let_go(training)
    gone(everyone)


def test_a_loader_works_inside_a_task_and_leaves_nobody(train: Train, gate: Gate) -> None:
    """The worker of the pool lives on, and the training with it."""
    training = train("loader_in_a_task", gate.path)
    everyone = training.hold_reported([*EVERYONE, "task"])
    gate.open()
    training.rendezvous.expect("done")
    task = everyone.pop("task")
    gone(everyone)
    assert task.alive()
    let_go(training)


def test_the_host_is_killed_while_a_loader_hangs_inside_a_task(train: Train) -> None:
    training = train("stuck_in_a_task")
    everyone = training.hold_reported(EVERYONE)
    training.rendezvous.expect_all([f"{worker}.stuck" for worker in WORKERS])
    kill_the_host(training, everyone)
