"""Start a contained process from a multiprocessing process object, as spawn does, but never blocking on the child.

The child reads its program (preparation data and the process object) from a memory file that is complete before
the child exists: a child that dies while starting, or is slow to, holds nobody up.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing import context, get_start_method, popen_spawn_posix, resource_tracker, set_start_method, spawn
from multiprocessing.process import ORIGINAL_DIR, BaseProcess  # type: ignore[attr-defined]  # typeshed omits it
from multiprocessing.reduction import ForkingPickler
from typing import Any

from safepool._os.bare import PACKAGE_ROOT
from safepool._os.contained import ContainedProcess, StrictBy
from safepool._os.contained import spawn as spawn_contained
from safepool._os.memory_file import new_memory_file
from safepool._worker import payload
from safepool._worker.main_module import may_be_imported

__all__ = ["Preparation", "SpawnWindow", "launch", "spawn_window"]

# Nothing comes from the current directory, which may be anybody's: ``-c`` puts it first on the path, where only ``sys``
# is not looked for. The package is the host's, whatever other copy the path has; with what it imports ahead of it, and
# its root last afterwards, since that may be site-packages, where a module can have the name of a standard one.
_STUB = (
    "import sys; sys.path[:] = filter(None, sys.path); import __future__; "
    "sys.path.insert(0, {root!r}); import safepool; sys.path.append(sys.path.pop(0)); "
    "from safepool._worker.boot import main; main(*{fds}, host={host})"
)


# From Python 3.13 on, the interpreter imports ``linecache`` for a ``-c``, before that can say where not to look for it.
_LOOKS_HERE_FIRST = sys.version_info >= (3, 13)
_start_method = threading.RLock()


class SpawnWindow:
    """Stands for the process to be while something meant for it is pickled: locks and connections insist on one."""

    DupFd = popen_spawn_posix._DupFd  # what its Popen uses

    def __init__(self) -> None:
        self.fds: list[int] = []

    def duplicate_for_child(self, fd: int) -> int:
        """Have the child inherit this descriptor under the same number."""
        self.fds.append(fd)
        return fd


@contextlib.contextmanager
def spawn_window() -> Iterator[SpawnWindow]:
    """Within this block, whatever may only be pickled for a process that is being started can be pickled."""
    window = SpawnWindow()
    context.set_spawning_popen(window)  # type: ignore[arg-type]  # it has what is asked of a Popen here
    try:
        yield window
    finally:
        context.set_spawning_popen(None)


class Preparation:
    """What a worker must know of its host before anything else: ``__main__``, sys.path, argv, directory."""

    def __init__(self) -> None:
        spawn._check_not_importing_main()  # type: ignore[attr-defined]  # the error for unguarded scripts
        with _start_method:
            chosen = get_start_method(allow_none=True)
            try:
                self._facts: dict[str, Any] = spawn.get_preparation_data("")
            finally:
                if chosen is None:  # the call above fixes the program's start method, which is not ours to do
                    set_start_method(None, force=True)
        self._facts["start_method"] = "spawn"  # never "loky": children of the child would not know it
        self.imports_main = may_be_imported(self._facts)
        if not self.imports_main:
            self._facts.pop("init_main_from_name", None)
            self._facts.pop("init_main_from_path", None)

    def current(self, name: str) -> dict[str, Any]:
        """Return the facts as they are now, for a process of this name."""
        facts = {**self._facts, "name": name}
        try:
            facts["dir"] = os.getcwd()
        except FileNotFoundError:  # it was removed: nobody can go there, but the child is born there
            del facts["dir"]
        # Under ``""`` the host has imported from where it was at first, which is all that spawn tells a child, and from
        # where it is now.
        here = [entry for entry in dict.fromkeys([ORIGINAL_DIR, facts.get("dir")]) if entry is not None]
        facts["sys_path"] = [entry for given in sys.path for entry in (here if given == "" else [given])]
        return facts


def launch(
    process: BaseProcess,
    preparation: Preparation,
    environment: Mapping[str, str],
    pass_fds: Sequence[int] = (),
    *,
    strict_by: StrictBy | None = None,
    spares_detached: bool = False,
) -> ContainedProcess:
    """Start a contained process that runs this process object; the last two arguments as of ``contained.spawn``.

    Raises:
        OSError: It could not be started.
        Exception: What pickling the process object raised.
    """
    with spawn_window() as window:
        program = io.BytesIO()
        ForkingPickler(program).dump(preparation.current(process.name))
        program.write(payload.dumps(process) if preparation.imports_main else payload.dumps_by_value(process))
    tracker_fd = resource_tracker.getfd()
    assert tracker_fd is not None  # it has just been made sure of
    program_fd = new_memory_file("safepool-program")
    try:
        with open(program_fd, "wb", closefd=False) as file:
            file.write(program.getvalue())
        os.lseek(program_fd, 0, os.SEEK_SET)  # the child shares our position

        given = (program_fd, tracker_fd, *window.fds, *pass_fds)

        def command(lifeline: int, switch: int) -> list[str | bytes]:
            return _command_line(_STUB.format(root=PACKAGE_ROOT, fds=(lifeline, switch, *given), host=os.getpid()))

        return spawn_contained(command, environment, given, strict_by=strict_by, spares_detached=spares_detached)
    finally:
        os.close(program_fd)


def _command_line(stub: str) -> list[str | bytes]:
    line: list[str | bytes] = list(spawn.get_command_line())
    try:
        stub_at = line.index("-c", 1)  # behind the executable, which is bytes: ``-bb`` forbids the comparison
    except ValueError:
        raise NotImplementedError("safepool cannot start workers from a frozen executable") from None
    line[stub_at + 1] = stub
    # Spawn repeats a few of the -X options; the limit of digits, the place of bytecode, the program's own count, too.
    options = [name if value is True else f"{name}={value}" for name, value in sys._xoptions.items()]
    line[stub_at:stub_at] = [part for option in options if option not in line[1:] for part in ("-X", option)]
    if _LOOKS_HERE_FIRST and "-P" not in line[1:]:
        line.insert(stub_at, "-P")
    return line
