"""``@safepool.process``: each call of the function runs in a fresh contained process of its own."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, overload

from safepool._pool.door import check_callable, check_environment, check_seconds, check_terms
from safepool._worker.reference import Undecorated

if TYPE_CHECKING:
    from safepool._pool.future import SafeFuture

__all__ = ["process"]

P = ParamSpec("P")
T = TypeVar("T")


@overload
def process(fn: Callable[P, T], /) -> Callable[P, SafeFuture[T]]: ...
@overload
def process(
    *,
    timeout: float | None = ...,
    soft_timeout: float | None = ...,
    memory_limit: int | str | None = ...,
    grace: float = ...,
    retries: int = ...,
    env: Mapping[str, str] | None = ...,
) -> Callable[[Callable[P, T]], Callable[P, SafeFuture[T]]]: ...
def process(
    fn: Callable[..., Any] | None = None,
    /,
    *,
    timeout: float | None = None,
    soft_timeout: float | None = None,
    memory_limit: int | str | None = None,
    grace: float = 0.0,
    retries: int = 0,
    env: Mapping[str, str] | None = None,
) -> Any:
    """Have every call of a function run in a fresh process, contained as a pool's workers are.

    For calls that are rare and heavy: each pays for an interpreter of its own. A call returns at once, with a
    ``SafeFuture``: ask for its ``result()``, or ``await`` it. The function itself is the attribute ``__wrapped__``.

    ::

        @safepool.process(timeout=60, memory_limit="4GiB")
        def mesh(path): ...

        mesh("wing.step").result()
        await mesh("wing.step")

    Args:
        fn: The function, where the decorator is used without parentheses.
        timeout: As ``task_timeout`` of ``SafeProcessPoolExecutor``; so are the others.
        soft_timeout: Seconds after which the call is warned.
        memory_limit: Bytes that the call may hold with all that it starts.
        grace: Seconds between SIGTERM and the end, at the timeout.
        retries: How often the call is made again after its process died or its time was up.
        env: Environment variables of the process, in addition to ours.

    Raises:
        TypeError: An argument has the wrong type; the message names it.
        ValueError: An argument is out of range; the message names it.
    """
    check_terms(timeout=timeout, soft_timeout=soft_timeout, memory_limit=memory_limit, retries=retries)
    check_seconds("grace", grace, allow_zero=True)
    environment = check_environment("env", env)

    def decorate(fn: Callable[..., Any]) -> Callable[..., SafeFuture[Any]]:
        check_callable("fn", fn)

        @functools.wraps(fn)
        def call(*args: Any, **kwargs: Any) -> SafeFuture[Any]:
            from safepool._pool.executor import SafeProcessPoolExecutor  # lazily: workers import what is decorated

            pool = SafeProcessPoolExecutor(
                1,
                task_timeout=timeout,
                soft_timeout=soft_timeout,
                memory_limit=memory_limit,
                grace=grace,
                retries=retries,
                env=environment,
            )
            try:
                is_here_only = fn.__module__ == "__main__" and not pool._imports_main
                target = None if is_here_only else Undecorated.of(call)
                return pool.options().submit(target or fn, *args, **kwargs)  # every keyword is the function's
            finally:
                pool.shutdown(wait=False)

        return call

    return decorate if fn is None else decorate(fn)
