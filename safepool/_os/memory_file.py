"""A file without a name, for what several processes are to read or map; gone with its last descriptor and mapping.

Facts: a memfd that is sealed cannot be made smaller by who else has it, which would be the end of whoever reads there
(SIGBUS; memfd_create(2)). Without memfds (``features``) it is a file without a name in the folder of temporary files
(O_TMPFILE, or unlinked at once); no seal keeps a task from cutting that off. Its room is reserved, since a full disk
would be noticed by SIGBUS, too.
"""

from __future__ import annotations

import fcntl
import os

from safepool._os.features import has

__all__ = ["new_memory_file"]


def new_memory_file(name: str, size: int = 0) -> int:
    """Return a close-on-exec descriptor of a new file of so many bytes, which may grow and, if sealed, not shrink.

    Args:
        name: What it is called where descriptors are listed.
        size: Bytes, all zero.

    Raises:
        OSError: There is no descriptor, no memory, or no room.
    """
    if not has("memfd"):
        return _new_temporary_file(size)
    fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(fd, size)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _new_temporary_file(size: int) -> int:
    import tempfile  # lazily: few need it

    with tempfile.TemporaryFile(buffering=0) as file:
        if size:
            os.posix_fallocate(file.fileno(), 0, size)
        return os.dup(file.fileno())
