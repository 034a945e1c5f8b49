"""Process trees to be ended, planted by a test."""

from __future__ import annotations

import os
import textwrap

from safepool._os.process_table import read_row
from safepool._os.process_tree import Leader, TreeEnding
from unit.brood import Brood

__all__ = ["AT_HAND", "EVERY_WAY_OUT", "WAYS_OUT", "Tree"]

# What a leader has at hand. ``leave`` starts a child that takes some steps, says its name, and stays.
AT_HAND = """
def leave(label, *steps):
    if os.fork():
        return
    for step in steps:
        step()
    say(label)
    stay()

def fork_and_leave():
    parent = os.getpid()
    if os.fork():
        os._exit(0)
    while os.getppid() == parent:  # not to be taken for a member, it has to be gone
        time.sleep(0.001)

def run(*command, **options):
    import subprocess
    return subprocess.Popen(command, **options)

def python(source, *args):
    return sys.executable, "-I", "-S", "-c", source, *args
"""

# One descendant for each way out of a process group.
EVERY_WAY_OUT = """
leave("plain")
leave("group", lambda: os.setpgid(0, 0))
leave("session", os.setsid)
leave("daemon", fork_and_leave, os.setsid, fork_and_leave)
leave("nested", os.setsid, lambda: leave("grandchild", os.setsid))
say("leader")
stay()
"""
WAYS_OUT = ("plain", "group", "session", "daemon", "nested", "grandchild")


class Tree:
    """A leader that is a child of the test, and the marker that its descendants carry."""

    def __init__(self, brood: Brood, source: str, *args: object) -> None:
        self.marker = f"{brood.mark}_TREE_1"
        self.process = brood.python(AT_HAND + textwrap.dedent(source), *args, env={self.marker: "1"})
        row = read_row(self.process.pid)
        assert row is not None
        self.leader = Leader(row.pid, row.start)

    def ending(self, *, spared: frozenset[int] = frozenset(), marker: str | None = None) -> TreeEnding:
        """Make its ending, which has not begun."""
        marker = self.marker if marker is None else marker
        return TreeEnding([self.leader], f"{marker}=".encode(), self.signal_group, spared)

    def end(self) -> TreeEnding:
        """End it."""
        ending = self.ending()
        ending.run()
        return ending

    def signal_group(self, leader: Leader, signum: int) -> bool:
        """Signal the leader's group: it is our own child and not reaped, which pins its number."""
        assert leader == self.leader
        os.killpg(leader.pid, signum)
        return True
