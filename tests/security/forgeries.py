"""What a task can write to the channel, the ring and the record of its worker; found as a debugger would find them."""

from __future__ import annotations

import gc
import os
import pickle
import socket
import struct
import time
from array import array
from collections.abc import Callable
from typing import Any

from contract.gate import pass_gate
from safepool._worker.framing import FrameReader, Kind, header

__all__ = ["ANSWERS", "FOREIGN", "IGNORED", "RECORDS"]

_HEADER = struct.Struct("=HBBQQdd")
_PICKLED = pickle.dumps("forged")
_FAR = 2**64 - 1


class Inside:
    """The worker's own end of things."""

    def __init__(self) -> None:
        server: Any = next(thing for thing in gc.get_objects() if type(thing).__name__ == "_Server")
        self.channel: socket.socket = server._channel
        self.record: Any = server._record
        self.ring: Any = server._ring
        self.own = int(self.record._number[0])

    def send(self, content: bytes) -> None:
        self.channel.sendall(content)

    def answer(self, kind: Kind, content: bytes, begun: float = 0.0, elapsed: float = 0.0) -> None:
        self.send(header(kind, self.own, len(content), begun, elapsed) + content)

    def send_fds(self, content: bytes, *fds: int) -> None:
        self.channel.sendmsg([content], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", fds).tobytes())])

    def leave(self, content: bytes) -> None:
        """Leave something in the ring, whether or not the host is awake; and have it look."""
        start = self.ring._written[0] % self.ring.size
        self.ring._data[start : start + len(content)] = content
        self.ring._written[0] += len(content)
        self.nudge()

    def nudge(self) -> None:
        self.send(header(Kind.NUDGE, 0, 0))


def forge_and_hang(name: str) -> None:
    FOREIGN[name](Inside())
    time.sleep(600)
    raise AssertionError("nobody minded")


def forge_answer_and_wait(family: str, number: int, folder: str) -> None:
    """Answer for oneself, and go on; the true answer comes later, to a task that is none any more."""
    list(ANSWERS[family].values())[number](Inside())
    pass_gate(folder, None)


def forge(name: str, others: int) -> str:
    IGNORED[name](Inside(), others)
    return f"forged: {name}"


def forge_then_wait(name: str, folder: str) -> None:
    """Go on, so that the worker has something to do; say last that it is unfit, which shows that all was read."""
    inside = Inside()
    IGNORED[name](inside, 1000)
    IGNORED["unfit"](inside, 0)
    pass_gate(folder, None)


def answer_without_tickets() -> None:
    """Answer everything that comes from here on, and take no ticket for any of it."""
    inside = Inside()
    inside.answer(Kind.PLAIN_RESULT, _PICKLED)
    reader = FrameReader()
    while piece := inside.channel.recv(1 << 16):
        for frame in reader.feed(piece):
            inside.send(header(Kind.PLAIN_RESULT, frame.task, len(_PICKLED)) + _PICKLED)


def forge_record_and_hang(words: tuple[str, ...]) -> None:
    """Say something else about when this task began, again and again."""
    inside = Inside()
    while True:
        for word in words:
            RECORDS[word](inside.record)


# --- what no worker sends: it is ended ---


def _leave_everything(inside: Inside) -> None:
    inside.ring._written[0] = _FAR
    inside.nudge()


def _leave_far_away(inside: Inside) -> None:
    """The words of both sides are memory of both."""
    inside.ring._data[:4096] = b"x" * 4096
    inside.ring._read[0] = 1 << 63
    inside.ring._written[0] = (1 << 63) + 4096
    inside.nudge()


FOREIGN: dict[str, Callable[[Inside], None]] = {
    "text": lambda inside: inside.send(b"Traceback (most recent call last):\n" * 4),
    "no kind": lambda inside: inside.send(_HEADER.pack(0x5AFE, 0, 0, inside.own, 0, 0.0, 0.0)),
    "unknown kind": lambda inside: inside.send(_HEADER.pack(0x5AFE, 255, 0, inside.own, 0, 0.0, 0.0)),
    "padding": lambda inside: inside.send(_HEADER.pack(0x5AFE, Kind.RESULT, 1, inside.own, 0, 0.0, 0.0)),
    "largest length": lambda inside: inside.send(header(Kind.RESULT, inside.own, _FAR)),
    "length beyond any memory": lambda inside: inside.send(header(Kind.RESULT, inside.own, 1 << 60)),
    "frame, then text": lambda inside: inside.send(header(Kind.READY, 0, 0) + b"text that is longer than a header is"),
    "text in the ring": lambda inside: inside.leave(b"text that is longer than a header is"),
    "length beyond the ring": lambda inside: inside.leave(header(Kind.RESULT, inside.own, inside.ring.size + 1)),
    "far end of the ring": _leave_everything,
    "other side of the ring": _leave_far_away,
    "end of the channel": lambda inside: inside.channel.shutdown(socket.SHUT_RDWR),
}

# --- answers to the task's own number: its own outcome, and nobody else's ---


def _timed(begun: float, elapsed: float) -> Callable[[Inside], None]:
    return lambda inside: inside.answer(Kind.PLAIN_RESULT, _PICKLED, begun, elapsed)


def _of_kind(kind: Kind, content: bytes) -> Callable[[Inside], None]:
    return lambda inside: inside.answer(kind, content)


_CONTENTS = {
    "nothing": b"",
    "junk": b"\xffjunk" * 40,
    "cut pickle": pickle.dumps("forged" * 20)[:-9],
    "pickle of another shape": pickle.dumps((1, 2)),
    "four wrong things": pickle.dumps((1, 2, 3, 4)),
    "class that is not there": b"\x80\x04\x8c\x07nowhere\x8c\x04Name\x93.",
    "numbers beyond everything": struct.pack("=QQ", _FAR, _FAR) + b"\xff" * 64,
}
_ANSWERING = (Kind.RESULT, Kind.PLAIN_RESULT, Kind.RAISED, Kind.LENT_RESULT)
ANSWERS: dict[str, dict[str, Callable[[Inside], None]]] = {
    **{kind.name: {name: _of_kind(kind, content) for name, content in _CONTENTS.items()} for kind in _ANSWERING},
    "kinds that are no answers": {
        kind.name: _of_kind(kind, b"\xff" * 24) for kind in Kind if kind not in (*_ANSWERING, Kind.PARTED)
    },
    "times": {str(seconds): _timed(seconds, seconds) for seconds in map(float, ("nan", "inf", "-inf", "1e300"))},
}

# --- what means nothing: the task goes on ---


def _answer_others(inside: Inside, others: int) -> None:
    """Answer every task but one's own, the one of the neighbour among them."""
    for first in range(1, others + 5000, 100):
        numbers = [number for number in range(first, first + 100) if number != inside.own]
        inside.send(b"".join(header(Kind.PLAIN_RESULT, number, len(_PICKLED)) + _PICKLED for number in numbers))


def _send_back(inside: Inside, others: int) -> None:
    """Say of oneself and of everybody that they will not be run here."""
    for number in (inside.own, *range(1, others + 100), 1 << 32, _FAR):
        inside.send(header(Kind.PARTED, number, 0))


def _note(kind: Kind, *numbers: int) -> bytes:
    content = array("Q", numbers).tobytes()
    return header(kind, 0, len(content)) + content


def _send_strange_notes(inside: Inside, _others: int) -> None:
    for kind in (Kind.SEGMENT, Kind.RETURN, Kind.FORGET, Kind.SPOILT):
        for numbers in ((), (0,), (_FAR,), tuple(range(1000)), (1, _FAR, 1), (1, 2**40, 1)):
            inside.send(_note(kind, *numbers))
        inside.send(header(kind, 0, 7) + b"seven!!")


def _send_descriptors(inside: Inside, _others: int) -> None:
    for _ in range(1000):
        inside.send_fds(header(Kind.NUDGE, 0, 0), 0, 0, 0)


def _lend_too_much(inside: Inside, _others: int) -> None:
    """A thousand segments, of a mebibyte that nobody has written to."""
    for number in range(1000):
        fd = _sealed(1 << 20)
        inside.send_fds(_note(Kind.SEGMENT, number, 1 << 20, os.fstat(fd).st_ino), fd)
        os.close(fd)


def _lend_more_than_there_is(inside: Inside, _others: int) -> None:
    """As much address space as a process has, in a few pieces."""
    for number, shift in enumerate((46, 45, 44, 43, 42)):
        fd = _sealed(1 << shift)
        inside.send_fds(_note(Kind.SEGMENT, number, 1 << shift, os.fstat(fd).st_ino), fd)
        os.close(fd)


def _lend_what_can_be_cut_off(inside: Inside, _others: int) -> None:
    fd = os.memfd_create("not-sealed")
    os.ftruncate(fd, 1 << 20)
    inside.send_fds(_note(Kind.SEGMENT, 77, 1 << 20, os.fstat(fd).st_ino), fd)
    os.ftruncate(fd, 0)
    os.close(fd)


def _sealed(size: int) -> int:
    import fcntl

    fd = os.memfd_create("hostile", os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, size)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
    return fd


IGNORED: dict[str, Callable[[Inside, int], None]] = {
    "ready again": lambda inside, _: inside.send(header(Kind.READY, 0, 0) * 1000),
    "unfit": lambda inside, _: inside.send(header(Kind.UNFIT, 0, 4) + b"junk"),
    "nudges": lambda inside, _: inside.send(header(Kind.NUDGE, 0, 0) * 10_000),
    "orders": lambda inside, _: inside.send(b"".join(header(Kind(kind), 0, 4) + b"junk" for kind in (1, 2, 3, 9, 11))),
    "answers to nobody": lambda inside, _: inside.send((header(Kind.RESULT, 0, 4) + b"junk") * 1000),
    "answers to others": _answer_others,
    "items that come back": _send_back,
    "notes": _send_strange_notes,
    "descriptors": _send_descriptors,
    "a thousand segments": _lend_too_much,
    "segments beyond any memory": _lend_more_than_there_is,
    "segment that can be cut off": _lend_what_can_be_cut_off,
}

# --- the record ---


def _instant(value: float) -> Callable[[Any], None]:
    return lambda record: record._instant.__setitem__(0, value)


RECORDS: dict[str, Callable[[Any], None]] = {
    "nan": _instant(float("nan")),
    "inf": _instant(float("inf")),
    "far": _instant(1e300),
    "past": _instant(-1e300),
    "now": lambda record: record._instant.__setitem__(0, time.monotonic()),
    "nobody": lambda record: record._number.__setitem__(0, 0),
    "another": lambda record: record._number.__setitem__(0, _FAR),
}
