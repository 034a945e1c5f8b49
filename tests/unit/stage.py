"""A whole pool without a process: the real tables and the real supervisor, turned by hand; workers that are played."""

from __future__ import annotations

import contextlib
import itertools
import pickle
import select
import threading
import types
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, cast
from unittest.mock import Mock, patch

from safepool._os.contained import ContainedProcess
from safepool._plain import replace
from safepool._pool import answers, endings, feeding, limits, staff, state, supervisor
from safepool._pool.delivery import Delivery
from safepool._pool.future import SafeFuture
from safepool._pool.pool import Pool
from safepool._pool.room import Room
from safepool._pool.staff import Staff
from safepool._pool.state import PoolState
from safepool._pool.supervisor import Supervisor
from safepool._pool.task import Task, TaskState
from safepool._pool.terms import Terms
from safepool._pool.worker import Worker, WorkerState
from safepool._worker.channel import Channel, Inflow
from safepool._worker.framing import Frame, Kind
from safepool._worker.record import StartRecord
from safepool._worker.segments import Exchange
from unit.records import new_state

__all__ = ["PlayedWorker", "Stage"]

_TIMED = (answers, endings, feeding, limits, staff, state, supervisor)
_numbers = itertools.count(1)


class CountedFuture(SafeFuture[Any]):
    """Counts how often somebody gives it an outcome: those who come too late say nothing otherwise."""

    settlings = 0

    def set_result(self, result: Any) -> None:
        self.settlings += 1
        super().set_result(result)

    def set_exception(self, exception: BaseException | None) -> None:
        self.settlings += 1
        super().set_exception(exception)


class PlayedChannel:
    """Tickets as the kernel hands them out: each to the worker or to the host, whoever comes first."""

    def __init__(self) -> None:
        self.exchange = Exchange(1)
        self.tickets: deque[tuple[Kind, int]] = deque()
        self.on_their_way: list[Frame] = []
        self.inflow = Inflow.DRAINED
        self.is_spoilt = self.leaves_answers = self.has_outgoing = False

    def fileno(self) -> int:
        return -1

    def send(self, kind: Kind, task: int, _content: bytes = b"") -> bool:
        self.tickets.append((kind, task))
        return True

    def send_ahead(self, frames: Sequence[tuple[Kind, int, bytes]]) -> int:
        self.tickets += [(kind, task) for kind, task, _ in frames]
        return len(frames)

    def take_back(self) -> list[int]:
        taken = [task for _, task in self.tickets]
        self.tickets.clear()
        return taken

    def receive(self) -> list[Frame]:
        frames, self.on_their_way = self.on_their_way, []
        return frames

    receive_rest = receive_left = receive

    def fall_asleep(self) -> bool:
        return True

    def close(self) -> None:
        self.on_their_way.clear()


class PlayedWorker:
    """What happens at the other end; nothing happens by itself."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self.channel = PlayedChannel()
        self.is_dead = False
        self.running: tuple[Kind, int] | None = None
        self.pid = 100_000 + next(_numbers)
        self.pidfd = 1_000 + next(_numbers)  # only looked at
        self.marker = "PLAYED"
        self.control_group = None
        self.begun: tuple[int, float] | None = None

    # --- as a worker ---

    def begin(self) -> None:
        """Take the next ticket."""
        if self.is_dead or self.running is not None or not self.channel.tickets:
            return
        self.running = kind, number = self.channel.tickets.popleft()
        if kind is Kind.QUIT:
            self.is_dead = True
        elif number:
            self.begun = number, self._stage.now
            self._stage.runs[number] += 1

    def answer(self, kind: Kind, elapsed: float = 0.0) -> None:
        """Be through with it, and say so; nobody has heard of it yet."""
        if self.is_dead or self.running is None:
            return
        (began_as, number), self.running = self.running, None
        if began_as is Kind.INITIALIZE:
            self.channel.on_their_way.append(Frame(Kind.READY, 0, b""))
        else:
            frame = Frame(kind, number, pickle.dumps(number), self._stage.now, elapsed)
            self.channel.on_their_way.append(frame)

    # --- as its record and its process, to the host ---

    def begun_at(self, number: int) -> float | None:
        return self.begun[1] if self.begun is not None and self.begun[0] == number else None

    def tell(self, *_words: float) -> None:
        """Nobody looks from outside."""

    def last(self) -> int:
        return 0 if self.begun is None else self.begun[0]

    def end_tree(self) -> Any:
        self.is_dead = True
        return types.SimpleNamespace(
            advance=lambda: True, pidfds=list, wake_at=self._stage.now, close=list, ended=[], begin=lambda: None
        )

    def has_ended(self, _wait: float = 0.0) -> bool:
        return self.is_dead

    def request_stack(self, _signum: int) -> bool:
        return False

    def signal_group(self, _signum: int) -> bool:
        return not self.is_dead

    send_signal = signal_group

    def exit_status(self) -> int:
        return -9

    def open_group(self) -> list[int]:
        return []

    def release(self) -> None:
        self.pidfd = -1


class Stage:
    """One pool."""

    def __init__(self, max_workers: int, max_tasks: int | None, max_pending: int | None) -> None:
        self.now = 1000.0
        self.runs: Counter[int] = Counter()
        self.tasks: dict[int, Task] = {}
        self.starts_to_fail = 0
        self.undelivered: deque[Callable[[], None]] = deque()
        self.inbox: deque[Task | Callable[[], None]] = deque()
        self.state: PoolState = new_state(max_tasks=max_tasks, max_workers=max_workers)
        self.state.settings = replace(self.state.settings, max_pending=max_pending)
        self._undo = contextlib.ExitStack()
        clock = types.SimpleNamespace(
            monotonic=lambda: self.now, thread_time=lambda: 0.0, process_time=lambda: self.now
        )
        for module in _TIMED:
            self._undo.enter_context(patch.object(module, "time", clock))
        watch = Mock()
        watch.return_value.wait.return_value = []
        self._undo.enter_context(patch.object(supervisor, "Watch", watch))
        lock, wakeup = threading.RLock(), Mock()
        delivery = cast("Delivery", types.SimpleNamespace(put=self.undelivered.append))
        hiring = Staff(self.state, lock, wakeup, delivery, Mock())
        self._undo.enter_context(patch.object(hiring, "_launch", self._launch))
        room = Room(self.state.places, None)
        self.supervisor = Supervisor(self.state, self.inbox, lock, wakeup, delivery, hiring, room)

    def close(self) -> None:
        self._undo.close()

    def _launch(self) -> Worker:
        if self.starts_to_fail:
            self.starts_to_fail -= 1
            raise BlockingIOError("no room for one more process")
        played = PlayedWorker(self)
        contained, channel = cast("ContainedProcess", played), cast("Channel", played.channel)
        return Worker(next(_numbers), contained, channel, cast("StartRecord", played), None)

    def workers(self) -> list[Worker]:
        return list(self.state.workers.values())

    @staticmethod
    def played(worker: Worker) -> PlayedWorker:
        return cast("PlayedWorker", worker.contained)

    # --- what callers do ---

    def submit(self, terms: Terms) -> Task:
        future = CountedFuture()
        task = Task(len(self.tasks) + 1, future, (abs, (1,), {}), b"", terms, is_plain=True)
        future._pool, future._task = cast("Pool", self), task
        self.tasks[task.number] = task
        if self.state.settings.max_pending is not None:
            self.state.places.add(task.number)
        self.inbox.append(task)
        return task

    def forget_cancelled(self, task: Task) -> None:
        self.inbox.append(partial(self.supervisor.forget, task))

    def cancel_sent(self, task: Task) -> bool:
        self.inbox.append(partial(self.supervisor.cancel_sent, task))
        self.supervisor._read_inbox()
        return task.future.cancelled()

    def kill_task(self, task: Task, reason: str) -> bool:
        if task.future.done():
            return False
        self.inbox.append(partial(self.supervisor.kill, task, reason))
        return True

    def runs_no_callbacks(self, _thread: int) -> bool:
        return False

    def shut_down(self, *, cancel: bool, kill: bool) -> None:
        kill_at = self.now if kill else None
        self.inbox.append(partial(self.supervisor.close, cancel=cancel or kill, kill_at=kill_at, reason="shutdown"))

    def resize(self, max_workers: int) -> None:
        self.inbox.append(partial(self.supervisor.resize, max_workers))

    # --- what happens ---

    def turn(self) -> None:
        self.now += 0.0001
        self.supervisor._turn()

    def look(self, worker: Worker) -> None:
        """The host hears from a worker: what it has sent, or that it is dead."""
        if worker.number in self.state.workers:
            self.supervisor._on_channel(worker, select.POLLIN)
        if worker.number in self.state.workers and self.played(worker).is_dead:
            self.supervisor._on_death(worker, select.POLLIN)

    def deliver(self) -> None:
        while self.undelivered:
            self.undelivered.popleft()()

    def play_to_the_end(self) -> None:
        """Have everybody do their duty until there is none left."""
        self.starts_to_fail = 0
        for _ in range(200 + 20 * len(self.tasks)):
            self.turn()
            self.now += 0.1
            for worker in self.workers():
                self.played(worker).begin()
                self.played(worker).answer(Kind.PLAIN_RESULT)
                self.look(worker)
            self.deliver()
            if all(task.future.done() for task in self.tasks.values()) and not self.inbox:
                return

    # --- what holds at any time ---

    def places_of(self, task: Task) -> Iterator[tuple[str, object]]:
        """Where the tables have this task."""
        yield from (("waiting", task) for waiting in self.state.waiting if waiting is task)
        for worker in self.workers():
            if worker.task is task:
                yield "running", worker
            yield from (("sent", worker) for sent in worker.ahead if sent is task)

    def check(self) -> None:
        in_inbox = {id(wish) for wish in self.inbox}
        for task in self.tasks.values():
            where = [kind for kind, _ in self.places_of(task)]
            expected = {
                TaskState.WAITING: [] if id(task) in in_inbox else ["waiting"],
                TaskState.SENT: ["sent"],
                TaskState.RUNNING: ["running"],
            }
            if task.state is TaskState.SETTLED:
                assert set(where) <= {"waiting"}, f"{where}: a stone to step over is all that may be left"
            else:
                assert where == expected[task.state], (task.state, where)
            future = cast("CountedFuture", task.future)
            assert future.settlings <= 1
            assert not (future.cancelled() and future.settlings)
            assert self.runs[task.number] <= 1 + task.terms.retries, "it ran too often"
            if future.done() and not future.cancelled() and future.exception() is None:
                assert future.result() == task.number
                assert self.runs[task.number] >= 1
            if task.state is TaskState.SETTLED and not self.undelivered and id(task) not in in_inbox:
                assert future.done(), "it was forgotten"
        waiting = [task for task in self.state.waiting if task.state is TaskState.WAITING]
        assert self.state.waiting_count == len(waiting)
        assert self.state.places <= self.tasks.keys()
        for worker in self.workers():
            times = sum(idle is worker for idle in self.state.idle)
            is_idle = worker.state is WorkerState.IDLE
            assert times <= is_idle
            assert times or not is_idle or self.state.is_worn(worker), "nobody will ever give it anything"
            assert not worker.ahead or worker.task is not None
            assert len(worker.answers) <= 1 + len(worker.ahead) or worker.state is WorkerState.ENDING
        count = self.state.headcount()
        busy = (WorkerState.BUSY, WorkerState.SWEEPING, WorkerState.DUMPING, WorkerState.STOPPING)
        assert count.running == sum(worker.state in busy for worker in self.workers())
