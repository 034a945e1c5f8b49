"""``safepool ps --watch`` at a terminal: with rich one picture that is kept up to date, without it the plain one."""

from __future__ import annotations

import fcntl
import os
import re
import select
import shlex
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support.descendants import KINDS
from support.eventually import eventually
from support.hosts import Host, Program
from support.scenes import hang_everywhere, labels_of
from support.shells import CTRL_C, CTRL_Z, Person

pytestmark = pytest.mark.timeout(120)

WATCH = [sys.executable, "-m", "safepool", "ps", "--watch"]
OTHER_SCREEN, FIRST_SCREEN = "\x1b[?1049h", "\x1b[?1049l"
HIDE, SHOW = "\x1b[?25l", "\x1b[?25h"
STOPPED = "[1]+  Stopped"  # as bash says it, and no picture


class Screen:
    """A terminal, and what has come to it."""

    def __init__(self, terminal: dict[str, int], lines: int, columns: int) -> None:
        self._ours, self.theirs = terminal["ours"], terminal["theirs"]
        self.shown = ""
        self.resize(lines, columns)

    def resize(self, lines: int, columns: int) -> None:
        fcntl.ioctl(self._ours, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def modes(self) -> list[object]:
        return termios.tcgetattr(self.theirs)

    def sees(self, text: str, *, within: float = 60.0) -> str:
        """Wait until a text comes; return all that came up to it, since the last time."""
        deadline = time.monotonic() + within
        while text not in self.shown:
            assert time.monotonic() < deadline, f"{text!r} did not come; on the screen: {self.shown[-3000:]!r}"
            self.read(0.1)
        seen, _, self.shown = self.shown.partition(text)
        return seen + text

    def read(self, within: float = 0.0) -> str:
        while select.select([self._ours], [], [], within)[0]:
            self.shown += os.read(self._ours, 1 << 16).decode(errors="replace")
            within = 0.0
        return self.shown


@pytest.fixture
def screen(terminal: dict[str, int]) -> Screen:
    return Screen(terminal, 40, 150)


@pytest.fixture
def tall_screen(screen: Screen) -> Screen:
    """With room for the pools of other tests, too; it must be read from without a pause, a picture being long."""
    screen.resize(400, 150)
    return screen


@pytest.fixture
def watch(screen: Screen) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Start the command on the terminal, as the leader of a session that has it."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*options: str, **variables: str) -> subprocess.Popen[bytes]:
        environment = {**os.environ, "TERM": "xterm-256color", **variables}
        for name in ("COLUMNS", "LINES", "NO_COLOR"):
            environment.pop(name, None)
        on_terminal = (
            "import fcntl, os, sys, termios\nfcntl.ioctl(0, termios.TIOCSCTTY, 0)\nos.execvp(sys.argv[1], sys.argv[1:])"
        )
        started.append(
            subprocess.Popen(
                [sys.executable, "-c", on_terminal, *WATCH, *options],
                stdin=screen.theirs,
                stdout=screen.theirs,
                stderr=screen.theirs,
                env=environment,
                start_new_session=True,
            )
        )
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


@pytest.fixture
def rich() -> None:
    pytest.importorskip("rich")


def plain(text: str) -> str:
    """Without what moves the cursor and colours."""
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text)


def seen_below(lines: list[str]) -> list[str]:
    """Lines of what is beneath a worker."""
    return [line for line in lines if re.match(r" {4,}\d+ ", line)]


def test_workers_are_shown_with_their_tasks_and_what_is_beneath_them(
    rich: None, make_host: Callable[..., Host], tall_screen: Screen, watch: Callable[..., subprocess.Popen[bytes]]
) -> None:
    host = make_host(max_workers=1, task_timeout=500)
    host.open_pool()
    everybody = hang_everywhere(host, "loop", workers=1)
    watch("--tree")
    tall_screen.sees(OTHER_SCREEN)
    tall_screen.sees(f"host {host.process.pid}: ")
    picture = plain(tall_screen.sees("\x1b[H"))  # up to the next one
    seen = re.split(r"^host ", picture, flags=re.MULTILINE)[0].splitlines()  # without the hosts of other tests
    worker = everybody["w0"].pid
    (line,) = (line for line in seen if line.strip().startswith(f"{worker} "))
    assert re.fullmatch(rf"  {worker} +busy +#1 +\S+ .* MiB +.* {len(seen_below(seen))}, .* MiB *", line), line
    for name in labels_of("w0")[1:]:
        assert any(shown.strip().startswith(f"{everybody[name].pid} ") for shown in seen_below(seen)), name


def test_picture_is_kept_up_to_date(
    rich: None, make_host: Callable[..., Host], tall_screen: Screen, watch: Callable[..., subprocess.Popen[bytes]]
) -> None:
    watch()
    tall_screen.sees("Ctrl-C to leave")
    host = make_host(max_workers=1)
    host.open_pool()
    hang_everywhere(host, "loop", workers=1, leave=())
    tall_screen.sees(f"host {host.process.pid}: ")


def test_picture_follows_the_size_of_the_terminal(
    rich: None, make_host: Callable[..., Host], screen: Screen, watch: Callable[..., subprocess.Popen[bytes]]
) -> None:
    host = make_host(max_workers=1)
    host.open_pool()
    hang_everywhere(host, "loop", workers=1, leave=KINDS)
    watch("--tree")
    screen.sees("BELOW")
    screen.resize(10, 40)
    screen.read()
    screen.shown = ""

    def fits() -> bool:
        """The last whole picture has no line that is longer than the terminal is wide, and no more than are shown."""
        pictures = screen.read(0.1).split("\x1b[H")[1:-1]
        lines = plain(pictures[-1]).splitlines() if pictures else []
        return bool(lines) and len(lines) <= 10 and max(map(len, lines)) <= 40

    eventually(fits, otherwise=lambda: repr(screen.shown[-2000:]))


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_terminal_is_left_as_it_was(
    rich: None, screen: Screen, watch: Callable[..., subprocess.Popen[bytes]], signum: signal.Signals
) -> None:
    before = screen.modes()
    watching = watch()
    shown = screen.sees("Ctrl-C to leave")
    assert OTHER_SCREEN in shown
    assert HIDE in shown
    if signum == signal.SIGINT:
        os.write(screen._ours, b"\x03")
    else:
        watching.send_signal(signum)

    assert watching.wait(30) == (0 if signum == signal.SIGINT else 128 + signum)

    rest = screen.read(0.1)
    assert FIRST_SCREEN in rest
    assert SHOW in rest
    assert "Traceback" not in rest
    assert screen.modes() == before


def test_name_of_a_process_commands_neither_the_terminal_nor_the_picture(
    rich: None, make_host: Callable[..., Host], tall_screen: Screen, watch: Callable[..., subprocess.Popen[bytes]]
) -> None:
    host = make_host(max_workers=1)
    host.open_pool()
    nasty = "[bold]x[/nonsense]\x1b]0;title\x07"
    host.submit("task", "run_command", ["sh", "-c", "sleep 900; :", nasty])
    watch("--tree")
    tall_screen.sees(f"host {host.process.pid}: ")
    tall_screen.sees("sleep 900; :")
    line, _, _ = tall_screen.sees("\x1b[H").partition("\n")
    assert "[bold]x[/nonsense]" in line
    assert "\x1b]0;" not in line


@pytest.mark.parametrize("why", ["not installed", "dumb terminal"])
def test_without_rich_the_plain_picture_is_drawn(
    screen: Screen, watch: Callable[..., subprocess.Popen[bytes]], tmp_path: Path, why: str
) -> None:
    variables = {"TERM": "dumb"}
    if why == "not installed":
        (tmp_path / "rich.py").write_text("raise ImportError('not here')")
        path = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
        variables = {"PYTHONPATH": path}
    watching = watch(**variables)
    shown = screen.sees("\x1b[J") + screen.sees("\x1b[J")
    assert shown.startswith("\x1b[H")
    assert OTHER_SCREEN not in shown
    os.write(screen._ours, b"\x03")
    assert watching.wait(30) == 0


def test_ctrl_z_gives_the_terminal_back_and_fg_takes_it_again(
    rich: None, make_program: Callable[[], Program], terminal: dict[str, int], screen: Screen
) -> None:
    person = Person(make_program(), terminal, "bash")
    before = screen.modes()
    person.runs(["env", "TERM=xterm-256color", *WATCH])
    for _ in range(2):
        assert OTHER_SCREEN in person.sees("Ctrl-C to leave", within=60)
        person.presses(CTRL_Z)
        shown = person.is_asked(within=60)
        assert shown.index(SHOW) < shown.index(FIRST_SCREEN) < shown.index(STOPPED), "the shell writes to another one"
        assert screen.modes() == before
        person.types("fg")
    person.sees("Ctrl-C to leave", within=60)
    person.presses(CTRL_C)
    person.is_asked(within=60)
    assert person.status() == 0


def test_watch_that_goes_on_in_the_background_waits_for_the_foreground(
    rich: None, make_program: Callable[[], Program], terminal: dict[str, int], screen: Screen
) -> None:
    """It would draw over what is there."""
    person = Person(make_program(), terminal, "bash")
    person.runs(["env", "TERM=xterm-256color", *WATCH])
    person.sees("Ctrl-C to leave", within=60)
    person.presses(CTRL_Z)
    assert STOPPED in person.is_asked(within=60)

    person.types("bg")
    shown = [person.is_asked()]

    def has_stopped_again() -> bool:
        person.types("")
        shown.append(person.is_asked())
        return STOPPED in "".join(shown)

    eventually(has_stopped_again)
    assert OTHER_SCREEN not in "".join(shown)
    person.types("fg")
    assert OTHER_SCREEN in person.sees("Ctrl-C to leave", within=60)


def test_watch_that_is_started_in_the_background_waits_for_the_foreground(
    rich: None, make_program: Callable[[], Program], terminal: dict[str, int], screen: Screen
) -> None:
    person = Person(make_program(), terminal, "bash")
    person.types("TERM=xterm-256color " + shlex.join(WATCH) + " &")
    shown = [person.is_asked()]

    def has_stopped() -> bool:
        person.types("")
        shown.append(person.is_asked())
        return STOPPED in "".join(shown)

    eventually(has_stopped, within=60)
    assert OTHER_SCREEN not in "".join(shown)
    person.types("fg")
    assert OTHER_SCREEN in person.sees("Ctrl-C to leave", within=60)
