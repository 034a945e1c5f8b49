"""Run a program without some feature of the kernel: a seccomp filter has a call fail, for it and its children.

    python masked.py NAME COMMAND...

What a filter cannot do is to look at memory; numbers of calls, and arguments that are numbers, are enough for these.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
import sys
from typing import NamedTuple

__all__ = ["FEATURES", "is_possible"]

_NUMBERS = {
    "x86_64": {
        "fcntl": 72,
        "ioctl": 16,
        "kcmp": 312,
        "memfd_create": 319,
        "sendmsg": 46,
        "setsid": 112,
        "mkdir": 83,
        "prctl": 157,
    },
    "aarch64": {
        "fcntl": 25,
        "ioctl": 29,
        "kcmp": 272,
        "memfd_create": 279,
        "sendmsg": 211,
        "setsid": 157,
        "mkdir": 34,  # mkdirat, there is no other
        "prctl": 167,
    },
}
_EVERYWHERE = {"pidfd_send_signal": 424, "pidfd_open": 434}

_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _FILTER = 38, 22, 2
_LOAD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_ARGUMENTS = 16  # where they begin, eight bytes each


class Feature(NamedTuple):
    call: str
    error: int
    argument: int | None = None  # only where this one
    equals: int = 0  # is that; or is not, with ``unless``
    unless: bool = False


FEATURES = {
    "pidfd_open": Feature("pidfd_open", errno.ENOSYS),
    "PIDFD_GET_INFO": Feature("ioctl", errno.ENOTTY, 1, 0xC040FF0B),
    "PIDFD_SIGNAL_PROCESS_GROUP": Feature("pidfd_send_signal", errno.EINVAL, 3, 0, unless=True),
    "F_SETSIG": Feature("fcntl", errno.EINVAL, 1, 10),
    "F_SETSIG, heeded": Feature("fcntl", 0, 1, 10),  # it says that it is done, and does nothing
    "memfd_create": Feature("memfd_create", errno.ENOSYS),
    "kcmp": Feature("kcmp", errno.EPERM),
    "sendmsg": Feature("sendmsg", errno.EPERM),
    "mkdir": Feature("mkdir", errno.EROFS),
    "subreaper": Feature("prctl", errno.EPERM, 0, 36),
}


def is_possible() -> bool:
    return platform.machine() in _NUMBERS and os.path.exists("/proc/sys/kernel/seccomp")


def mask(feature: Feature) -> None:
    """Install the filter, for good."""
    number = {**_NUMBERS[platform.machine()], **_EVERYWHERE}[feature.call]
    program = [(_LOAD, 0, 0, 0)]  # the number of the call
    if feature.argument is None:
        program += [(_JUMP_IF_EQUAL, 0, 1, number)]
    else:
        condition = (1, 0) if feature.unless else (0, 1)
        program += [
            (_JUMP_IF_EQUAL, 0, 3, number),
            (_LOAD, 0, 0, _ARGUMENTS + 8 * feature.argument),
            (_JUMP_IF_EQUAL, *condition, feature.equals),
        ]
    program += [(_RETURN, 0, 0, _ERRNO | feature.error), (_RETURN, 0, 0, _ALLOW)]
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *instruction) for instruction in program))
    described = struct.pack("@HP", len(program), ctypes.addressof(code))
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    if prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or prctl(_PR_SET_SECCOMP, _FILTER, described, 0, 0):
        raise OSError(ctypes.get_errno(), "no filter can be installed")


if __name__ == "__main__":
    mask(FEATURES[sys.argv[1]])
    os.execvp(sys.argv[2], sys.argv[2:])
