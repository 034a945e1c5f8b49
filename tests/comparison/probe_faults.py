"""What is left after a fault? Have every pool go through it; print the matrix of ``docs/comparison.md``.

    pip install loky pebble deadpool-executor "mpire[dill]" joblib psutil cloudpickle
    python tests/comparison/probe_faults.py                    # every fault, every pool: some minutes
    python tests/comparison/probe_faults.py --fault "killed" --peer loky --verbose

A cell is one host program of its own, with two workers, each of which runs a task that has started a plain child, a
shell pipeline, a process in a group of its own, one in a session of its own, and a daemon. Everybody is held by pidfd
before the fault; then it is waited, by this program, until all who should be gone are.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from peers import PEERS, Lacks  # noqa: E402  the path comes first

from safepool._os.process_table import read_row  # noqa: E402  the path comes first
from safepool._os.process_tree import Leader, TreeEnding  # noqa: E402
from support import tasks  # noqa: E402
from support.descendants import KINDS, TRACELESS  # noqa: E402
from support.handles import Handle, hold  # noqa: E402
from support.rendezvous import Rendezvous, report  # noqa: E402

PATIENCE = 5.0  # seconds; whoever is there then is taken to stay
LIMIT = 4.0  # seconds, of the tasks that have a limit of time
WORKERS = 2
_POOLS = ["safepool", "safepool strict", *(peer for peer in PEERS if peer not in ("safepool", "ray"))]


class Fault(NamedTuple):
    """What happens, to whom, while the tasks do what.

    Attributes:
        state: What the tasks do: a kind of ``support.tasks.HANGS``.
        strikes: "host", "worker" (the first one), "limit" of time, or "end" of the pool.
        leaves: What the tasks have started.
        signal: What the host, or the worker, is sent.
    """

    state: str
    strikes: str
    leaves: tuple[str, ...] = KINDS
    signal: signal.Signals = signal.SIGKILL


FAULTS = {
    "host killed, workers idle": Fault("idle", "host"),
    "host killed, tasks in a Python loop": Fault("loop", "host"),
    "host killed, tasks hold the interpreter lock in C": Fault("c", "host"),
    "host killed, workers stopped": Fault("stopped", "host"),
    "host killed, workers deaf to every signal": Fault("deaf", "host"),
    "host gets SIGTERM, tasks hold the lock in C": Fault("c", "host", signal=signal.SIGTERM),
    "host gets SIGHUP, tasks hold the lock in C": Fault("c", "host", signal=signal.SIGHUP),
    "host killed, daemons without a trace": Fault("c", "host", leaves=TRACELESS),
    "worker killed while it runs a task": Fault("c", "worker"),
    "worker has a segmentation fault": Fault("loop", "worker", signal=signal.SIGSEGV),
    "worker killed, daemons without a trace": Fault("c", "worker", leaves=TRACELESS),
    "task past its limit of time, in C": Fault("c", "limit"),
    "task past its limit of time, deaf to every signal": Fault("deaf", "limit"),
    "pool closed after tasks that left processes": Fault("idle", "end"),
}


# --- the host ---


def run_host(pool: str, name: str, reports: str) -> None:
    """Open the pool, hand in the tasks, and wait for the fault; tell what came of the second task."""
    fault = FAULTS[name]
    peer = PEERS[pool.partition(" ")[0]]()
    peer.open(WORKERS, **({"containment": "strict"} if pool.endswith("strict") else {}))
    terms = {"timeout": LIMIT} if fault.strikes == "limit" else {}
    try:
        handles = [
            peer.start(tasks.work_then_hang, reports, f"w{number}", fault.state, list(fault.leaves), **terms)
            for number in range(WORKERS)
        ]
    except Lacks:
        report(reports, "lacks")
        return
    report(reports, "host")
    sys.stdin.readline()
    if fault.strikes == "end":
        for handle in handles:
            handle.outcome(30)
        peer.close()
        report(reports, "closed")
    sys.stdin.readline()


# --- the judge ---


def probe(pool: str, name: str) -> tuple[str, list[str]]:
    """Have one cell done; return what is to stand in it, and who was left."""
    fault, mark = FAULTS[name], f"PROBE_{secrets.token_hex(8)}"
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        meeting = Rendezvous(Path(folder))
        stack.callback(meeting.close)
        output = stack.enter_context(open(Path(folder, "output"), "wb"))
        host = subprocess.Popen(
            [sys.executable, __file__, "--host", pool, name, meeting.path],
            env={**os.environ, mark: "1", "PYTHONPATH": os.pathsep.join([str(HERE.parents[1]), str(HERE.parent)])},
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        row = read_row(host.pid)
        assert row is not None  # it is ours, and not reaped
        leader = Leader(row.pid, row.start)
        everybody: list[Handle] = []  # by hand: some have no trace of us, and some pools' workers rename themselves
        try:
            return _judge(fault, host, meeting, stack, everybody)
        except (AssertionError, OSError) as error:
            return "error", [str(error), Path(folder, "output").read_text("utf-8", errors="replace")[-2000:]]
        finally:
            host.kill()
            host.wait()
            assert host.stdin is not None
            host.stdin.close()
            for handle in everybody:
                handle.send(signal.SIGKILL)
            # As the pools do, resource trackers last: what they have not unlinked would stay in /dev/shm.
            TreeEnding([leader], f"{mark}=".encode(), lambda *_: False).run()


def _judge(
    fault: Fault,
    host: subprocess.Popen[bytes],
    meeting: Rendezvous,
    stack: contextlib.ExitStack,
    held: list[Handle],
) -> tuple[str, list[str]]:
    _wait_for_any(meeting, ("host", "lacks"))
    if meeting.find("lacks"):
        return "-", []
    workers = [f"w{number}" for number in range(WORKERS)]
    labels = [f"{worker}{part}" for worker in workers for part in ("", *(f".{kind}" for kind in fault.leaves))]
    everybody = hold(meeting.pids(labels, within=20), stack)
    held += everybody.values()
    struck = everybody if fault.strikes != "worker" else _of("w0", everybody)
    began = _strike(fault, host, meeting, everybody)
    left = _wait_until_gone(host, struck, began + PATIENCE + (LIMIT if fault.strikes == "limit" else 0))
    took = (time.monotonic() - began) * 1e3
    if left:
        return f"{len(left)} of {len(struck)} left", left
    if fault.strikes == "limit":
        return "nothing", []  # when its time began is the pool's own business
    return f"nothing, {max(1, round(took)):,} ms", []


def _strike(fault: Fault, host: subprocess.Popen[bytes], meeting: Rendezvous, everybody: dict[str, Handle]) -> float:
    """Do it; return from when time is taken."""
    assert host.stdin is not None
    began = time.monotonic()
    if fault.strikes == "host":
        os.kill(host.pid, fault.signal)
    elif fault.strikes == "worker":
        everybody["w0"].send(fault.signal)
    elif fault.strikes == "end":
        host.stdin.write(b"\n")
        host.stdin.flush()
        meeting.expect("closed", within=30)
    return began


def _of(worker: str, everybody: dict[str, Handle]) -> dict[str, Handle]:
    return {label: handle for label, handle in everybody.items() if label.partition(".")[0] == worker}


def _wait_for_any(meeting: Rendezvous, labels: Iterable[str]) -> None:
    give_up = time.monotonic() + 30
    while not any(meeting.find(label) for label in labels):
        assert time.monotonic() < give_up, f"no report of {labels}"
        time.sleep(0.01)


def _wait_until_gone(host: subprocess.Popen[bytes], handles: dict[str, Handle], deadline: float) -> list[str]:
    """Return the labels of those that are still there at the deadline, or nothing as soon as nobody is."""
    while left := [label for label, handle in handles.items() if handle.alive()]:
        host.poll()  # reaps it: some pools' workers ask whether its number is still there
        if time.monotonic() > deadline:
            return left
        time.sleep(0.0005)
    return []


def print_matrix(cells: dict[tuple[str, str], str], faults: list[str], pools: list[str]) -> None:
    """Print what stands in the document."""
    print(f"| fault | {' | '.join(pools)} |\n|{'---|' * (len(pools) + 1)}")
    for name in faults:
        print(f"| {name} | {' | '.join(cells[name, pool] for pool in pools)} |")


def main() -> None:
    """Probe what was asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--fault", help="only faults whose name has this text in it", default="")
    parser.add_argument("--peer", help="only this pool", choices=_POOLS, action="append")
    parser.add_argument("--verbose", help="show who was left", action="store_true")
    parser.add_argument("--json", help="write the cells there, too", type=Path)
    parser.add_argument("--host", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.host:
        run_host(*options.host)
        return
    pools = options.peer or _POOLS
    names = [name for name in FAULTS if options.fault in name]
    cells: dict[tuple[str, str], str] = {}
    for name in names:
        for pool in pools:
            cells[name, pool], details = probe(pool, name)
            if options.verbose:
                print(name, pool, cells[name, pool], *details, sep="\n    ", file=sys.stderr, flush=True)
    print_matrix(cells, names, pools)
    if options.json:
        rows = [{"fault": name, "pool": pool, "cell": cell} for (name, pool), cell in cells.items()]
        options.json.write_text(json.dumps(rows, indent=1), "utf-8")


if __name__ == "__main__":
    main()
