"""May workers import this script? Seen without running it, and for the usual script without parsing all of it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from safepool._worker.main_module import may_be_imported

WORK = "print('work')\n"
GUARD = 'if __name__ == "__main__":\n    print("guarded")\n'


def verdict(tmp_path: Path, source: str | bytes) -> bool:
    path = tmp_path / "program.py"
    path.write_bytes(source.encode() if isinstance(source, str) else source)
    return may_be_imported({"init_main_from_path": str(path)})


@pytest.mark.parametrize(
    "source",
    [
        WORK + GUARD,
        WORK + GUARD.replace('"', "'"),
        WORK + GUARD + "more = 1\n",
        (WORK + GUARD).replace("\n", "\r\n"),
        GUARD,  # on the first line
        WORK + "if __name__=='__main__':\n    pass\n",  # seen by parsing alone, as are the next four
        WORK + 'if "__main__" == __name__:\n    pass\n',
        WORK + 'if __name__ == "__main__" and True:\n    pass\n',
        b"# coding: latin-1\n" + WORK.encode() + GUARD.encode() + "    name = 'é'\n".encode("latin-1"),
        "def f(): pass\n",
        WORK + "nonsense(\n" + GUARD,  # it cannot be told: spawn would import it
    ],
)
def test_script_that_is_guarded_or_only_defines_may_be_imported(tmp_path: Path, source: str | bytes) -> None:
    assert verdict(tmp_path, source)


@pytest.mark.parametrize(
    "source",
    [
        WORK,
        f'TEXT = """\n{GUARD}"""\n{WORK}',
        f"TEXT = '''\n{GUARD}'''\n{WORK}",
        f'"""\n{GUARD}"""\n"""More."""\n{WORK}',
        f'"""One."""\nTEXT = """\n{GUARD}"""\n\'\'\'Three.\'\'\'\n{WORK}',
        WORK + "def f():\n    " + GUARD.replace("\n", "\n    ") + "\n",
        WORK + "# " + GUARD.replace("\n", "\n# ") + "\n",
    ],
)
def test_what_only_looks_like_a_guard_is_none(tmp_path: Path, source: str) -> None:
    assert not verdict(tmp_path, source)


def test_usual_script_is_judged_without_importing_a_parser(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ast", None)
    assert verdict(tmp_path, WORK + GUARD)
    with pytest.raises(ImportError):
        verdict(tmp_path, WORK)


@pytest.mark.filterwarnings("error")
def test_judging_a_script_warns_of_nothing_that_running_it_has_warned_of(tmp_path: Path) -> None:
    assert verdict(tmp_path, WORK + GUARD + "    print(1 is 1)\n    assert (1, 'always')\n")
