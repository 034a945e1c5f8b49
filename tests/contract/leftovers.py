"""The check that nothing is left behind, for a whole module: here pools are shared among its tests."""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Iterator
from multiprocessing import resource_tracker

import pytest

from contract.patience import eventually
from support import census
from support.handles import end_all


@pytest.fixture(scope="module", autouse=True)
def nothing_left_behind(warmed_up: None) -> Iterator[None]:
    """Compare processes, threads and descriptors after the module with those before; set up before its pools."""
    from safepool._os.marker import host_marker

    resource_tracker.ensure_running()  # it stays for good, with a descriptor
    before = _Belongings(host_marker())
    yield
    gc.collect()
    try:
        eventually(before.are_all, otherwise=before.what_came)
    except AssertionError:
        end_all(host_marker())
        raise


class _Belongings:
    """What this process has at one moment."""

    def __init__(self, marker: str) -> None:
        self._marker = marker
        self._threads = set(threading.enumerate())
        self._files = census.open_files()
        self._processes = self._find_processes()

    def are_all(self) -> bool:
        """Say whether nothing has come since."""
        return not self.what_came()

    def what_came(self) -> list[object]:
        """List what has come since; the processes last, since they take the longest to look through."""
        came: list[object] = list(set(threading.enumerate()) - self._threads)
        files = census.open_files()
        if len(files) > len(self._files):
            came += [(fd, target) for fd, target in files.items() if target not in self._files.values()]
        return came or list(self._find_processes() - self._processes)

    def _find_processes(self) -> set[int]:
        """Find children, reaped or not, and whatever carries the marker of this host's workers."""
        every = [census.look_at(int(name)) for name in os.listdir("/proc") if name.isdigit()]
        return {seen.pid for seen in every if seen is not None and self._is_ours(seen)}

    def _is_ours(self, seen: census.Seen) -> bool:
        if seen.ppid == os.getpid():
            return True
        return seen.state not in {"Z", "X"} and f"\0{self._marker}".encode() in b"\0" + census.environment_of(seen.pid)
