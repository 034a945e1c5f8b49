"""Situations that many tests start from: workers that hang, and what their tasks left behind."""

from __future__ import annotations

import signal
from collections.abc import Mapping, Sequence

from support import census
from support.descendants import KINDS
from support.eventually import eventually
from support.halves import guardian_of
from support.handles import Handle, gone
from support.hosts import Host
from support.proofs import new_counter, prove

__all__ = [
    "STATUS",
    "hang_everywhere",
    "hold_janitor",
    "host_dies",
    "labels_of",
    "stop_guardians",
    "strike",
    "workers_of",
]

# How a host ends by each death, as subprocess tells it.
STATUS = {
    "SIGKILL": -signal.SIGKILL,
    "SIGTERM": -signal.SIGTERM,
    "SIGHUP": -signal.SIGHUP,
    "segfault": -signal.SIGSEGV,
    "abort": -signal.SIGABRT,
    "exit": 4,
}


def labels_of(name: str, leave: Sequence[str] = KINDS) -> list[str]:
    """Who reports when the task ``name`` has left these descendants behind: they, and the task itself."""
    return [name, *(f"{name}.{kind}" for kind in leave)]


def hang_everywhere(
    host: Host, kind: str, *, workers: int = 2, leave: Sequence[str] = KINDS, timeout: float | None = None
) -> dict[str, Handle]:
    """Have every worker start descendants and then hang; prove that it does, and take hold of everybody."""
    names = [f"w{number}" for number in range(workers)]
    beats = {name: new_counter(host.directory, name) for name in names}
    for name in names:
        arguments = (host.rendezvous.path, name, kind, list(leave), beats[name])
        host.submit(name, "work_then_hang", *arguments, timeout=timeout)
    handles = host.hold_reported(label for name in names for label in labels_of(name, leave))
    for name in names:
        if kind == "idle":
            assert host.outcome(name) == {"value": name}
        prove(kind, handles[name].pid, beats[name])
    return handles


def hold_janitor(host: Host) -> Handle:
    """Take hold of the host's one janitor, once it is detached from the process that started it."""

    def settled() -> list[census.Seen]:
        found = [seen for seen in census.carrying(host.mark) if "janitor_main" in seen.command]
        return [seen for seen in found if seen.ppid != host.process.pid]

    found = eventually(settled)
    assert len(found) == 1, found
    return host.hold({"janitor": found[0].pid})["janitor"]


def stop_guardians(host: Host, everybody: Mapping[str, Handle]) -> dict[str, Handle]:
    """Stop the guardians of those who are workers, whose names have no dot in them; return the guardians."""
    workers = {name: handle.pid for name, handle in everybody.items() if "." not in name}
    guardians = host.hold({f"guardian of {name}": guardian_of(pid) for name, pid in workers.items()})
    for guardian in guardians.values():
        guardian.send(signal.SIGSTOP)
        eventually(lambda pid=guardian.pid: (seen := census.look_at(pid)) and seen.state == "T")
    return guardians


def workers_of(host: Host) -> list[census.Seen]:
    """Its workers, as soon as they are programs of their own."""
    return [seen for seen in census.children_of(host.process.pid) if "safepool._worker.boot" in seen.command]


def strike(host: Host, death: str) -> None:
    """Have the host die: of a signal from outside, or by its own hand."""
    if death.startswith("SIG"):
        host.send(signal.Signals[death])
    else:
        host.tell("die", how=death)


def host_dies(host: Host, kind: str, death: str) -> dict[str, float]:
    """Let a host die while its workers hang: everything it started goes with it, and its canary does not.

    Gives the milliseconds until each was gone.
    """
    canary = host.canary()
    host.open_pool()
    everybody = hang_everywhere(host, kind)

    strike(host, death)

    latencies = gone(everybody)
    if death == "exec":  # the process lives on under the same number; only its descriptors tell
        assert host.rendezvous.expect("reborn").pid == host.process.pid
        assert host.process.poll() is None
    else:
        assert host.finish() == STATUS[death]
    host.leaves_nothing()
    assert canary.alive()
    return latencies
