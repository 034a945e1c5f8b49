"""Where a host may find itself: among full file systems, as another user, before clocks that show something else.

Each is a command that becomes the host, and variables of its environment. All of them take root, and some a kernel that
lets root do it: so each is tried out before it is used, by a program that tells from inside whether it is so.
"""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path
from typing import NamedTuple

from torture.users import AS_A_USER, HIDDEN, USER

__all__ = ["SURROUNDINGS", "Surroundings", "can_be_had", "may_be_strict", "surround"]

# Full file systems in a mount namespace of the host's own: where shared memory and temporary files are made.
_FULL = """
for at in /dev/shm "$0"; do
    mount -t tmpfs -o size=4k none $at || exit 1
    head -c 100000 /dev/zero > $at/full
done
exec "$@"
"""
_YEAR = 31_536_000  # seconds
# Into a time namespace in which the clocks that cannot be set are a year ahead; nothing else in it, nor on the machine,
# is touched. The first program of such a namespace is usually a child; setns(2) takes one in that has a single thread.
_AHEAD = f"""
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
CLONE_NEWTIME = 0x80
assert libc.unshare(CLONE_NEWTIME) == 0, os.strerror(ctypes.get_errno())
with open("/proc/self/timens_offsets", "w") as file:
    file.write("monotonic {_YEAR} 0\\nboottime {_YEAR} 0\\n")
fd = os.open("/proc/self/ns/time_for_children", os.O_RDONLY)
assert libc.setns(fd, CLONE_NEWTIME) == 0, os.strerror(ctypes.get_errno())
os.execvp(sys.argv[1], sys.argv[1:])
"""
# The clock that can be set is the whole machine's. This is what one sees of its steps that asks Python for it: each
# answer is years before or behind the last one.
_STEPPING = """
import random, time
_dice, _time, _time_ns = random.Random(), time.time, time.time_ns
time.time = lambda: _time() + _dice.uniform(-1e8, 1e8)
time.time_ns = lambda: _time_ns() + _dice.randrange(-10**17, 10**17)
"""

# Each says "so" if it is so; it is given the number of the other user, and the monotonic time outside.
_PROOFS = {
    "plain": "print('so')",
    "full": """
        import errno, os
        for folder in ("/dev/shm", os.environ["TMPDIR"]):
            try:
                with open(f"{folder}/byte", "wb", buffering=0) as file:
                    file.write(b"x")
            except OSError as error:
                assert error.errno == errno.ENOSPC, error
            else:
                raise AssertionError(folder)
        print("so")
    """,
    "user": """
        import errno, os, resource, sys
        assert set(os.getresuid()) == {int(sys.argv[1])}, os.getresuid()
        assert os.path.exists("/proc/1")
        resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))
        try:
            os.fork()
        except BlockingIOError as error:
            assert error.errno == errno.EAGAIN, error
            print("so")
    """,
    "hidden": """
        import os, sys
        assert set(os.getresuid()) == {int(sys.argv[1])}, os.getresuid()
        assert not os.path.exists("/proc/1")
        print("so")
    """,
    "clocks": f"""
        import sys, time
        assert time.monotonic() - float(sys.argv[2]) > {_YEAR - 3600}
        assert max(time.time() for _ in range(20)) - min(time.time() for _ in range(20)) > {_YEAR // 100}
        print("so")
    """,
}
_STRICT = """
from safepool import SafeProcessPoolExecutor
if __name__ == "__main__":
    with SafeProcessPoolExecutor(1, containment="strict") as pool:
        print(pool.submit(str, "so").result())
"""

SURROUNDINGS = tuple(_PROOFS)


class Surroundings(NamedTuple):
    """How to get into them.

    Attributes:
        launcher: A command that becomes the one behind it.
        environment: Variables to be added.
    """

    launcher: list[str]
    environment: dict[str, str]


def surround(name: str, directory: Path) -> Surroundings:
    """Prepare them; what they need in files is made in the directory, which whoever runs in them may write to."""
    folder = directory / f"surroundings-{name}"
    folder.mkdir(exist_ok=True)
    if name == "full":
        return Surroundings(["unshare", "-m", "sh", "-c", _FULL, str(folder)], {"TMPDIR": str(folder)})
    if name == "clocks":
        (folder / "sitecustomize.py").write_text(_STEPPING, encoding="ascii")
        path = os.pathsep.join([str(folder), *(entry for entry in sys.path if entry)])
        return Surroundings([sys.executable, "-I", "-S", "-c", _AHEAD], {"PYTHONPATH": path})
    return Surroundings({"user": AS_A_USER, "hidden": HIDDEN}.get(name, []), {})


@functools.cache
def can_be_had(name: str) -> bool:
    """Return whether these can be had here, and are what they say."""
    return _says_so(name, _PROOFS[name])


@functools.cache
def may_be_strict(name: str) -> bool:
    """Return whether a pool in these can be had with strict containment."""
    return can_be_had(name) and _says_so(name, _STRICT)


def _says_so(name: str, program: str) -> bool:
    with tempfile.TemporaryDirectory(prefix="surroundings-") as directory:
        os.chmod(directory, 0o755)
        launcher, environment = surround(name, Path(directory))
        script = Path(directory) / "program.py"
        script.write_text(textwrap.dedent(program), encoding="ascii")
        path = os.pathsep.join(entry for entry in sys.path if entry)
        try:
            done = subprocess.run(
                [*launcher, sys.executable, str(script), str(USER), str(time.monotonic())],
                env={**os.environ, "PYTHONPATH": path, **environment},
                capture_output=True,
                text=True,
                check=False,
                timeout=60,
            )
        except FileNotFoundError:  # no unshare, no setpriv
            return False
    return done.stdout == "so\n"
