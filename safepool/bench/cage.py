"""Run a measurement's host, and let nothing of it live on.

The host has a session of its own and a marker in its environment. When it has ended, or its time is up, everything
that is in the session, carries the marker or descends from such is given a moment to leave by itself, and is then ended
as the pools end their trees: resource trackers last, since what they have not unlinked would stay in /dev/shm for good.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from typing import Any

import safepool
from safepool._os.process_table import read_row
from safepool._os.process_tree import Leader, TreeEnding
from safepool.bench.observe import Watch, members, new_marker

__all__ = ["HostFailed", "call_in_host", "start_host"]

_ROOT = os.path.dirname(os.path.dirname(os.path.abspath(safepool.__file__)))  # the safepool that is being measured
_TO_LEAVE = 1.0  # seconds
_SHOWN = 300  # characters


class HostFailed(Exception):  # noqa: N818  a finding, which is shown in the table
    """A host ended without a result, or not in time."""


def start_host(call: dict[str, Any], **files: Any) -> subprocess.Popen[bytes]:
    """Start an interpreter that makes this call: ``{"function": "module:name", "arguments": {...}}``.

    It runs in the folder that holds the package, which ``-m`` puts at the head of its path: what is measured is this
    safepool, and not another that is installed as well.
    """
    command = [sys.executable, "-m", "safepool.bench.host", json.dumps(call)]
    return subprocess.Popen(command, cwd=_ROOT, stdin=subprocess.DEVNULL, start_new_session=True, **files)


def call_in_host(function: str, arguments: dict[str, Any], within: float) -> dict[str, Any]:
    """Have a fresh interpreter call ``module:function``; return what that returned.

    Raises:
        HostFailed: It raised, died, or took longer than ``within`` seconds.
    """
    marker = new_marker()
    # Files, not pipes: whoever is left behind would hold a pipe open.
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        call = {"function": function, "arguments": arguments}
        host = start_host(call, stdout=out, stderr=err, env={**os.environ, marker: "1"})
        row = read_row(host.pid)
        assert row is not None  # it is ours, and not reaped
        leader = Leader(row.pid, row.start)
        try:
            in_time = _wait(host, within)
        finally:
            _end(host, leader, marker)
        answer, complaint = _text(out), _text(err)
    if not in_time:
        raise HostFailed(f"not done after {within:g} s")
    if not answer:
        raise HostFailed(f"ended with {host.returncode}: {complaint.rpartition(chr(10))[2][:_SHOWN]}")
    result: dict[str, Any] = json.loads(answer.splitlines()[-1])
    return result


def _wait(host: subprocess.Popen[bytes], within: float) -> bool:
    try:
        host.wait(within)
    except subprocess.TimeoutExpired:
        return False
    return True


def _end(host: subprocess.Popen[bytes], leader: Leader, marker: str) -> None:
    """End the host if it runs, and everything that is left of it; those who clean up after others last."""
    if host.poll() is None:
        host.kill()
        host.wait()
    until = time.monotonic() + _TO_LEAVE
    while left := members(marker, host.pid):
        with Watch(left) as watch:
            if watch.wait(max(0.0, until - time.monotonic())):
                break
    TreeEnding([leader], f"{marker}=".encode(), lambda *_: False).run()


def _text(file: Any) -> str:
    file.seek(0)
    return str(file.read().decode(errors="replace")).strip()
