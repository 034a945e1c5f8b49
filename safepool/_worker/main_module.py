"""Can workers import the host's ``__main__``, or would that run the program again?

A guarded script, and one that has only definitions, is imported in workers as spawn does. A script that does its work
at the top level would start pools in its own workers; what it defines travels by value instead. Seen by parsing it,
never by running it.
"""

from __future__ import annotations

import io
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    import ast
    from typing import Any

__all__ = ["import_script", "may_be_imported"]

_GUARDS = (b'\nif __name__ == "__main__":', b"\nif __name__ == '__main__':")


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
            source = file.read()
        if _shows_guard(source):
            return True
        import ast

        tree = ast.parse(source)
    except (OSError, SyntaxError, ValueError):  # compiled, or from an archive
        return True
    return any(_is_guard(node) for node in tree.body) or all(_only_defines(node) for node in tree.body)


def _shows_guard(source: bytes) -> bool:
    """Return True if the usual guard stands there, and the program goes on from it as from a line of its own.

    To parse all of a program of 200 lines takes 4 ms, ``import ast`` included, before its first worker can be started.
    In a string of several lines the same text is no guard; from there on, that string's end would be one too many.
    """
    at = max(source.rfind(guard) for guard in _GUARDS)
    if at < 0:
        return False
    from _ast import PyCF_ONLY_AST  # no more than syntax: a compiler warns of more, and the program has been warned

    try:
        compile(source[at + 1 :], "<guard>", "exec", PyCF_ONLY_AST, dont_inherit=True)
    except (SyntaxError, ValueError):
        return False
    return True


def _is_guard(node: ast.stmt) -> bool:
    """Return True for ``if __name__ == "__main__":``, either way round, alone or in a larger condition."""
    import ast

    if not isinstance(node, ast.If):
        return False
    compared = [part for test in ast.walk(node.test) if isinstance(test, ast.Compare) for part in ast.walk(test)]
    names = any(isinstance(part, ast.Name) and part.id == "__name__" for part in compared)
    return names and any(isinstance(part, ast.Constant) and part.value == "__main__" for part in compared)


def _only_defines(node: ast.stmt) -> bool:
    import ast

    if isinstance(node, ast.Assign | ast.AnnAssign):
        return not any(isinstance(part, ast.Call) for part in ast.walk(node))
    if isinstance(node, ast.If | ast.Try):  # ``if TYPE_CHECKING``, ``try: import``
        return all(_only_defines(child) for child in ast.iter_child_nodes(node) if isinstance(child, ast.stmt))
    definitions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom, ast.Pass)
    return isinstance(node, definitions) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))


def import_script(path: str) -> None:
    """In the worker: import the host's script as ``__main__``, the way multiprocessing's spawn does.

    Spawn has ``runpy`` look whether the path is an archive or a folder, for which that imports ``pkgutil`` and, from
    Python 3.11 on, ``typing``: 5 ms, a fifth of what a worker takes to come up. A source file needs none of that.
    """
    from multiprocessing import spawn

    source = _read_source(path)
    if source is None:
        spawn.import_main_path(path)
        return
    current = sys.modules["__main__"]
    if os.path.basename(path) == "ipython.py" or getattr(current, "__file__", None) == path:
        return  # spawn leaves the one alone, and has nothing to do for the other
    import runpy
    from types import ModuleType

    spawn.old_main_modules.append(current)
    main = ModuleType("__mp_main__")
    code = compile(source, path, "exec", dont_inherit=True)
    main.__dict__.update(runpy._run_module_code(code, None, "__mp_main__", None, "", path))  # type: ignore[attr-defined]
    sys.modules["__main__"] = sys.modules["__mp_main__"] = main


def _read_source(path: str) -> bytes | None:
    """Return what stands in a Python source file; None for anything else, and for what cannot be read."""
    if not path.endswith(".py"):
        return None
    try:
        with io.open_code(path) as file:
            source = file.read()
    except OSError:
        return None
    return None if b"\0" in source else source
