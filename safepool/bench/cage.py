"""Run a measurement's host, and let nothing of it live on.

The host has a session of its own and a marker in its environment. When it has ended, or its time is up, everything
that is in the session, carries the marker or descends from such is given a moment to leave by itself, as resource
trackers do, and is then ended, each process held by a pidfd from before it is looked at again.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from typing import Any

import safepool
from safepool._os.process_exit import has_ended, open_pidfd, send_signal
from safepool.bench.observe import Watch, members, new_marker

__all__ = ["HostFailed", "call_in_host", "start_host"]

_ROOT = os.path.dirname(os.path.dirname(os.path.abspath(safepool.__file__)))  # the safepool that is being measured
_TO_LEAVE = 1.0  # seconds
_TO_DIE = 10.0
_ROUNDS = 10
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
        try:
            in_time = _wait(host, within)
        finally:
            _end(host, marker)
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


def _end(host: subprocess.Popen[bytes], marker: str) -> None:
    """End the host if it runs, and everything that is left of it."""
    if host.poll() is None:
        host.kill()
        host.wait()
    until = time.monotonic() + _TO_LEAVE
    while left := members(marker, host.pid):
        with Watch(left) as watch:
            if left := watch.wait(max(0.0, until - time.monotonic())):
                break
    for _ in range(_ROUNDS):
        if not (left := members(marker, host.pid)):
            return
        _kill(left, marker, host.pid)


def _kill(pids: set[int], marker: str, session: int) -> None:
    pidfds = {pid: pidfd for pid in pids if (pidfd := open_pidfd(pid)) is not None}
    confirmed = members(marker, session)  # a number may have changed hands between the first look and the pidfd
    for pid, pidfd in pidfds.items():
        if pid in confirmed:
            send_signal(pidfd, signal.SIGKILL)
            has_ended(pidfd, _TO_DIE)
        os.close(pidfd)


def _text(file: Any) -> str:
    file.seek(0)
    return str(file.read().decode(errors="replace")).strip()
