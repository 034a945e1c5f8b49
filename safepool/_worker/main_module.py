"""Can workers import the host's ``__main__``, or would that run the program again?

A guarded script, and one that has only definitions, is imported in workers as spawn does. A script that does its work
at the top level would start pools in its own workers; what it defines travels by value instead. Seen by parsing it,
never by running it.
"""

from __future__ import annotations

import ast
import os
import sys
from typing import Any

__all__ = ["may_be_imported"]

_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom, ast.Pass)


def may_be_imported(facts: dict[str, Any]) -> bool:
    """Return True if a worker that is prepared with these facts (of multiprocessing's spawn) can import ``__main__``.

    False for an interactive session, ``python -c``, standard input, ``package/__main__.py`` (which spawn leaves
    alone), and a script that does its work at the top level.
    """
    name = facts.get("init_main_from_name")
    if name is not None:
        origin = getattr(getattr(sys.modules["__main__"], "__spec__", None), "origin", None)
        return not name.endswith("__main__") and _is_harmless(origin)
    path = facts.get("init_main_from_path")
    return path is not None and os.path.isfile(path) and _is_harmless(path)


def _is_harmless(path: str | None) -> bool:
    """Return True if running the file as a module does no work, or if that cannot be told: spawn would run it, too."""
    try:
        with open(path or "", "rb") as file:
            tree = ast.parse(file.read())
    except (OSError, SyntaxError, ValueError):  # compiled, or from an archive
        return True
    return any(_is_guard(node) for node in tree.body) or all(_only_defines(node) for node in tree.body)


def _is_guard(node: ast.stmt) -> bool:
    """Return True for ``if __name__ == "__main__":``, either way round, alone or in a larger condition."""
    if not isinstance(node, ast.If):
        return False
    compared = [part for test in ast.walk(node.test) if isinstance(test, ast.Compare) for part in ast.walk(test)]
    names = any(isinstance(part, ast.Name) and part.id == "__name__" for part in compared)
    return names and any(isinstance(part, ast.Constant) and part.value == "__main__" for part in compared)


def _only_defines(node: ast.stmt) -> bool:
    if isinstance(node, ast.Assign | ast.AnnAssign):
        return not any(isinstance(part, ast.Call) for part in ast.walk(node))
    if isinstance(node, ast.If | ast.Try):  # ``if TYPE_CHECKING``, ``try: import``
        return all(_only_defines(child) for child in ast.iter_child_nodes(node) if isinstance(child, ast.stmt))
    return isinstance(node, _DEFINITIONS) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))
