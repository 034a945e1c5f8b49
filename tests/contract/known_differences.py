"""The complete list of what is different, by the name of the test that shows it.

Each of these tests asserts what safepool does. The standard library's executor is expected to fail it, strictly:
where it passes one day, the entry has to go.
"""

from __future__ import annotations

KNOWN_DIFFERENCES: dict[str, str] = {
    "test_worker_death_fails_only_its_own_task": (
        "The standard library's pool is broken for good when a worker dies; here one task fails."
    ),
    "test_pool_after_a_worker_death_takes_further_tasks": (
        "The standard library's pool is broken for good when a worker dies; here a fresh worker takes over."
    ),
    "test_submit_lambda_runs_it": "The standard library pickles functions by reference only.",
    "test_submit_closure_runs_it": "The standard library pickles functions by reference only.",
    "test_submit_not_callable_raises_type_error_at_once": (
        "The standard library finds out in the worker, and puts the TypeError on the future."
    ),
    "test_exception_that_cannot_be_rebuilt_leaves_the_pool_usable": (
        "The standard library's pool is broken for good by an exception whose class wants other arguments."
    ),
    "test_exception_that_cannot_be_pickled_arrives_as_text": (
        "The standard library replaces it by the pickling error, and what went wrong in the task is lost."
    ),
    "test_argument_that_breaks_in_the_worker_leaves_the_pool_usable": (
        "The standard library's worker ends when it cannot unpickle a call, and the pool with it."
    ),
    "test_result_that_breaks_in_the_host_leaves_the_pool_usable": (
        "The standard library's pool is broken for good by a result that cannot be unpickled."
    ),
    "test_as_completed_after_cancel_futures_yields_what_was_cancelled": (
        "The standard library never tells waiters of futures that shutdown(cancel_futures=True) cancelled."
    ),
}
