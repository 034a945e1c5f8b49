"""Two things at the same instant: a kill and a worker's own end, a result and its deadline, thirty-two deadlines.

The instant is found by trial: whoever came first, the other is given a head start next time. So both outcomes come, on
a fast machine and on a busy one, and most tries are as close as the machine allows.
"""

from __future__ import annotations

import random
import time
from collections import Counter

import pytest

from safepool import TaskKilledError, TaskTimeoutError, WorkerDiedError
from support import tasks
from support.eventually import eventually
from support.handles import gone
from support.proofs import new_counter, prove
from torture import acts

pytestmark = [pytest.mark.torture, pytest.mark.timeout(900)]

RACES = 500  # of either kind
LIMIT = 0.05  # seconds
NEAR = 0.005  # seconds
STORM = 32  # workers
STORM_LIMIT = 30.0  # seconds; thirty-two workers must have got there on two cores


class Finish:
    """Shifts the second one's moment until both come first about as often."""

    def __init__(self, delay, step):
        self.delay = delay
        self.step = step
        self.streak = 0  # of one outcome
        self.last = ""
        self.outcomes = Counter()
        self.told = Counter()

    def watch(self, number, future):
        future.add_done_callback(lambda _: self.told.update([number]))

    def note(self, number, outcome, *, earlier):
        """Take note of an outcome, and be earlier or later next time: by more, the longer it has been the same."""
        self.outcomes[outcome] += 1
        self.streak = self.streak + 1 if outcome == self.last else 0
        self.last = outcome
        self.delay += (-self.step if earlier else self.step) * 2 ** min(self.streak, 6)
        eventually(lambda: self.told[number])

    def judge(self):
        assert len(self.outcomes) == 2, f"one always came first: {self.outcomes}"
        assert set(self.told.values()) == {1}


@pytest.mark.parametrize("own", ["dies", "retires"])
def test_kill_that_races_with_the_worker_s_own_end_has_one_outcome(make_pool, measured, own):
    pool = make_pool(1, spare_workers=1, max_tasks_per_child=1 if own == "retires" else None)
    race, dice = Finish(0.001, 0.00005), random.Random(own)
    assert pool.submit(tasks.square, 7).result(60) == 49
    for number in range(RACES):
        future = pool.submit(tasks.exit_now, 3) if own == "dies" else pool.submit(tasks.square, number)
        race.watch(number, future)
        eventually(lambda future=future: future.started_at or future.done(), step=0.0002)
        time.sleep(max(0.0, race.delay * dice.uniform(0.5, 1.5)))  # the moment is the experiment
        future.kill()

        error = future.exception(60)

        if error is None:
            assert future.result() == number * number
        assert isinstance(error, (TaskKilledError, WorkerDiedError if own == "dies" else type(None)))
        race.note(number, type(error).__name__, earlier=not isinstance(error, TaskKilledError))

    measured("outcomes", dict(race.outcomes))
    race.judge()
    assert pool.submit(tasks.square, 7).result(60) == 49


def test_result_that_comes_at_its_deadline_is_a_result_or_a_timeout(make_pool, measured):
    """Within 5 ms of it, before or after, five hundred times."""
    pool = make_pool(1, spare_workers=1, task_timeout=LIMIT, initializer=acts.return_after, initargs=(0.0,))
    race, dice = Finish(0.0, NEAR / 10), random.Random(0)
    for number in range(RACES):
        future = pool.submit(acts.return_after, LIMIT + race.delay + dice.uniform(-NEAR, NEAR))
        race.watch(number, future)

        error = future.exception(60)

        assert error is None or isinstance(error, TaskTimeoutError)
        if error is not None:
            assert error.elapsed >= LIMIT
            with pytest.raises(TaskTimeoutError):
                future.result()
        race.note(number, type(error).__name__, earlier=error is not None)

    measured("outcomes", dict(race.outcomes))
    race.judge()
    assert pool.submit(tasks.square, 7, task_timeout=None).result(60) == 49


@pytest.mark.parametrize("kind", ["stopped", "c"])
def test_thirty_two_workers_that_time_out_at_once_are_all_ended(make_host, measured, kind):
    host = make_host(max_workers=STORM)
    canary, gate = host.canary(), host.gate("gate")
    host.open_pool()
    workers = [f"w{number}" for number in range(STORM)]
    for name in workers:
        host.submit(name, "work_then_wait", host.rendezvous.path, name, gate.path)
    host.rendezvous.expect_all(workers)
    leave = ["plain", "setsid"]
    names = [f"hung{number}" for number in range(STORM)]
    beats = {name: new_counter(host.directory, name) for name in names}
    for name in names:
        arguments = (host.rendezvous.path, name, kind, leave, beats[name])
        host.submit(name, "work_then_hang", *arguments, timeout=STORM_LIMIT)
    opened = time.monotonic()
    gate.open(STORM)  # all of them begin with it at the same time
    labels = [label for name in names for label in (name, f"{name}.plain", f"{name}.setsid")]
    host.rendezvous.expect_all(labels)
    there_after = time.monotonic() - opened
    measured("there_s", there_after)
    assert there_after < STORM_LIMIT, "the machine was too slow for this test: their time was up before all were there"
    try:
        everybody = host.hold_reported(labels)
    except AssertionError as error:  # seen once, and never again: what became of the tasks says who did it
        raise AssertionError(f"{error}; {[host.outcome(name) for name in names]}") from error
    if kind == "stopped":
        for name in names:
            prove(kind, everybody[name].pid, beats[name])

    took = gone(everybody, within=60)

    measured("gone_ms", max(took.values()) - min(took.values()))
    assert {host.outcome(name)["error"] for name in names} == {"TaskTimeoutError"}
    for number in range(STORM):
        host.submit(f"next{number}", "square", number)
    assert [host.outcome(f"next{number}")["value"] for number in range(STORM)] == [n * n for n in range(STORM)]
    assert canary.alive()
    host.tell("return")
    assert host.finish() == 0
    host.leaves_nothing()
