"""A training, run as a script by the tests: a DataLoader whose workers start descendants.

    python trainer.py REPORTS SCENARIO [ARGUMENT...]

What a user's script would do, but for the reports: it says through the tests' FIFO who is where. Everything that
workers need stands at module level, where a spawned worker finds it by name.
"""

from __future__ import annotations

import functools
import os
import sys
import threading
from collections.abc import Callable

import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from safepool import SafeProcessPoolExecutor, get_context
from support import descendants, tasks
from support.rendezvous import pass_gate, report

WORKERS = 2
BATCH = 4
SAMPLES = 48


class Squares(Dataset[torch.Tensor]):
    """Numbers, their squares, and the pid of whoever made them."""

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.tensor([index, index**2, os.getpid()])


class StuckAfterTheFirst(Squares):
    """Every worker makes one batch, and gets stuck in its second."""

    def __init__(self, reports: str, kind: str, gate: str = "") -> None:
        self.reports, self.kind, self.gate = reports, kind, gate

    def __getitem__(self, index: int) -> torch.Tensor:
        if index >= WORKERS * BATCH:
            report(self.reports, f"worker-{worker_number()}.stuck", self.kind)
            if self.gate:
                pass_gate(self.gate)
            else:
                tasks.HANGS[self.kind]()
        return super().__getitem__(index)


def worker_number() -> int:
    """Number of this worker in its loader."""
    worker = get_worker_info()
    assert worker is not None
    return worker.id


def settle_in(reports: str, kinds: tuple[str, ...], heartbeats: tuple[str, ...], number: int) -> None:
    """Run first in each worker: start the descendants, and report itself."""
    descendants.start(kinds, f"worker-{number}", reports)
    if heartbeats:
        tasks.start_heartbeat(heartbeats[number])
    report(reports, f"worker-{number}")


def make_loader(
    dataset: Dataset[torch.Tensor],
    reports: str = "",
    heartbeats: tuple[str, ...] = (),
    *,
    workers: int = WORKERS,
    persistent: bool = False,
) -> DataLoader[torch.Tensor]:
    """Make a loader whose workers start one descendant of each kind, if there is somebody to report it to."""
    kinds = ("plain", "setsid", "daemon")
    return DataLoader(
        dataset,
        batch_size=BATCH,
        num_workers=workers,
        persistent_workers=persistent,
        multiprocessing_context=get_context() if workers else None,
        worker_init_fn=functools.partial(settle_in, reports, kinds, heartbeats) if reports else None,
    )


def epoch(loader: DataLoader[torch.Tensor], gate: str = "") -> tuple[list[list[int]], set[int]]:
    """Run one epoch, waiting at the gate in the middle of it: the batches, and the pids of who made them."""
    iterator = iter(loader)
    first = next(iterator)
    if gate:
        pass_gate(gate)
    batches = torch.cat([first, *iterator])
    return batches[:, :2].tolist(), set(batches[:, 2].tolist())


def expected() -> list[list[int]]:
    """The same epoch, made without workers."""
    return epoch(make_loader(Squares(), workers=0))[0]


def whole_epoch(reports: str, gate: str) -> None:
    """One epoch; then everything that its workers started must be gone while this process lives on."""
    batches, makers = epoch(make_loader(Squares(), reports), gate)
    assert batches == expected()
    assert len(makers) == WORKERS, makers
    assert os.getpid() not in makers
    linger(reports)


def persistent_workers(reports: str) -> None:
    """Two epochs by the same workers, which then wait for a third one."""
    loader = make_loader(Squares(), reports, persistent=True)
    (first, makers), (second, same_makers) = epoch(loader), epoch(loader)
    assert first == second == expected()
    assert makers == same_makers
    linger(reports)


def stuck(reports: str, kind: str, *heartbeats: str) -> None:
    """Hang, as a training does whose workers hang."""
    for _ in make_loader(StuckAfterTheFirst(reports, kind), reports, heartbeats):
        pass


def bereaved(reports: str, gate: str) -> None:
    """Tell what the loop gets when a worker is killed from outside."""
    try:
        for _ in make_loader(StuckAfterTheFirst(reports, "at the gate", gate), reports):
            pass
    except RuntimeError as error:
        report(reports, "error", str(error))
    linger(reports)


def loader_in_a_task(reports: str, gate: str) -> None:
    """An epoch inside a task."""
    with SafeProcessPoolExecutor(1) as pool:
        assert pool.submit(epoch_in_a_task, reports, gate).result() == expected()
        linger(reports)


def epoch_in_a_task(reports: str, gate: str) -> list[list[int]]:
    """What the worker of the pool does."""
    report(reports, "task")
    batches, makers = epoch(make_loader(Squares(), reports), gate)
    assert os.getpid() not in makers
    return batches


def stuck_in_a_task(reports: str) -> None:
    """A loader that hangs, inside a task."""
    with SafeProcessPoolExecutor(1) as pool:
        pool.submit(stuck, reports, "c").result()


def linger(reports: str) -> None:
    """Say that the training is done, and stay until the test lets it go (or is gone)."""
    report(reports, "done", str(threading.active_count()))
    sys.stdin.read()


SCENARIOS: dict[str, Callable[..., None]] = {
    scenario.__name__: scenario
    for scenario in (whole_epoch, persistent_workers, stuck, bereaved, loader_in_a_task, stuck_in_a_task)
}

if __name__ == "__main__":
    SCENARIOS[sys.argv[2]](sys.argv[1], *sys.argv[3:])
