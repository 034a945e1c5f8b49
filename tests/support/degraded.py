"""Hosts that have to do without some mechanism: what is masked, what is missed then, and how to look."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable

from support.descendants import ESCAPING, KINDS
from support.handles import Handle, gone
from support.hosts import Host
from support.scenes import hang_everywhere, labels_of, strike, workers_of

__all__ = ["EVERYTHING", "MASKS", "degraded", "ends", "host_dies_without", "missed_without", "worker_ends_without"]

EVERYTHING = "setsig,pidfd,pidfd_group,pidfd_info,proc,memfd,cgroup"
MASKS = ("setsig", "pidfd", "pidfd_group,pidfd_info", "proc", "memfd", "setsig,pidfd", "setsig,proc", EVERYTHING)


def degraded(make_host: Callable[..., Host], mask: str, **options: object) -> Host:
    return make_host(environment={"SAFEPOOL_DISABLE": mask}, **options)


def missed_without(mask: str) -> tuple[str, ...]:
    """Which kinds of descendant outlive the end of their tree: nobody knows of them but /proc."""
    return ESCAPING if "proc" in mask.split(",") else ()


def ends(everybody: dict[str, Handle], missed: Iterable[str]) -> None:
    """All of them are gone, but for just those of these kinds, which are ended here."""
    kinds = set(missed)
    left = {name: everybody.pop(name) for name in list(everybody) if name.rpartition(".")[2] in kinds}
    gone(everybody)
    dead = [name for name, handle in left.items() if not handle.alive()]
    assert not dead, f"documented as missed, but ended: {dead}"
    for handle in left.values():
        handle.send(signal.SIGKILL)
    gone(left)


def host_dies_without(make_host: Callable[..., Host], mask: str, kind: str) -> None:
    """A host without these is SIGKILLed while its workers hang: what is missed is what is documented."""
    host = degraded(make_host, mask, max_workers=2)
    canary = host.canary()
    host.open_pool()
    everybody = hang_everywhere(host, kind)

    strike(host, "SIGKILL")

    ends(everybody, missed_without(mask))
    assert host.finish() == -signal.SIGKILL
    host.leaves_nothing()
    assert canary.alive()


def worker_ends_without(make_host: Callable[..., Host], mask: str, how: str) -> None:
    """A worker dies, or is ended, in a host without these; the pool goes on, and so does another worker's task."""
    host = degraded(make_host, mask, max_workers=2)
    gates = {name: host.gate(name) for name in ("victim", "neighbour")}
    host.open_pool()
    host.submit("neighbour", "work_then_wait", host.rendezvous.path, "neighbour", gates["neighbour"].path)
    host.rendezvous.expect("neighbour")
    arguments = (host.rendezvous.path, "victim")
    if how in ("kill", "exit"):
        host.submit("victim", "work_then_die", *arguments, gates["victim"].path, how, KINDS)
    else:
        host.submit("victim", "work_then_hang", *arguments, "c", KINDS, timeout=3.0)
    everybody = host.hold_reported(labels_of("victim"))
    if how in ("kill", "exit"):
        gates["victim"].open(1)

    outcome = host.outcome("victim")

    assert outcome["pid"] == everybody["victim"].pid
    if how == "deadline":
        assert outcome["error"] == "TaskTimeoutError"
    else:
        assert (outcome["error"], outcome["exitcode"]) == ("WorkerDiedError", 3 if how == "exit" else -signal.SIGKILL)
    ends(everybody, missed_without(mask))
    host.submit("next", "square", 7)
    assert host.outcome("next") == {"value": 49}
    gates["neighbour"].open(1)
    assert host.outcome("neighbour") == {"value": host.rendezvous.expect("neighbour").pid}
    host.tell("shutdown", kill=True)
    host.rendezvous.expect("shutdown")
    assert not workers_of(host)
    host.tell("return")
    assert host.finish() == 0
    host.leaves_nothing()
