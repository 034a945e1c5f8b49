"""What a process's command line says of its part: does it clean up after others, is it a janitor, or a guardian?

Nothing that can be seen of one is out of reach for a task that wants to pass for it. So what is gained by that has an
end: to be no leftover as long as the worker lives, and a grace when its tree is ended.
"""

from __future__ import annotations

__all__ = ["NO_COMMAND", "host_of_janitor", "is_attendant", "is_cleaner", "variable_of_guardian"]

NO_COMMAND = "(a process without a command line)"  # in the middle of an exec, for instance
_JANITOR = "safepool._os.janitor_main import main"  # its host's number and start time are the first arguments
_GUARDIAN = "safepool._os.guardian_main import main"  # the second argument is its worker's marker
_CLEANERS = ("resource_tracker import main", "torch_shm_manager")


def is_cleaner(command: str) -> bool:
    """Return True for a process that cleans up after others, and leaves by itself when the last of them is gone."""
    return any(cleaner in command for cleaner in _CLEANERS)


def is_attendant(command: str) -> bool:
    """Return True for one that is no task's work: it cleans up, or is the janitor of a pool that a task has made.

    Either attends its worker as long as that lives, and leaves after it. A guardian is none: others are beneath it.
    """
    return is_cleaner(command) or _JANITOR in command


def host_of_janitor(command: str) -> tuple[int, int] | None:
    """Return whose janitor this is, by number and start time, as its command line says; None if it is none."""
    first, second = _arguments_of(_JANITOR, command)
    return (int(first), int(second)) if first.isdecimal() and second.isdecimal() else None


def variable_of_guardian(command: str) -> str:
    """Return what its worker carries (``marker``), name and value, as its command line says; nothing if it is none."""
    return _arguments_of(_GUARDIAN, command)[1].strip("'")


def _arguments_of(program: str, command: str) -> tuple[str, str]:
    """Return the first two arguments with which a program of ours was started; nothing if this is not that one."""
    first, _, rest = command.partition(f"{program}; main(")[2].partition(", ")
    return first, rest.partition(", ")[0]
