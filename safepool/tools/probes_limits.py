"""Probes of what the kernel needs to hold strict workers to limits of memory and CPU time: two controllers.

In the doctor's own process, as a pool does it: it may have to move aside, and a program that it had started would find
it in the way, a stranger. The janitor puts back what is left to be, whatever happens to the doctor.
"""

from __future__ import annotations

from collections.abc import Callable

from safepool._os.control_group import ControlGroup, house_of_this_process, new_group
from safepool._os.controllers import controller_for_a_while
from safepool._os.janitor import janitor
from safepool.tools.probe import LIMITS, MISSING, OK, Finding, Probe

__all__ = ["PROBES"]

_MEMORY = 64 << 20  # bytes
_CPUS = 0.5


def _memory_limit() -> Finding:
    def limit(group: ControlGroup) -> Finding:
        if not group.limit_memory(_MEMORY):
            return Finding(MISSING, "the kernel takes no limit of memory for a group")
        return Finding(OK, f"made a group with the memory controller, and limited it to {_MEMORY >> 20} MiB")

    return _in_a_group("memory", limit)


def _cpu_limit() -> Finding:
    def limit(group: ControlGroup) -> Finding:
        group.limit_cpu(_CPUS)
        return Finding(OK, f"made a group with the cpu controller, and limited it to {_CPUS:g} CPUs")

    return _in_a_group("cpu", limit)


def _in_a_group(controller: str, limit: Callable[[ControlGroup], Finding]) -> Finding:
    janitor().note_house(house_of_this_process())
    janitor().ensure()  # first: it undoes the rest in the end, whenever that comes
    with controller_for_a_while(controller):
        group = new_group(f"doctor-{controller}")
        try:
            return limit(group)
        finally:
            group.remove()


_REMEDY = (
    "a control group of version 2 that has the {} controller and no process but the program's own: systemd-run --user"
    " --scope -p Delegate=yes COMMAND; docker run --cgroupns=private with /sys/fs/cgroup writable"
)

PROBES = [
    Probe(
        "memory-limit",
        LIMITS,
        _memory_limit,
        'memory_limit is looked at ten times a second with containment="strict", too, and can be exceeded for as long',
        _REMEDY.format("memory"),
    ),
    Probe(
        "cpu-limit",
        LIMITS,
        _cpu_limit,
        "cpu_limit is refused",
        _REMEDY.format("cpu"),
    ),
]
