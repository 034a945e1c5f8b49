"""A DataLoader whose workers, and whatever they start, do not outlive the training.

    pip install 'safepool[torch]'
    python examples/torch_dataloader.py

Each worker of the loader starts a program of its own, as a decoder or a data server would be: here `sleep 1000`. With
PyTorch alone these outlive a training that is killed, and so do workers that are busy at that moment. One argument
changes that: `multiprocessing_context=safepool.get_context()`.

Shown here, with exit status 0 only if all of it holds:

* an ordinary epoch yields the right batches, and at its end workers and programs are gone;
* a second training, in a process of its own, is killed with SIGKILL in mid-epoch: so are its workers and programs,
  within the milliseconds that are printed. A census, taken by yet another process, saw them before and does not after.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, NamedTuple, NoReturn

import census
import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

import safepool
from safepool._os.marker import host_marker

if TYPE_CHECKING:
    from collections.abc import Callable

WORKERS = 2
SAMPLES = 64
PATIENCE = 30.0  # seconds without a death after which whoever is alive counts as a survivor


class Squares(Dataset[torch.Tensor]):
    """Numbers, their squares, and by whom they were made: pid of the worker, pid of the program it started."""

    program: subprocess.Popen[bytes]

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.tensor([index, index**2, os.getpid(), self.program.pid])


def start_program(_worker: int) -> None:
    """Run once in every worker, which has its own copy of the dataset."""
    me = get_worker_info()
    assert me is not None
    assert isinstance(me.dataset, Squares)
    me.dataset.program = subprocess.Popen(["sleep", "1000"])


def make_loader() -> DataLoader[torch.Tensor]:
    """Make the loader; its last argument is all that safepool asks for."""
    return DataLoader(
        Squares(),
        batch_size=8,
        num_workers=WORKERS,
        worker_init_fn=start_program,
        multiprocessing_context=safepool.get_context(),
    )


# --- the training that is killed: this script, started by itself ----------------------------------------------------


class Training(NamedTuple):
    """What a training tells about itself, as one line of JSON."""

    marker: str
    workers: list[int]
    programs: list[int]


def train_until_killed() -> NoReturn:
    """Take a few batches, tell who made them, and go on with a step that never ends."""
    batches = iter(make_loader())
    made = torch.cat([next(batches) for _ in range(2 * WORKERS)])
    workers, programs = (sorted(set(made[:, column].tolist())) for column in (2, 3))
    print(json.dumps(Training(host_marker(), workers, programs)._asdict()), flush=True)
    threading.Event().wait()
    raise AssertionError("unreachable: nobody sets that event")


def kill_a_training() -> None:
    """Start it, wait until it has made batches, kill it, and look for survivors."""
    # A killed process cannot unlink its semaphores. The resource tracker of multiprocessing does it, and would say so.
    quietly = "ignore::UserWarning:multiprocessing.resource_tracker"
    command = [sys.executable, "-W", quietly, __file__, "--train"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as host:
        try:
            assert host.stdout is not None
            line = host.stdout.readline()
            claim(bool(line), "a training in a process of its own makes batches")
            training = Training(**json.loads(line))
            mourn(host, training)
        finally:
            host.kill()


def mourn(host: subprocess.Popen[str], training: Training) -> None:
    """Kill the host, and wait for the others to follow."""
    alive = {resident.pid for resident in census.from_outside(training.marker, host.pid) if resident.state != "Z"}
    claim(len(training.workers) == WORKERS, f"it has {WORKERS} workers: {training.workers}")
    claim(alive.issuperset(training.workers + training.programs), f"census before: it sees {sorted(alive)}")

    dead = wait_for_deaths({host.pid, *alive}, host.kill)
    claim(dead.keys() >= alive, f"SIGKILL to the host, pid {host.pid}: all {len(alive)} others died")
    claim(not census.from_outside(training.marker), "census after: no worker and no program is left")
    print(f"the host took {dead.pop(host.pid):.0f} ms to die, the last of the others {max(dead.values()):.0f} ms")


def wait_for_deaths(pids: set[int], kill: Callable[[], None]) -> dict[int, float]:
    """Tell who has died, and how many milliseconds after the kill. The kernel announces it, through pidfds."""
    died: dict[int, float] = {}
    with contextlib.ExitStack() as stack:
        pid_of = {os.pidfd_open(pid): pid for pid in pids}
        deaths = select.poll()
        for pidfd in pid_of:
            stack.callback(os.close, pidfd)
            deaths.register(pidfd, select.POLLIN)
        killed = time.monotonic()
        kill()
        while len(died) < len(pids) and (ended := deaths.poll(1000 * PATIENCE)):
            for pidfd, _ in ended:
                died[pid_of[pidfd]] = 1000 * (time.monotonic() - killed)
                deaths.unregister(pidfd)
    return died


# --- the ordinary epoch ---------------------------------------------------------------------------------------------


def run_an_epoch() -> None:
    """Compare one whole epoch with what it has to be."""
    made = torch.cat(list(make_loader()))
    numbers = torch.arange(SAMPLES)
    claim(torch.equal(made[:, :2], torch.stack([numbers, numbers**2], dim=1)), "an epoch: all batches, in order")
    claim(os.getpid() not in made[:, 2], "they were made by workers")
    left = census.from_outside(host_marker(), os.getpid())
    claim(not left, "census after the epoch: no worker and no program is left" + "".join(f"\n  {one}" for one in left))


def claim(holds: bool, what: str) -> None:
    """Print a claim that holds; end the program with the one that does not."""
    if not holds:
        raise SystemExit(f"FAILED: {what}")
    print(f"ok: {what}")


if __name__ == "__main__":
    if sys.argv[1:] == ["--train"]:
        train_until_killed()
    run_an_epoch()
    kill_a_training()
