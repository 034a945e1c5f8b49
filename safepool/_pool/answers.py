"""From what a worker sends to the outcomes of its tasks.

Answers come in the order of the tasks, but by two ways, the channel and the ring, and are read from one after the
other; so each waits until those before it are here. As many as are in order are taken in one go: a busy pool of short
tasks has hundreds at a time.
"""

from __future__ import annotations

import contextlib
import pickle
import threading
import time
from functools import partial

from safepool._os.memory import resident_size
from safepool._os.wakeup import Wakeup
from safepool._pool import leftovers, outcomes
from safepool._pool.bundle import Bundle, Outcomes
from safepool._pool.delivery import Delivery
from safepool._pool.endings import Endings, part
from safepool._pool.feeding import Feeding
from safepool._pool.staff import Staff
from safepool._pool.state import PoolState
from safepool._pool.task import Task, TaskState
from safepool._pool.worker import Worker, WorkerState
from safepool._worker.framing import Frame, Kind

__all__ = ["Answers"]


class Answers:
    """Takes in the frames of one pool's workers. Used by the supervisor's thread alone."""

    def __init__(
        self,
        state: PoolState,
        lock: threading.RLock,
        wakeup: Wakeup,
        delivery: Delivery,
        staff: Staff,
        feeding: Feeding,
        endings: Endings,
    ) -> None:
        self._state = state
        self._lock = lock
        self._wakeup = wakeup
        self._delivery = delivery
        self._staff = staff
        self._feeding = feeding
        self._endings = endings
        self._takes_leftovers = state.settings.leftovers != "keep"

    def take(self, worker: Worker, frames: list[Frame]) -> None:
        """Take in what a worker has sent."""
        for frame in frames:
            if frame.task:
                if frame.kind is not Kind.PARTED or _is_awaited(worker, frame.task):
                    worker.answers[frame.task] = frame
            elif frame.kind is Kind.READY and worker.state is WorkerState.STARTING:
                self._on_ready(worker)
            elif frame.kind is Kind.UNFIT:
                worker.unfit = bytes(frame.payload)
            elif frame.kind >= Kind.SEGMENT:
                worker.channel.exchange.heed(frame)
        if worker.answers:
            self._take_answers(worker)

    def _on_ready(self, worker: Worker) -> None:
        self._staff.on_ready()
        leftovers.note_residents(worker, self._state.settings.leftovers)
        with self._lock:
            self._state.rest(worker)

    def _take_answers(self, worker: Worker) -> None:
        task = worker.task
        if worker.state is WorkerState.BUSY and self._takes_leftovers and task and task.number in worker.answers:
            self._on_end_of_task(worker, task, worker.answers.pop(task.number))
        elif worker.state is WorkerState.BUSY:
            self._settle(worker)
        elif task is not None and task.number in worker.answers:
            worker.due = time.monotonic()  # condemned, and at its end by itself: no need to wait out the grace
        if worker.task is None:
            worker.answers.clear()  # of tasks whose outcome is fixed already
        elif len(worker.answers) > 1 + worker.calls_ahead:  # some are to tasks that it was not given
            _drop_foreign(worker)

    def _on_end_of_task(self, worker: Worker, task: Task, frame: Frame) -> None:
        """What the task has left behind is perhaps not to stay."""
        policy = self._state.settings.leftovers
        found = leftovers.find(worker, policy)
        worker.answers[task.number] = frame
        if policy == "end" and (found.left or found.is_stirring):
            self._endings.sweep(worker, found.spared)
        else:
            task.future.leftovers = found.left
            self._settle(worker)

    def on_swept(self, worker: Worker) -> None:
        """What the worker's task has left behind is gone."""
        self._settle(worker)

    def _settle(self, worker: Worker) -> None:
        """Give the worker's tasks their outcomes, as far as they are here, and turn to the next."""
        largest = self._state.settings.max_worker_memory
        if largest is not None:
            with contextlib.suppress(OSError):  # no descriptor to look with: after the next task is soon enough
                worker.is_outgrown = resident_size(worker.contained.pid) > largest
        worker.note_peak()
        quick: list[tuple[Task, Frame]] = []
        values: list[tuple[Outcomes, int, list[Frame]]] = []
        if not _is_answered(worker):
            return  # what has come belongs to later tasks, and the current one goes on as it was
        with self._lock:
            while (task := worker.task) is not None and (frame := worker.answers.pop(task.number, None)) is not None:
                if isinstance(task, Bundle):
                    self._settle_items(worker, task, frame, values)
                    continue
                worker.note_pace(frame.elapsed)
                part(worker, task, frame.begun)
                if frame.kind is Kind.PLAIN_RESULT and not task.future.leftovers:
                    quick.append((task, frame))
                else:
                    worker.undelivered += 1
                    self._delivery.put(partial(self._deliver, worker, task, frame))
                self._feeding.next_after(worker)
            self._feeding.begin(worker)
        for task, frame in quick:
            try:
                value = pickle.loads(frame.payload)
            except BaseException:  # no memory, or a task has written the answer itself
                self._delivery.put(partial(_settle_late, worker, task, frame))
                continue
            outcomes.settle(task, value)
            if not task.is_plain:  # the arguments go where their finalizers, which are user code, may run
                self._delivery.put(task.release)

        for results, index, frames in values:
            self._fill(worker, results, index, frames)

    def _settle_items(
        self, worker: Worker, bundle: Bundle, frame: Frame, values: list[tuple[Outcomes, int, list[Frame]]]
    ) -> None:
        """The first item of a worker's bundle is answered, and perhaps more of them; with the lock held."""
        if frame.kind is Kind.PARTED:
            self._feeding.on_parted(worker, bundle)
            return
        if frame.kind is Kind.PLAIN_RESULT:
            frames = _with_plain_ones_after(frame, worker.answers, bundle.size)
            values.append((bundle.outcomes, bundle.index, frames))
            worker.note_pace(sum(frame.elapsed for frame in frames) / len(frames), len(frames))
            arguments = bundle.step(len(frames))
            if arguments:
                self._delivery.put(arguments.clear)  # their finalizers are user code
        else:
            worker.note_pace(frame.elapsed)
            task = bundle.take_first()
            task.state = TaskState.SETTLED
            task.future._task = None
            worker.undelivered += 1
            self._delivery.put(partial(self._deliver, worker, task, frame))
        if not bundle.size:
            self._feeding.next_after(worker)

    def _fill(self, worker: Worker, results: Outcomes, index: int, frames: list[Frame]) -> None:
        try:
            results.slots[index : index + len(frames)] = [pickle.loads(frame.payload) for frame in frames]
        except BaseException:  # no memory, or a task has written an answer itself
            for place, frame in enumerate(frames, index):
                task = results.late(place, frame.task)
                self._delivery.put(partial(_settle_late, worker, task, frame))
        results.wake()

    def _deliver(self, worker: Worker, task: Task, frame: Frame) -> None:
        """In the delivery thread: rebuild what the worker sent."""
        try:
            if self._state.settings.leftovers == "warn":
                leftovers.warn(task)
            settle = outcomes.rebuild(task, frame, worker.channel.exchange)
        finally:
            with self._lock:
                worker.undelivered -= 1
            self._wakeup.set()
        settle()


def _is_answered(worker: Worker) -> bool:
    return worker.task is not None and worker.task.number in worker.answers


def _is_awaited(worker: Worker, item: int) -> bool:
    """Return True if this item may come back: of a bundle that its worker was told to stop in, not of any other."""
    return any(isinstance(task, Bundle) and task.is_stopped and task.holds(item) for task in worker.sent())


def _with_plain_ones_after(first: Frame, answers: dict[int, Frame], most: int) -> list[Frame]:
    """Return the answer to an item, and those to the items behind it, as long as all are plain values."""
    frames = [first]
    for number in range(first.task + 1, first.task + most):
        frame = answers.get(number)
        if frame is None or frame.kind is not Kind.PLAIN_RESULT:
            break
        frames.append(answers.pop(number))
    return frames


def _drop_foreign(worker: Worker) -> None:
    """Of what a worker has answered, keep what it was asked."""
    bundles = [task for task in worker.sent() if isinstance(task, Bundle)]
    numbers = {task.number for task in worker.sent()}
    for number in list(worker.answers):
        if number not in numbers and not any(bundle.holds(number) for bundle in bundles):
            del worker.answers[number]


def _settle_late(worker: Worker, task: Task, frame: Frame) -> None:
    """In the delivery thread, whose failures are its task's alone."""
    outcomes.rebuild(task, frame, worker.channel.exchange)()
