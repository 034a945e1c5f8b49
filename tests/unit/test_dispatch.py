"""What is to be done follows from the tables and the clock alone."""

from __future__ import annotations

import itertools
from collections import Counter, deque
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safepool._plain import replace
from safepool._pool.dispatch import Action, Do, decide, glance, look_closely, next_instant
from safepool._pool.state import PoolState
from safepool._pool.task import Task, TaskState
from safepool._pool.terms import Terms
from safepool._pool.worker import Worker, WorkerState
from unit.records import new_state, new_task, new_worker

pytestmark = pytest.mark.timeout(60)

NOW = 1000.0
STARTING, IDLE, BUSY, SWEEPING, DUMPING, STOPPING, LEAVING, ENDING = WorkerState
TIMED = (BUSY, DUMPING, STOPPING, LEAVING)


def decided(state: PoolState) -> Counter[Do]:
    return Counter(action.do for action in decide(state, NOW))


def test_waiting_tasks_go_to_idle_workers_and_the_rest_to_new_ones() -> None:
    state = new_state(new_worker(IDLE), new_worker(IDLE), waiting=3)
    assert decided(state) == {Do.GIVE: 1, Do.START: 1}


def test_idle_workers_without_tasks_are_left_in_peace() -> None:
    assert decide(new_state(new_worker(IDLE), new_worker(BUSY)), NOW) == []


def test_no_more_workers_are_started_than_there_may_be() -> None:
    state = new_state(new_worker(BUSY), new_worker(DUMPING), waiting=9, max_workers=3)
    assert decided(state) == {Do.START: 1}
    assert decided(new_state(waiting=9, max_workers=3)) == {Do.START: 3}


def test_no_more_workers_are_started_than_tasks_wait() -> None:
    assert decided(new_state(waiting=2, max_workers=8)) == {Do.START: 2}


def test_workers_that_are_starting_count_against_the_need() -> None:
    assert decide(new_state(new_worker(STARTING), waiting=1), NOW) == []
    assert decided(new_state(new_worker(STARTING), waiting=3)) == {Do.START: 2}


@pytest.mark.parametrize("state", [LEAVING, ENDING])
def test_workers_that_are_going_make_room_for_new_ones(state: WorkerState) -> None:
    assert decided(new_state(new_worker(state), waiting=1, max_workers=1)) == {Do.START: 1}


def test_busy_worker_past_its_deadline_is_condemned_and_the_others_are_not() -> None:
    late, punctual, unlimited = new_worker(BUSY, due=NOW), new_worker(BUSY, due=NOW + 0.1), new_worker(BUSY)
    assert decide(new_state(late, punctual, unlimited), NOW) == [Action(Do.CONDEMN, late)]


@pytest.mark.parametrize(("grace", "do"), [(0.5, Do.STOP), (0.0, Do.END)])
def test_worker_whose_stacks_are_in_is_stopped_with_a_grace_and_ended_without(grace: float, do: Do) -> None:
    worker = new_worker(DUMPING, due=NOW, grace=grace)
    assert decide(new_state(worker), NOW) == [Action(do, worker)]


@pytest.mark.parametrize("state", [STOPPING, LEAVING])
def test_worker_that_does_not_heed_is_ended(state: WorkerState) -> None:
    worker = new_worker(state, due=NOW, grace=5.0)
    assert decide(new_state(worker), NOW) == [Action(Do.END, worker)]


@pytest.mark.parametrize("state", [SWEEPING, ENDING])
def test_worker_that_is_ending_already_or_sweeps_is_not_ended_again(state: WorkerState) -> None:
    assert decide(new_state(new_worker(state, due=NOW - 1)), NOW) == []


def test_busy_worker_past_its_soft_timeout_is_warned_once_and_condemned_at_the_hard_one() -> None:
    worker = new_worker(BUSY, due=NOW, task=new_task(terms=Terms(timeout=2.0, soft_timeout=1.0)))
    assert decide(new_state(worker), NOW) == [Action(Do.WARN, worker)]
    worker.is_warned = True
    assert decide(new_state(worker), NOW) == [Action(Do.CONDEMN, worker)]


def test_memory_is_looked_at_when_it_is_time() -> None:
    assert decide(new_state(new_worker(BUSY), measure_at=NOW + 0.1), NOW) == []
    assert decide(new_state(new_worker(BUSY), measure_at=NOW), NOW) == [Action(Do.MEASURE)]
    assert next_instant(new_state(new_worker(BUSY, due=NOW + 9), measure_at=NOW)) == NOW


def test_worker_that_has_grown_too_large_retires_and_is_given_nothing() -> None:
    large, other = new_worker(IDLE, is_outgrown=True), new_worker(IDLE)
    assert decide(new_state(large, other, waiting=1), NOW) == [Action(Do.GIVE), Action(Do.RETIRE, large)]


def test_sweeping_worker_counts_as_one_that_runs() -> None:
    assert decide(new_state(new_worker(SWEEPING), waiting=1, max_workers=1), NOW) == []


def test_worn_out_worker_retires_once_its_results_are_delivered() -> None:
    worker = new_worker(IDLE, runs=2, undelivered=1)
    state = new_state(worker, waiting=1, max_tasks=2, max_workers=1)
    assert decide(state, NOW) == [Action(Do.START)]
    worker.undelivered = 0
    assert decide(state, NOW) == [Action(Do.START), Action(Do.RETIRE, worker)]


def test_worn_out_worker_that_cannot_retire_yet_does_not_keep_a_task_waiting() -> None:
    worker = new_worker(IDLE, runs=2, undelivered=1)
    assert decide(new_state(worker, waiting=1, max_tasks=2, max_workers=2), NOW) == [Action(Do.START)]


def test_worn_out_worker_is_given_nothing() -> None:
    worn, fresh = new_worker(IDLE, runs=2), new_worker(IDLE, runs=1)
    assert decide(new_state(worn, fresh, waiting=1, max_tasks=2), NOW) == [Action(Do.GIVE), Action(Do.RETIRE, worn)]


@pytest.mark.parametrize("reason", ["closing", "abandoned", "breaking"])
def test_pool_that_needs_nobody_any_more_retires_idle_and_starting_workers(reason: str) -> None:
    idle, starting, busy = new_worker(IDLE), new_worker(STARTING), new_worker(BUSY)
    state = new_state(idle, starting, busy, **{reason: True})
    assert decide(state, NOW) == [Action(Do.RETIRE, idle), Action(Do.RETIRE, starting)]


def test_closing_pool_finishes_its_work_first() -> None:
    assert decided(new_state(new_worker(IDLE), new_worker(STARTING), waiting=2, closing=True)) == {Do.GIVE: 1}


def test_closing_pool_keeps_a_worker_whose_result_is_not_delivered() -> None:
    assert decide(new_state(new_worker(IDLE, undelivered=1), closing=True), NOW) == []


@pytest.mark.parametrize("reason", ["closing", "abandoned"])
def test_pool_is_finished_when_nothing_waits_and_nobody_is_left(reason: str) -> None:
    going = [new_worker(state) for state in (BUSY, LEAVING, ENDING)]
    assert all(decide(new_state(worker, **{reason: True}), NOW) == [] for worker in going)
    assert decide(new_state(**{reason: True}), NOW) == [Action(Do.FINISH)]
    assert decide(new_state(), NOW) == []


def test_idle_worker_whose_time_is_up_leaves_unless_it_is_one_of_the_least() -> None:
    idle = [new_worker(IDLE, due=NOW), new_worker(IDLE)]
    assert decide(new_state(*idle), NOW) == [Action(Do.RETIRE, idle[0])]
    assert decide(new_state(*idle, least=1), NOW) == [Action(Do.RETIRE, idle[0])]
    assert decide(new_state(*idle, least=2), NOW) == [Action(Do.KEEP, idle[0])]


def test_idle_workers_whose_time_is_up_together_leave_no_fewer_than_the_least() -> None:
    state = new_state(*(new_worker(IDLE, due=NOW) for _ in range(3)), least=2)
    assert decided(state) == {Do.RETIRE: 1, Do.KEEP: 2}


def test_idle_worker_whose_time_is_up_stays_until_its_results_are_delivered() -> None:
    worker = new_worker(IDLE, due=NOW, undelivered=1)
    assert decide(new_state(worker), NOW) == [Action(Do.KEEP, worker)]


def test_idle_worker_whose_time_is_up_while_a_task_waits_is_given_it() -> None:
    worker = new_worker(IDLE, due=NOW)
    assert Action(Do.RETIRE, worker) not in decide(new_state(worker, waiting=1, max_workers=1), NOW)


def test_least_and_spare_workers_are_started_before_they_are_needed_and_not_by_a_closing_pool() -> None:
    assert decided(new_state(least=2)) == {Do.START: 2}
    assert decided(new_state(new_worker(BUSY), new_worker(BUSY), spare=1, max_workers=2)) == {Do.START: 1}
    assert decided(new_state(new_worker(BUSY), least=2, spare=1, closing=True)) == {}


def test_spare_worker_is_given_nothing_while_the_others_work() -> None:
    assert decide(new_state(new_worker(BUSY), new_worker(IDLE), waiting=1, max_workers=1, spare=1), NOW) == []


def test_instant_of_the_kill_overrides_everything() -> None:
    state = new_state(new_worker(IDLE), new_worker(BUSY, due=NOW), waiting=3, kill_at=NOW, closing=True)
    assert decide(state, NOW) == [Action(Do.KILL_ALL)]
    assert Do.KILL_ALL not in {action.do for action in decide(state, NOW - 0.1)}


def test_failed_start_is_repeated_after_its_pause_and_not_before() -> None:
    state = new_state(waiting=1, failed_starts=1, start_at=NOW + 0.1)
    assert decide(state, NOW) == []
    assert next_instant(state) == NOW + 0.1
    assert decide(state, NOW + 0.1) == [Action(Do.START)]


def test_pool_that_breaks_starts_nobody() -> None:
    assert decide(new_state(waiting=2, breaking=True), NOW) == []


def test_next_instant_is_the_nearest_of_all() -> None:
    workers = [new_worker(BUSY, due=NOW + 3), new_worker(ENDING, due=NOW + 2), new_worker(IDLE)]
    assert next_instant(new_state(*workers, kill_at=NOW + 4)) == NOW + 2
    assert next_instant(new_state(*workers, kill_at=NOW + 1)) == NOW + 1
    assert next_instant(new_state(new_worker(IDLE), new_worker(BUSY))) is None


def test_pool_made_smaller_retires_those_who_have_not_begun_then_the_longest_idle() -> None:
    idle, starting, busy = [new_worker(IDLE), new_worker(IDLE)], new_worker(STARTING), new_worker(BUSY)
    state = new_state(busy, *idle, starting, max_workers=2)
    assert decide(state, NOW) == [Action(Do.RETIRE, idle[0]), Action(Do.RETIRE, starting)]


def test_pool_made_smaller_ends_no_task_and_begins_none_beyond_its_size() -> None:
    state = new_state(*(new_worker(BUSY) for _ in range(4)), waiting=3, max_workers=2)
    assert decide(state, NOW) == []


def test_pool_made_smaller_keeps_a_worker_until_its_results_are_delivered() -> None:
    undelivered = new_worker(IDLE, undelivered=1)
    state = new_state(undelivered, new_worker(IDLE), waiting=2, max_workers=1)
    assert decide(state, NOW) == [Action(Do.GIVE)]
    undelivered.undelivered = 0
    assert decide(state, NOW) == [Action(Do.GIVE), Action(Do.RETIRE, undelivered)]


def test_pool_made_smaller_gives_work_to_those_who_stay() -> None:
    idle = [new_worker(IDLE) for _ in range(3)]
    state = new_state(*idle, waiting=5, max_workers=2)
    assert decide(state, NOW) == [Action(Do.GIVE), Action(Do.RETIRE, idle[0])]


def test_pool_made_smaller_keeps_its_spare_workers() -> None:
    assert decide(new_state(*(new_worker(IDLE) for _ in range(3)), max_workers=1, spare=2), NOW) == []


def test_pool_made_smaller_lets_no_more_idle_workers_leave_than_leave_the_least() -> None:
    state = new_state(*(new_worker(IDLE, due=NOW) for _ in range(5)), max_workers=4, least=2)
    assert decided(state) == {Do.RETIRE: 3, Do.KEEP: 2}


def test_workers_that_are_slow_to_leave_a_smaller_pool_chase_nobody_else_out() -> None:
    leaving = [new_worker(LEAVING) for _ in range(4)]
    last = new_worker(IDLE, due=NOW)
    assert decide(new_state(*leaving, last, max_workers=1, least=1), NOW) == [Action(Do.KEEP, last)]


# --- tasks that are sent ahead ---


def ahead(count: int) -> deque[Task]:
    return deque(new_task(TaskState.SENT) for _ in range(count))


def test_busy_workers_whose_tasks_are_short_are_given_more_ahead() -> None:
    state = new_state(new_worker(BUSY, pace=0.0001), waiting=3, max_workers=1)
    assert decide(state, NOW) == [Action(Do.GIVE)]


@pytest.mark.parametrize(
    "facts",
    [{"pace": None}, {"pace": 0.02}, {"pace": 0.0001, "is_stuck": True}],
    ids=["not known yet", "long", "stuck"],
)
def test_busy_worker_is_given_nothing_ahead_if_its_tasks_are(facts: dict[str, Any]) -> None:
    assert decide(new_state(new_worker(BUSY, **facts), waiting=3, max_workers=1), NOW) == []


def test_nothing_is_sent_ahead_while_workers_can_be_started_for_it() -> None:
    assert decided(new_state(new_worker(BUSY, pace=0.0001), waiting=1, max_workers=2)) == {Do.START: 1}


def test_pool_that_looks_at_its_workers_between_tasks_sends_none_ahead() -> None:
    state = new_state(new_worker(BUSY, pace=0.0001), waiting=3, max_workers=1)
    state.settings = replace(state.settings, leftovers="end")
    assert decide(state, NOW) == []


def test_worker_has_no_more_ahead_than_it_may_run() -> None:
    worker = new_worker(BUSY, pace=0.00001, runs=8)
    assert new_state(worker, waiting=100, max_tasks=10, max_workers=1).room_ahead(worker) == 2


def test_worker_is_given_more_once_half_of_it_is_done_and_its_share_of_the_rest() -> None:
    worker = new_worker(BUSY, pace=0.001, ahead=ahead(3))
    state = new_state(worker, waiting=100, max_workers=1)
    assert state.room_ahead(worker) == 0
    worker.turn()
    assert state.room_ahead(worker) == 3
    few = new_state(worker, new_worker(BUSY), waiting=4, max_workers=2)
    assert few.room_ahead(worker) == 1


def test_worker_whose_task_is_long_is_relieved_of_those_behind_it() -> None:
    worker = new_worker(BUSY, ahead=ahead(1), stuck_at=NOW)
    assert decide(new_state(worker, max_workers=1), NOW) == [Action(Do.RELIEVE, worker)]
    assert decide(new_state(worker, max_workers=1), NOW - 0.001) == []
    assert next_instant(new_state(worker)) == NOW


def test_idle_worker_relieves_the_one_with_the_most_work_and_nobody_who_has_little() -> None:
    some, most = new_worker(BUSY, pace=0.001, ahead=ahead(2)), new_worker(BUSY, pace=0.001, ahead=ahead(3))
    assert decide(new_state(new_worker(IDLE), some, most), NOW) == [Action(Do.RELIEVE, most)]
    little = new_worker(BUSY, pace=0.00001, ahead=ahead(3))
    assert decide(new_state(new_worker(IDLE), little), NOW) == []


def test_worker_that_may_be_given_nothing_relieves_nobody() -> None:
    worn = new_worker(IDLE, runs=2, undelivered=1)
    loaded = new_worker(BUSY, pace=0.001, ahead=ahead(3))
    assert decide(new_state(worn, loaded, max_tasks=2, max_workers=2), NOW) == []
    spare = new_worker(IDLE)
    assert decide(new_state(spare, loaded, spare=1, max_workers=1), NOW) == []


def test_killed_pool_gives_nothing_and_starts_nobody() -> None:
    state = new_state(new_worker(IDLE), new_worker(BUSY, pace=0.0001), waiting=3, kill_reason="test", closing=True)
    assert decide(state, NOW) == []


# --- what holds for all tables ---

instants = st.sampled_from([NOW - 1, NOW, NOW + 1])


@st.composite
def workers(draw: st.DrawFn, have_tasks_ahead: bool = False) -> Worker:
    state = draw(st.sampled_from(WorkerState))
    due = draw(instants) if state in (IDLE, *TIMED) and draw(st.booleans()) else None
    if state is STARTING:
        return new_worker(state)
    facts: dict[str, Any] = {"runs": draw(st.integers(0, 3)), "undelivered": draw(st.integers(0, 1))}
    if have_tasks_ahead and state is BUSY:
        facts.update(ahead=ahead(draw(st.integers(0, 2))), pace=draw(st.sampled_from([None, 0.0001, 0.001])))
    if state is IDLE:
        facts.update(is_outgrown=draw(st.booleans()))
    return new_worker(state, due=due, **facts)


@st.composite
def states(draw: st.DrawFn, have_tasks_ahead: bool = False) -> PoolState:
    chosen = draw(st.lists(workers(have_tasks_ahead), max_size=6))
    room = sum(worker.state not in (LEAVING, ENDING) for worker in chosen)
    facts: dict[str, Any] = {name: draw(st.booleans()) for name in ("closing", "abandoned", "breaking")}
    if draw(st.booleans()):
        facts.update(failed_starts=1, start_at=draw(instants))
    return new_state(
        *chosen,
        waiting=draw(st.integers(0, 6)),
        max_workers=max(1, room + draw(st.integers(-4, 2))),  # fewer than there are: it was made smaller
        max_tasks=draw(st.sampled_from([None, 1, 3])),
        least=draw(st.integers(0, 1)),
        spare=draw(st.integers(0, 2)),
        kill_at=draw(st.none() | instants),
        **facts,
    )


@given(states())
def test_decision_never_asks_for_too_much(state: PoolState) -> None:
    done = decided(state)
    starting = sum(worker.state is STARTING for worker in state.workers.values())
    settings = state.settings
    standing_by = max(settings.spare_workers, state.least())
    assert state.running() < state.max_workers or not done[Do.GIVE]
    assert done[Do.GIVE] <= min(state.waiting_count, len(state.idle), 1)
    assert state.occupying() + done[Do.START] <= state.max_workers + settings.spare_workers or not done[Do.START]
    assert done[Do.START] == 0 or starting + done[Do.START] <= state.waiting_count + standing_by


@given(states())
def test_decision_concerns_a_worker_once_and_retires_none_with_undelivered_results(state: PoolState) -> None:
    actions = [action for action in decide(state, NOW) if action.worker is not None]
    assert len({id(action.worker) for action in actions}) == len(actions)
    assert all(action.worker is None or not action.worker.undelivered for action in actions if action.do is Do.RETIRE)


@given(states(have_tasks_ahead=True))
def test_glance_sees_what_a_closer_look_would(state: PoolState) -> None:
    seen = glance(state, NOW)
    assert seen is None or seen == look_closely(state, NOW)


def test_glance_at_any_number_of_workers_and_tasks_sees_what_a_closer_look_would() -> None:
    ways = Counter()
    numbers = itertools.product(range(3), range(3), range(3), range(2), range(2), range(1, 4))
    for running, idle, waiting, spare, least, most in numbers:
        workers = [new_worker(BUSY) for _ in range(running)] + [new_worker(IDLE) for _ in range(idle)]
        state = new_state(*workers, waiting=waiting, max_workers=most, spare=spare, least=least)
        seen = glance(state, NOW)
        assert seen is None or seen == look_closely(state, NOW), (running, idle, waiting, spare, least, most)
        ways[None if seen is None else len(seen)] += 1
    assert ways.keys() == {None, 0, 1}


@pytest.mark.parametrize("waiting", [0, 1, 2])
def test_glance_is_enough_for_a_pool_that_has_little_to_do(waiting: int) -> None:
    state = new_state(new_worker(IDLE), new_worker(IDLE), new_worker(BUSY), waiting=waiting)
    assert glance(state, NOW) == [Action(Do.GIVE)] * min(1, waiting)


@given(states())
def test_decision_changes_nothing(state: PoolState) -> None:
    before = [replace(worker) for worker in state.workers.values()], replace(state)
    decide(state, NOW)
    next_instant(state)
    assert [vars(worker) for worker in state.workers.values()] == [vars(worker) for worker in before[0]]
    assert vars(state) == vars(before[1])


@given(states().filter(lambda state: not decide(state, NOW)))
def test_where_nothing_is_to_be_done_the_next_instant_lies_ahead(state: PoolState) -> None:
    """Else the supervisor turns without a pause, and takes the host for one that was stopped since."""
    upcoming = next_instant(state)
    assert upcoming is None or upcoming > NOW
