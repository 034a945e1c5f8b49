"""Whatever happens in whatever order, a task is in one place, runs no more often than it may, and is settled once."""

from __future__ import annotations

from concurrent.futures.process import BrokenProcessPool
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from safepool._pool.terms import Terms
from safepool._pool.worker import Worker, WorkerState
from safepool._worker.framing import Kind
from unit.stage import Stage

pytestmark = pytest.mark.timeout(120)

_TERMS = st.builds(
    Terms,
    priority=st.integers(-1, 1),
    retries=st.integers(0, 2),
    timeout=st.sampled_from([None, None, None, 0.001, 5.0]),
)
_ANY = st.integers(0, 10_000)
_DEEDS = st.sampled_from(
    ["turn", "turn", "turn", "begin", "answer", "answer", "answer unheard", "answer slowly", "die"]
)


class Life(RuleBasedStateMachine):
    """One pool: callers, workers and the supervisor in turns that nobody has foreseen."""

    @initialize(
        max_workers=st.integers(1, 2),
        max_tasks=st.sampled_from([None, None, 3]),
        max_pending=st.sampled_from([None, 5]),
    )
    def begin(self, max_workers: int, max_tasks: int | None, max_pending: int | None) -> None:
        self.stage = Stage(max_workers, max_tasks, max_pending)
        self.is_open = True
        for _ in range(2 * max_workers):  # so that there are workers, and that they are known to be quick
            self.stage.submit(Terms())
        self.stage.play_to_the_end()

    # --- callers ---

    @precondition(lambda self: self.is_open)
    @rule(terms=_TERMS, count=st.integers(1, 12))
    def submit(self, terms: Terms, count: int) -> None:
        for _ in range(count):
            self.stage.submit(terms)

    @rule(which=_ANY)
    def cancel(self, which: int) -> None:
        if task := self._one(list(self.stage.tasks.values()), which):
            was_done = task.future.done()
            assert task.future.cancel() <= (not was_done or task.future.cancelled())

    @rule(which=_ANY)
    def kill(self, which: int) -> None:
        if task := self._one(list(self.stage.tasks.values()), which):
            task.future.kill()

    @rule(max_workers=st.integers(1, 4))
    def resize(self, max_workers: int) -> None:
        self.stage.resize(max_workers)

    @rule(cancel=st.booleans(), kill=st.booleans(), luck=st.integers(0, 15))
    def shut_down(self, cancel: bool, kill: bool, luck: int) -> None:
        if not luck:  # else most lives would be short
            self.is_open = False
            self.stage.shut_down(cancel=cancel, kill=kill)

    # --- workers and the host ---

    @rule(deeds=st.lists(st.tuples(_DEEDS, st.integers(0, 2)), min_size=4, max_size=16))
    def work(self, deeds: list[tuple[str, int]]) -> None:
        for deed, which in deeds:
            if deed == "turn":
                self.stage.turn()
            elif worker := self._one(self.stage.workers(), which):
                self._do(worker, deed)
            self.stage.check()

    def _do(self, worker: Worker, deed: str) -> None:
        played = self.stage.played(worker)
        if worker.state is WorkerState.STARTING:
            deed = "answer"  # three that die then, and the pool is broken: that is ``start_in_vain``
        played.begin()
        if deed in {"answer", "answer unheard"}:
            played.answer(Kind.PLAIN_RESULT)
        elif deed == "answer slowly":
            played.answer(Kind.RESULT, elapsed=1.0)
        elif deed == "die":
            played.is_dead = True
        if deed != "answer unheard":
            self.stage.look(worker)

    @rule(count=st.integers(1, 6))
    def starts_fail(self, count: int) -> None:
        self.stage.starts_to_fail = count

    @rule()
    def start_in_vain(self) -> None:
        for worker in self.stage.workers():
            if worker.state is WorkerState.STARTING:
                self.stage.played(worker).is_dead = True
                self.stage.look(worker)

    @rule()
    def deliver(self) -> None:
        self.stage.deliver()

    @rule(seconds=st.sampled_from([0.001, 0.006, 0.1, 6.0]))
    def let_time_pass(self, seconds: float) -> None:
        self.stage.now += seconds

    @invariant()
    def everything_is_in_its_place(self) -> None:
        if hasattr(self, "stage"):
            self.stage.check()

    def teardown(self) -> None:
        if not hasattr(self, "stage"):
            return
        try:
            self.stage.play_to_the_end()
            self.stage.check()
            lost = [task for task in self.stage.tasks.values() if not task.future.done()]
            assert not lost, [(task.number, task.state, task.terms) for task in lost]
            assert not self.stage.state.places
            self.stage.shut_down(cancel=False, kill=False)
            for _ in range(100):
                self.stage.play_to_the_end()
            assert self.stage.supervisor.is_finished
            assert not self.stage.workers()
        finally:
            self.stage.close()

    @staticmethod
    def _one(among: list[Any], which: int) -> Any:
        return among[which % len(among)] if among else None


def _profile(examples: int, steps: int) -> settings:
    return settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


Life.TestCase.settings = _profile(60, 25)
TestLife = pytest.mark.timeout(120)(Life.TestCase)


class LongLife(Life):
    """The same, more often and longer."""


LongLife.TestCase.settings = _profile(2000, 80)
TestLongLife = pytest.mark.torture(pytest.mark.timeout(1800)(LongLife.TestCase))


@pytest.mark.parametrize("how", ["broken", "killed"])
def test_task_that_comes_too_late_is_settled_and_counts_nowhere_whoever_kills_it_meanwhile(how: str) -> None:
    """1. The pool is broken, or killed. 2. A task comes. 3. Somebody kills it, before it has its outcome."""
    stage = Stage(1, None, None)
    try:
        if how == "broken":
            stage.state.breaking, stage.state.broken = True, BrokenProcessPool("on purpose")
        else:
            stage.state.closing, stage.state.kill_reason = True, "on purpose"
        task = stage.submit(Terms())
        stage.turn()
        assert not task.future.done()
        stage.kill_task(task, "a second thought")
        stage.turn()
        stage.deliver()

        assert task.future.done()
        assert stage.state.waiting_count == 0
        stage.check()
        stage.shut_down(cancel=False, kill=False)
        stage.turn()
        assert stage.supervisor.is_finished
    finally:
        stage.close()
