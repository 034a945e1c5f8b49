"""How a decorated function is pickled: its module and name lead to the decorator's function, not to itself."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from operator import attrgetter
from typing import Any

__all__ = ["Undecorated"]


class Undecorated:
    """Stands for the function beneath a decorator; pickles to where the decorated one can be found."""

    def __init__(self, module: str, name: str) -> None:
        self._module = module
        self._name = name
        self._function: Callable[..., Any] | None = None
        self.__qualname__ = name  # what messages call it by

    @classmethod
    def of(cls, decorated: Callable[..., Any]) -> Undecorated | None:
        """Return what stands for it, or None if it cannot be found by its name."""
        module, name = decorated.__module__, decorated.__qualname__
        found: Any = sys.modules.get(module)
        for part in name.split("."):
            found = getattr(found, part, None)
        return cls(module, name) if found is decorated else None

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        """Call the function itself."""
        if self._function is None:
            decorated = attrgetter(self._name)(importlib.import_module(self._module))
            self._function = decorated.__wrapped__
        return self._function(*args, **kwargs)

    def __reduce__(self) -> tuple[type[Undecorated], tuple[str, str]]:
        return Undecorated, (self._module, self._name)  # without the function, which its own name does not lead to

    def __repr__(self) -> str:
        return f"{self._module}.{self._name}"
