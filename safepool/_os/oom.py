"""Has the kernel's OOM killer been active in our control group?

A hint, never a proof: the count is of the whole group, not of one process.

Facts: cgroup v2 counts in ``memory.events`` (line ``oom_kill``), v1 in ``memory.oom_control`` (the same word), both
in the directory that /proc/self/cgroup names below the mount point of the controller.
"""

from __future__ import annotations

__all__ = ["oom_kill_count"]

_ROOTS = {"0": "/sys/fs/cgroup{path}/memory.events", "memory": "/sys/fs/cgroup/memory{path}/memory.oom_control"}


def oom_kill_count() -> int | None:
    """Return how many processes of our control group the OOM killer has ended so far, or None if unreadable."""
    for file_path in _candidates():
        try:
            with open(file_path, encoding="ascii") as file:
                counts = dict(line.split() for line in file)
        except (OSError, ValueError):
            continue
        if "oom_kill" in counts:
            return int(counts["oom_kill"])
    return None


def _candidates() -> list[str]:
    try:
        with open("/proc/self/cgroup", encoding="utf-8") as file:
            lines = [line.rstrip("\n").split(":", 2) for line in file]
    except (OSError, ValueError):
        return []
    found = []
    for hierarchy, controllers, path in lines:
        key = "0" if hierarchy == "0" else controllers
        if key in _ROOTS:
            inside = "" if path == "/" else path
            found.append(_ROOTS[key].format(path=inside))
            found.append(_ROOTS[key].format(path=""))  # inside a container the group is mounted as the root
    return found
