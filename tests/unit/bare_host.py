"""A host without a pool, in a process of its own, for what the floor below the pool does."""

from __future__ import annotations

import itertools
import signal

from support.handles import Handle
from support.hosts import Program
from support.scenes import hold_janitor

__all__ = ["BareHost"]

# It does what it is told on its standard input, and says when it is done.
_PROGRAM = """
import ctypes, os, subprocess, sys, time
from safepool._os.janitor import janitor
from safepool._os.marker import host_marker, next_worker_marker
from safepool._os.process_table import read_row
from safepool._os.process_tree import Leader
from support.rendezvous import report

reports = sys.argv[1]
SLEEPER = ["sh", "-c", 'echo "$1 $$" > "$2"; exec sleep 900', "sh"]
started = {}

def start(label, **variables):
    command = [*SLEEPER, label, reports]
    started[label] = subprocess.Popen(command, start_new_session=True, env={**os.environ, **variables})

def marked(label):
    start(label, **{next_worker_marker(): "1"})

def unmarked(label):
    start(label)

def of(marker, label):
    start(label, **{marker: "1"})

slots = {}

def enter(label):
    pid = started[label].pid
    slots[label] = janitor().enter(Leader(pid, read_row(pid).start))

def strike(label):
    janitor().strike(slots[label])

def ensure():
    janitor().ensure()

def fork(label, how):
    child = os.fork() if how == "python" else ctypes.PyDLL(None).fork()
    if not child:
        report(reports, label)
        time.sleep(900)
        os._exit(0)

def become():
    os.execv(sys.executable, [sys.executable, "-c", "import sys; sys.stdin.read()"])

for line in sys.stdin:
    number, command, *words = line.split()
    globals()[command](*words)
    report(reports, f"done.{number}")
"""


class BareHost:
    """A host under test, and how to tell it what to do."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self._numbers = itertools.count(1)
        program.run_text(_PROGRAM)

    def do(self, *words: str) -> None:
        """Have it do something, and wait until that is done."""
        self.program.rendezvous.expect(f"done.{self.tell(*words)}")

    def tell(self, *words: str) -> int:
        number = next(self._numbers)
        assert self.program.process.stdin is not None
        self.program.process.stdin.write(f"{number} {' '.join(words)}\n".encode())
        self.program.process.stdin.flush()
        return number

    def start(self, *words: str) -> Handle:
        """Have it start a process; whoever is started says its name, which is the last of the words."""
        self.do(*words)
        return self.program.hold_reported([words[-1]])[words[-1]]

    def janitor(self) -> Handle:
        return hold_janitor(self.program)  # type: ignore[arg-type]  # a program has all that is asked of a host

    def die(self) -> None:
        self.program.send(signal.SIGKILL)
