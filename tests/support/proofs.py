"""That the fault really happened, seen from outside. Each waits until it can be seen, or fails the test."""

from __future__ import annotations

import re
import signal
import struct
from pathlib import Path

from support import census
from support.eventually import eventually

__all__ = ["count_in", "new_counter", "prove"]

_TICKS = 5  # of processor time, 10 ms each: long enough for a free GIL to be handed over ten times


def new_counter(directory: Path, name: str) -> str:
    """A file in which another process counts: a thread of a worker (its heartbeat), or a chain of forks."""
    path = directory / f"counter-{name}"
    path.write_bytes(bytes(8))
    path.chmod(0o666)  # whoever counts may be another user
    return str(path)


def count_in(counter: str) -> int:
    """How far it has got."""
    (count,) = struct.unpack("q", Path(counter).read_bytes())
    return int(count)


def prove(kind: str, pid: int, heartbeat: str) -> None:
    """Prove that the worker is in the state that this kind of hang stands for."""
    _PROOFS[kind](pid, heartbeat)


def _holds_the_gil(pid: int, heartbeat: str) -> None:
    """It burns processor time, and meanwhile no other thread of it advances."""
    assert count_in(heartbeat) > 0, "the heartbeat never started, so its standing still proves nothing"
    eventually(lambda: not _beats_while_busy(pid, heartbeat), within=60)
    eventually(lambda: _state(pid) == "R", within=30)


def _runs_python(pid: int, heartbeat: str) -> None:
    """It burns processor time, and its other threads get their turn: the counterpart that shows the proof works."""
    eventually(lambda: _beats_while_busy(pid, heartbeat), within=60)


def _is_stopped(pid: int, heartbeat: str) -> None:
    eventually(lambda: _state(pid) == "T", within=30)


def _is_deaf(pid: int, heartbeat: str) -> None:
    """Blocked, ignored, or both: nothing but SIGKILL and SIGSTOP gets through."""
    wanted = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGIO, signal.SIGUSR1, signal.SIGUSR2)
    mask = sum(1 << (signum - 1) for signum in wanted)
    eventually(lambda: _mask(pid, "SigBlk") & _mask(pid, "SigIgn") & mask == mask, within=30)
    eventually(lambda: _state(pid) == "R", within=30)


def _is_idle(pid: int, heartbeat: str) -> None:
    eventually(lambda: _state(pid) == "S", within=30)


def _beats_while_busy(pid: int, heartbeat: str) -> bool:
    before, ticks = count_in(heartbeat), _ticks(pid)
    eventually(lambda: _ticks(pid) >= ticks + _TICKS, within=60)
    return count_in(heartbeat) > before


def _ticks(pid: int) -> int:
    seen = census.look_at(pid)
    assert seen is not None, f"{pid} is gone"
    return seen.ticks


def _state(pid: int) -> str:
    seen = census.look_at(pid)
    return seen.state if seen is not None else "gone"


def _mask(pid: int, name: str) -> int:
    found = re.search(rf"^{name}:\s*(\w+)", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1], 16)


_PROOFS = {
    "idle": _is_idle,
    "loop": _runs_python,
    "c": _holds_the_gil,
    "regex": _holds_the_gil,
    "stopped": _is_stopped,
    "deaf": _is_deaf,
}
