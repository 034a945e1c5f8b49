"""Decide what is to be done now. Pure: looks at the pool's state and the clock, changes nothing, does nothing.

The supervisor carries the decisions out, in order, and asks again after the next event.
"""

from __future__ import annotations

import enum

from safepool._plain import NamedTuple
from safepool._pool.state import Headcount, PoolState
from safepool._pool.worker import Worker, WorkerState

__all__ = ["Action", "Do", "decide", "glance", "look_closely", "next_instant"]


class Do(enum.Enum):
    """What can be done."""

    GIVE = "give waiting tasks to idle workers, and to busy ones ahead"
    START = "start one more worker"
    WARN = "its task has used up its soft timeout: tell it"
    CONDEMN = "its task is past its deadline: get its stacks"
    STOP = "send it SIGTERM, and wait for the grace"
    END = "end it with its tree"
    RETIRE = "tell it to leave"
    RELIEVE = "take back what was sent ahead: others could run it"
    KEEP = "nothing to do, but it stays"
    MEASURE = "look at the memory of those whose tasks have a limit"
    KILL_ALL = "end every worker and cancel what waits"
    FINISH = "nothing is left to do, ever"


class Action(NamedTuple):
    """One thing to do, and to whom."""

    do: Do
    worker: Worker | None = None


def decide(state: PoolState, now: float) -> list[Action]:
    """Return what is to be done at this instant."""
    actions = glance(state, now)
    return look_closely(state, now) if actions is None else actions


def glance(state: PoolState, now: float) -> list[Action] | None:
    """Return what is to be done where there are idle workers for all that waits, and nothing ends or is due; else None.

    A short cut, for a pool that has little to do: ``look_closely`` would find the same.
    """
    has_dates = state.kill_at is not None or state.measure_at is not None
    if _is_ending(state) or has_dates or state.settings.max_tasks_per_child is not None:
        return None
    running = idle = 0
    for worker in state.workers.values():
        if worker.state is WorkerState.BUSY:
            running += 1
        elif worker.state is WorkerState.IDLE and not worker.is_outgrown:
            idle += 1
        if worker.calls_ahead or (worker.due is not None and worker.due <= now):
            return None
    busy, staying = running + state.waiting_count, running + idle
    wanted = max(busy + state.settings.spare_workers, state.least())
    if staying < len(state.workers) or busy > min(staying, state.max_workers) or not wanted <= staying <= state.most():
        return None
    return [Action(Do.GIVE)] if state.waiting_count else []


def look_closely(state: PoolState, now: float) -> list[Action]:
    """Return what is to be done, whatever the state."""
    if state.kill_at is not None and now >= state.kill_at:
        return [Action(Do.KILL_ALL)]
    idle, starting, overdue = [], [], []
    for worker in state.workers.values():  # once, since it is done for every task of a pool that has little to do
        if worker.state is WorkerState.IDLE:
            idle.append(worker)
        elif worker.state is WorkerState.STARTING:
            starting.append(worker)
        if worker.due is not None and worker.due <= now and _can_be_late(worker):
            overdue.append(worker)
    count = state.headcount()
    dismissed = _dismissed(state, count, starting)
    leaving = [worker for worker in idle if worker in dismissed or state.is_worn(worker)]
    room = min(len(idle) - len(leaving), state.max_workers - count.running)  # for tasks with those who have none
    actions = [_decide_overdue(worker) for worker in overdue if worker.state is not WorkerState.IDLE]
    work = _decide_work(state, now, count, room)
    leaving += [worker for worker in starting if worker in dismissed]
    if _is_ending(state) and not state.waiting_count:
        leaving = idle + starting
    work += [Action(Do.RETIRE, worker) for worker in leaving if not worker.undelivered]
    if overdue:
        actions += _decide_idle(state, count, [worker for worker in overdue if worker.state is WorkerState.IDLE], work)
    actions += work
    actions += _decide_ahead(state, now, has_idle=room > 0)
    if state.measure_at is not None and now >= state.measure_at:
        actions.append(Action(Do.MEASURE))
    if (state.closing or state.abandoned) and not state.waiting_count and not state.workers:
        actions.append(Action(Do.FINISH))
    return actions


def next_instant(state: PoolState) -> float | None:
    """Return when ``decide`` must be asked again even if nothing happens, or None for never."""
    instants = []
    for worker in state.workers.values():
        if worker.due is not None:
            instants.append(worker.due)
        if worker.stuck_at is not None:
            instants.append(worker.stuck_at)
    instants += [instant for instant in (state.kill_at, state.measure_at) if instant is not None]
    if state.failed_starts and state.to_start():
        instants.append(state.start_at)
    return min(instants, default=None)


def _can_be_late(worker: Worker) -> bool:
    return worker.state not in (WorkerState.ENDING, WorkerState.SWEEPING)  # these are looked at in every turn


def _decide_overdue(worker: Worker) -> Action:
    if worker.state is WorkerState.BUSY:
        has_soft_timeout = worker.task is not None and worker.task.terms.soft_timeout is not None
        return Action(Do.WARN if has_soft_timeout and not worker.is_warned else Do.CONDEMN, worker)
    if worker.state is WorkerState.DUMPING and worker.grace:
        return Action(Do.STOP, worker)
    return Action(Do.END, worker)


def _decide_idle(state: PoolState, count: Headcount, overdue: list[Worker], work: list[Action]) -> list[Action]:
    """Of those that have been idle for long enough, let as many leave as nobody needs."""
    retiring = [action.worker for action in work if action.do is Do.RETIRE and action.worker]
    overdue = [worker for worker in overdue if worker not in retiring]
    surplus = state.surplus(count) - sum(not state.is_worn(worker) for worker in retiring)
    may_leave = [worker for worker in overdue if not worker.undelivered and not state.is_worn(worker)]
    leaving = [] if _is_ending(state) else may_leave[: max(0, surplus)]
    return [Action(Do.RETIRE if worker in leaving else Do.KEEP, worker) for worker in overdue]


def _is_ending(state: PoolState) -> bool:
    return state.closing or state.abandoned or state.breaking


def _decide_work(state: PoolState, now: float, count: Headcount, room: int) -> list[Action]:
    actions = []
    if state.waiting_count and not state.is_killed and (room > 0 or _has_room_ahead(state, count)):
        actions.append(Action(Do.GIVE))
    if now >= state.start_at:
        actions += [Action(Do.START)] * state.to_start(count)
    return actions


def _has_room_ahead(state: PoolState, count: Headcount) -> bool:
    return not state.to_start(count) and any(state.room_ahead(worker) > 0 for worker in state.workers.values())


def _decide_ahead(state: PoolState, now: float, *, has_idle: bool) -> list[Action]:
    """Return whose tasks ahead are to be taken back: those of workers that are stuck, or some for one that is idle."""
    late = [worker for worker in state.workers.values() if worker.stuck_at is not None and worker.stuck_at <= now]
    loaded = state.most_loaded() if has_idle and not state.waiting_count else None
    if loaded is not None and loaded not in late:
        late.append(loaded)
    return [Action(Do.RELIEVE, worker) for worker in late]


def _dismissed(state: PoolState, count: Headcount, starting: list[Worker]) -> list[Worker]:
    """Return who leaves since the pool was made smaller: who has not begun yet, then who has been idle the longest."""
    excess = state.excess(count)
    if not excess:
        return []
    idle = [worker for worker in state.idle if worker.state is WorkerState.IDLE and not state.is_worn(worker)]
    return (starting + idle)[:excess]
