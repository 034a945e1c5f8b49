"""Who belongs to a tree just now? For questions; ``process_tree`` finds them for good, and ends them."""

from __future__ import annotations

from collections.abc import Sequence

from safepool._os.control_group import ControlGroup
from safepool._os.process_table import ProcessRow, environment_of, has_variable, with_descendants
from safepool._os.process_tree import Leader, is_there

__all__ = ["TreeMembers"]


class TreeMembers:
    """Finds a worker and everything beneath it, again and again; what was found once stays found.

    Args:
        leader: The tree's first process.
        marker: The beginning of a variable in the environment of every descendant that did not clear it.
        group: The control group in which the tree lives, if it has one.
        guardian: The process to which the tree's orphans come, if there is one; itself it is no member.
        spares_sessions: Only those count that have stayed in the leader's session.

    Attributes:
        unclear: Who showed no environment at the last look: in the middle of an exec, it shows nothing else, either.
    """

    def __init__(
        self,
        leader: Leader,
        marker: bytes,
        group: ControlGroup | None = None,
        guardian: Leader | None = None,
        *,
        spares_sessions: bool = False,
    ) -> None:
        self.leader = leader
        self._spares_sessions = spares_sessions
        self._marker = marker
        self._group = group
        self._guardian = guardian
        self._known: set[tuple[int, int]] = set()  # members, (pid, start)
        self.unclear: set[int] = set()
        self._strangers: set[tuple[int, int]] = set()  # those that do not carry the marker: read once

    def find(self, rows: Sequence[ProcessRow]) -> set[int]:
        """Return the members among these processes."""
        self.unclear.clear()
        if self._spares_sessions:
            session = [row for row in rows if row.session == self.leader.pid and row.start >= self.leader.start]
            return {row.pid for row in session if not row.is_dead}
        adopter = self._guardian.pid if self._guardian is not None and is_there(self._guardian) else -1
        grouped = set() if self._group is None else self._group.pids()
        young = [row for row in rows if not row.is_dead and row.start >= self.leader.start]
        ours = {row.pid for row in young if row.parent == adopter or row.pid in grouped or self._is_member(row)}
        ours = with_descendants(ours, [row for row in rows if not row.is_dead])
        self._known = {(row.pid, row.start) for row in rows if row.pid in ours}
        self._strangers &= {(row.pid, row.start) for row in rows}
        return ours

    def _is_member(self, row: ProcessRow) -> bool:
        name = (row.pid, row.start)
        if self.leader.pid in (row.session, row.group) or name in self._known:
            return True
        if name in self._strangers:
            return False
        environment = environment_of(row.pid)
        if has_variable(environment, self._marker):
            return True
        if environment:
            self._strangers.add(name)
        else:
            self.unclear.add(row.pid)
        return False
