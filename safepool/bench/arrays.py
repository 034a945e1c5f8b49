"""Arrays to send: NumPy's where it is installed, else the standard library's."""

from __future__ import annotations

import array
import importlib
import importlib.util
from typing import Any

__all__ = ["kind", "make"]

_ITEM = 8  # bytes


def kind() -> str:
    """Return the name of the arrays' type."""
    return "numpy.ndarray" if importlib.util.find_spec("numpy") else "array.array"


def make(size: int) -> Any:
    """Return an array of so many bytes."""
    if kind() == "numpy.ndarray":
        return importlib.import_module("numpy").ones(size // _ITEM)
    return array.array("d", bytes(size))
