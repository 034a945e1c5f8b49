"""What cannot hold where ``SAFEPOOL_DISABLE`` takes a mechanism away, and why: those tests are left out there.

All else of ``executor``, ``contract`` and ``containment`` is run by ``tox -e degraded``. What exactly is missed
is shown by ``containment/test_degraded.py`` and ``torture/test_degraded.py``.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet

__all__ = ["EXCEPTIONS", "reason_to_leave_out"]

_ESCAPES = "what has left its worker's group is not found without /proc"
_CONFIRMED = "that more than the worker itself is gone is not confirmed without /proc"
_GRACE = "who outlives the worker is not known without /proc, and has nothing of its grace"
_DYING = "that a worker is on its way to its death is not known without /proc"
_STRICT = "there is no strict containment without control groups or, for a guardian, /proc, pidfds and F_SETSIG"
_LIMITS = "limits of memory are refused without /proc, and the kernel's without control groups"

# By test, or file of tests: the mechanism, and why.
EXCEPTIONS = {
    "executor/test_deadlines.py::test_timeout_ends_what_the_task_started_and_lists_it": ("proc", _ESCAPES),
    "executor/test_grace.py::test_grace_lets_a_task_write_its_last_word": ("proc", _GRACE),
    "executor/test_killing.py::test_kill_ends_what_the_task_started": ("proc", _ESCAPES),
    "executor/test_killing.py::test_shutdown_kill_has_ended_everything_when_it_returns": ("proc", _ESCAPES),
    "executor/test_worker_death.py::test_worker_death_ends_what_the_task_started": ("proc", _ESCAPES),
    "executor/test_worker_death.py::test_worker_that_takes_its_time_to_die_has_not_closed_its_channel": (
        "proc",
        _DYING,
    ),
    "containment/test_host_killed.py::test_host_that_dies_takes_everything_along": ("proc", _ESCAPES),
    "containment/test_host_settings.py::test_children_of_the_host_keep_their_exit_codes": ("proc", _ESCAPES),
    "containment/test_host_settings.py::test_settings_of_the_host_are_unchanged_by_a_pool_that_ran_and_killed": (
        "proc",
        _ESCAPES,
    ),
    "containment/test_janitor_killed.py::test_killed_janitor_is_replaced_and_the_new_one_sweeps": ("proc", _ESCAPES),
    "containment/test_worker_killed.py::test_deadline_ends_a_task_with_its_descendants": ("proc", _ESCAPES),
    "containment/test_worker_killed.py::test_descendants_that_keep_every_descriptor_do_not_delay_the_notice": (
        "proc",
        _CONFIRMED,
    ),
    "containment/test_worker_killed.py::test_killed_worker_takes_its_descendants_and_no_other_task": ("proc", _ESCAPES),
    "containment/test_worker_killed.py::test_shutdown_with_kill_ends_running_tasks_with_their_descendants": (
        "proc",
        _ESCAPES,
    ),
    "containment/test_strict.py": ("proc", _STRICT),
    "containment/test_guardian.py": ("proc", _STRICT),
    "containment/test_limits_by_kernel.py": ("proc", _LIMITS),
    "containment/test_detached.py": ("proc", _ESCAPES),
}


def reason_to_leave_out(test: str, disabled: AbstractSet[str]) -> str | None:
    """Why this test (file and name, without parameters) is left out where these are taken away; None if it is not."""
    mechanism, reason = EXCEPTIONS.get(test) or EXCEPTIONS.get(test.partition("::")[0], ("", ""))
    return reason if mechanism in disabled else None
