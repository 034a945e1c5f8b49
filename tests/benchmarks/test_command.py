"""``python -m safepool bench``: what it writes where, and how it refuses."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from safepool.bench.report import BEGIN, END
from safepool.cli import main
from support.refusals import is_refused_in_one_line

QUICK = ["bench", "--cases", "submit", "--peers", "stdlib,safepool", "--scale", "tiny", "--workers", "1"]


def test_results_go_into_every_file_that_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [tmp_path / name for name in ("figures.json", "figures.md", "figures.svg", "document.md")]
    files[3].write_text(f"# Title\n{BEGIN}{END}\n", "utf-8")
    options = ["--json", "--markdown", "--plot", "--write"]
    pairs = [word for option, file in zip(options, files, strict=True) for word in (option, str(file))]

    assert main([*QUICK, *pairs]) == 0

    found = json.loads(files[0].read_text("utf-8"))
    assert [one["peer"] for one in found["measurements"]] == ["safepool", "stdlib"]
    assert "| submit and gather no-ops | tasks/s |" in files[1].read_text("utf-8")
    assert ET.fromstring(files[2].read_text("utf-8")).tag.endswith("svg")
    assert re.search(r"# Title\n.*\(document\.svg\).*\| submit", files[3].read_text("utf-8"), re.DOTALL)
    assert (tmp_path / "document.svg").exists()
    shown = capsys.readouterr()
    assert shown.out == ""
    assert len(shown.err.splitlines()) == 2  # one for each measurement


def test_tables_go_to_standard_output_of_the_module() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "safepool", *QUICK], capture_output=True, text=True, check=False, timeout=50
    )

    assert done.returncode == 0, done.stderr
    assert "| submit and gather no-ops | tasks/s |" in done.stdout


def test_results_that_were_kept_are_shown_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept, first, second = (tmp_path / name for name in ("kept.json", "first.md", "second.md"))
    assert main([*QUICK, "--json", str(kept), "--markdown", str(first)]) == 0

    assert main(["bench", "--show", str(kept), "--markdown", str(second)]) == 0

    assert second.read_text("utf-8") == first.read_text("utf-8")


def test_interrupted_run_shows_what_it_has(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(_: str, arguments: dict[str, object], __: float) -> dict[str, object]:
        if arguments["peer"] == "stdlib":
            os.kill(os.getpid(), signal.SIGTERM)
        return {"figures": {"rate": 1234.0}}

    monkeypatch.setattr("safepool.bench.run.call_in_host", interrupted)

    assert main(QUICK) == 0

    shown = capsys.readouterr()
    assert "| 1,230 | - |" in shown.out
    assert shown.err.endswith("interrupted\n")
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_list_shows_cases_and_pools(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--list"]) == 0

    assert re.fullmatch(r"cases: submit, .*\npools: safepool, stdlib, .*\n", capsys.readouterr().out)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "COMMAND"),
        (["no-such-command"], "no-such-command"),
        (["bench", "--cases", "submit,nothing"], "no such case: nothing"),
        (["bench", "--cases", ""], "no such case: ''"),
        (["bench", "--peers", ""], "no such pool: ''"),
        (["bench", "--show", "/no/such/file"], "cannot show /no/such/file"),
        (["bench", "--show", __file__], "cannot show"),
        (["bench", "--peers", "nobody"], "no such pool: nobody"),
        (["bench", "--repeat", "0"], "0 is not between 1 and"),
        (["bench", "--repeat", "many"], "invalid _count value: 'many'"),
        (["bench", "--workers", "-1"], "-1 is not between"),
        (["bench", "--scale", "huge"], "huge"),
        (["bench", "--json", "/no/such/folder/file"], "cannot write /no/such/folder/file"),
        (["bench", "--write", "/no/such/document"], "cannot renew /no/such/document"),
        (["bench", "--write", __file__], "no <!-- figures: begin -->"),
    ],
)
def test_wrong_input_is_refused_in_one_line(
    arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    is_refused_in_one_line(arguments, complaint, capsys)


def test_pool_that_is_not_installed_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("safepool.bench.peers.installed", lambda: ["safepool"])

    with pytest.raises(SystemExit):
        main(["bench", "--peers", "safepool,ray"])

    assert capsys.readouterr().err == "safepool bench: not installed: ray\n"
