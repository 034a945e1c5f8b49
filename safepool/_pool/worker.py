"""A worker as the host knows it: where it is in its life, what it runs, until when.

The life is a table: a move that is not in it is a defect, and raises before anything has changed.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Callable

from safepool._os.contained import ContainedProcess
from safepool._os.memory import highest_size
from safepool._os.process_tree import TreeEnding
from safepool._plain import dataclass, field
from safepool._pool.task import Task
from safepool._worker.channel import Channel
from safepool._worker.framing import Frame
from safepool._worker.record import StartRecord
from safepool.errors import EndedProcess

__all__ = ["Obituary", "Verdict", "Worker", "WorkerState"]


class WorkerState(enum.Enum):
    """Where a worker is in its life."""

    STARTING = "starting"  # not ready yet: interpreter, __main__, initializer
    IDLE = "idle"
    BUSY = "busy"
    SWEEPING = "sweeping"  # its task is over, and what that has left behind is being ended
    DUMPING = "dumping"  # past its deadline: its stacks are being written
    STOPPING = "stopping"  # past its deadline: it has been sent SIGTERM
    LEAVING = "leaving"  # told to leave: exit handlers are running
    ENDING = "ending"  # its tree is being ended, or is dead and being swept up

    __hash__ = object.__hash__  # members are singletons: the identity is quicker than the base class's hash of the name


_S = WorkerState
_MOVES = {
    _S.STARTING: {_S.IDLE, _S.LEAVING, _S.ENDING},
    _S.IDLE: {_S.BUSY, _S.LEAVING, _S.ENDING},
    _S.BUSY: {_S.IDLE, _S.SWEEPING, _S.DUMPING, _S.ENDING},
    _S.SWEEPING: {_S.IDLE},
    _S.DUMPING: {_S.STOPPING, _S.ENDING},
    _S.STOPPING: {_S.ENDING},
    _S.LEAVING: {_S.ENDING},
    _S.ENDING: set(),
}
_LONG = 0.01  # seconds; what takes longer is never sent ahead anyway
_NEWEST = 1 / 8  # the weight of the last task in the pace
_PLACES = {state: place for place, state in enumerate(_S, 1)}
RUNNING = frozenset({_S.BUSY, _S.SWEEPING, _S.DUMPING, _S.STOPPING})


@dataclass(frozen=True)
class Obituary:
    """What is known of a worker once nothing is left of it."""

    pid: int
    exitcode: int | None
    ended: tuple[EndedProcess, ...]
    elapsed: float | None
    stack: str
    oom: bool | None
    peak: int | None


Verdict = Callable[[Task, Obituary], BaseException]  # why a worker was ended, as the error its task gets


@dataclass(eq=False)
class Worker:
    """The host's record of one worker."""

    number: int
    contained: ContainedProcess
    channel: Channel
    record: StartRecord
    oom_kills: int | None
    id: int = 0  # what its tasks know it by: the smallest that was free
    state: WorkerState = WorkerState.STARTING
    task: Task | None = None  # the one that it runs, or will when it takes the next ticket
    ahead: deque[Task] = field(default_factory=deque)  # sent to it already, to be run after that
    ahead_size: int = 0  # calls in ``ahead``
    answers: dict[int, Frame] = field(default_factory=dict)  # read, but those of earlier tasks are still to come
    pace: float | None = None  # seconds that its tasks take, lately
    is_spoilt: bool = False  # its tasks have read what was meant for it: it is ended
    is_stuck: bool = False  # nothing is sent ahead until its task is over
    stuck_at: float | None = None  # when to look whether the tasks behind its own are kept waiting
    handed: float = 0.0  # when the last bytes of the task were sent, or the one before it was over
    lost: float = 0.0  # seconds that do not count against its task, since the host was stopped meanwhile
    due: float | None = None  # when something must happen if nothing else does: deadline, end of a grace
    is_warned: bool = False  # its task has used up its soft timeout, and was told so
    grace: float = 0.0  # seconds between SIGTERM and its end
    dump_deadline: float = 0.0
    ended_at: float = 0.0
    runs: int = 0  # tasks given to it so far
    cap: int | None = None  # bytes to which the kernel holds it and what is beneath it; None for no such limit
    peak: int | None = None  # bytes that its tree held at the highest since its task began, as far as was seen
    peak_before: int = 0  # bytes that itself had held before, where the kernel cannot be made to forget that
    is_outgrown: bool = False  # it has become larger than a worker may be between two tasks
    undelivered: int = 0  # results of its that the host has not unpickled yet: until then it must not leave
    failed_boot: bool = False  # it came to its end before it was ready
    unfit: bytes = b""  # what its initializer raised
    stack: bytearray = field(default_factory=bytearray)
    is_unwanted: bool = False  # somebody asked for its end: its task is not run again
    verdict: Verdict | None = None
    survivors: list[int] = field(default_factory=list)  # pidfds of its group, while it is dead and they have a grace
    ending: TreeEnding | None = None  # of its tree, or while it sweeps of what is beneath it
    residents: set[tuple[int, int]] = field(
        default_factory=set
    )  # (pid, start): beneath it, and no task's to answer for
    watched: set[int] = field(default_factory=set)
    has_news: bool = True  # for whoever looks from outside: ``tell``

    @property
    def number_of_task(self) -> int:
        """The number of its task, or of the first item that its bundle has left; zero if it has none."""
        return 0 if self.task is None else self.task.number

    def begun_at(self) -> float | None:
        """Return when its task began; None if it has not begun, or there is none."""
        return None if self.task is None else self.record.begun_at(self.task.number)

    def note_peak(self, size: int | None = None) -> None:
        """Take note of what its tree holds; without a size, of what itself has held since its task began."""
        if self.peak is None:  # nobody wants to know
            return
        if size is None:
            highest = highest_size(self.contained.pid)
            size = highest if highest > self.peak_before else 0
        self.peak = max(self.peak, size)

    @property
    def is_ending(self) -> bool:
        """True once its end has begun."""
        return self.state is WorkerState.ENDING

    def sent(self) -> list[Task]:
        """Return the tasks that it has been given and not answered, in their order."""
        return [*([] if self.task is None else [self.task]), *self.ahead]

    @property
    def calls_ahead(self) -> int:
        """How many calls it has been sent, beyond the one that it runs."""
        return self.ahead_size if self.task is None else self.ahead_size + self.task.size - 1

    def line_up(self, task: Task) -> None:
        """Have a task run after those that it has been sent."""
        self.ahead.append(task)
        self.ahead_size += task.size

    def turn(self) -> Task | None:
        """Take the next of those that it has been sent, if there is one."""
        if not self.ahead:
            return None
        task = self.ahead.popleft()
        self.ahead_size -= task.size
        return task

    def strike(self, task: Task) -> None:
        """Take back the last task that it was sent."""
        last = self.ahead.pop()
        assert last is task
        self.ahead_size -= task.size

    def tell(self) -> None:
        """Write down, for whoever looks from outside, what it is at."""
        self.has_news = False
        number = 0 if self.task is None else self.task.number
        self.record.tell(_PLACES[self.state], self.runs, number, self.handed, self.due or 0.0)

    def note_pace(self, elapsed: float, count: int = 1) -> None:
        """Take note of how long so many tasks took, as their worker says; a long one is not taken for the rule."""
        elapsed = min(_LONG, max(0.0, elapsed))  # in this order, which makes zero of what is no number
        weight = _NEWEST if count == 1 else 1 - (1 - _NEWEST) ** count
        self.pace = elapsed if self.pace is None else self.pace + (elapsed - self.pace) * weight

    def move(self, to: WorkerState, due: float | None = None) -> None:
        """Go on to the next state of its life, where ``due`` is when it must be over."""
        if to not in _MOVES[self.state]:
            raise AssertionError(f"worker {self.contained.pid} cannot go from {self.state} to {to}")
        self.state = to
        self.due = due
        self.has_news = True
