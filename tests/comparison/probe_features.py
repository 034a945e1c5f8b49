"""Find out what process pools can do, by having each of them do it; print the table of ``docs/comparison.md``.

    pip install loky pebble deadpool-executor "mpire[dill]" joblib ray psutil cloudpickle
    python tests/comparison/probe_features.py                  # every row, every library: some minutes
    python tests/comparison/probe_features.py --row "lambdas" --peer loky --verbose

Every cell is probed in a process of its own, with a limit in time; what that leaves running is ended. A cell says
"no ¹" where a library has no word for the feature: none of its public names and parameters matches the row's pattern.
"""

from __future__ import annotations

import argparse
import asyncio
import concurrent.futures
import contextlib
import importlib.metadata
import itertools
import json
import os
import platform
import queue
import re
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import acts  # noqa: E402  the path comes first
from peers import PEERS, Lacks, Peer  # noqa: E402

LIMIT = 45.0  # seconds for a cell
MISSING, NOT_APPLICABLE = "no ¹", "-"

Probe = Callable[[Peer, str], "bool | str"]


class Row(NamedTuple):
    """A feature."""

    group: str
    name: str
    words: str  # what a public name that has to do with it would match
    probe: Probe


ROWS: dict[str, Row] = {}


def row(group: str, name: str, words: str = "(?!)") -> Callable[[Probe], Probe]:
    """Put a probe on the table, below those before it."""

    def enter(probe: Probe) -> Probe:
        ROWS[name] = Row(group, name, words, probe)
        return probe

    return enter


# --- what probes look at ----------------------------------------------------------------------------------------------


def eventually(predicate: Callable[[], Any], within: float = 10.0) -> bool:
    until = time.monotonic() + within
    while not predicate():
        if time.monotonic() > until:
            return False
        time.sleep(0.02)
    return True


def number_in(path: str, within: float = 30.0) -> int:
    """Wait for a task to say a number."""
    assert eventually(lambda: os.path.exists(path), within), f"{path} never came"
    return int(Path(path).read_text("utf-8"))


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def gone(pid: int, within: float = 10.0) -> bool:
    return eventually(lambda: not alive(pid), within)


def is_beating(path: str) -> bool:
    """Say whether the task still shows that it runs."""
    before = os.path.getsize(path)
    time.sleep(0.5)
    return os.path.getsize(path) > before


def stops_beating(path: str, within: float = 8.0) -> bool:
    return eventually(lambda: not is_beating(path), within)


def story(error: object) -> str:
    """Everything that an error says, its causes too."""
    texts, seen = [], set()
    while isinstance(error, BaseException) and id(error) not in seen:
        seen.add(id(error))
        texts += [repr(error), str(error), *getattr(error, "__notes__", []), str(vars(error))]
        error = error.__cause__ or error.__context__
    return "\n".join(texts)


def told(*facts: object) -> None:
    """Keep for ``--verbose``."""
    DETAILS.extend(str(fact)[:1500] for fact in facts)


DETAILS: list[str] = []


# --- Executor ---------------------------------------------------------------------------------------------------------


@row("interface", "the Executor interface: submit, map, shutdown")
def executor(peer: Peer, room: str) -> bool | str:
    pool = peer.open()
    if not isinstance(pool, concurrent.futures.Executor):
        return False
    future = pool.submit(pow, 2, 3)
    assert isinstance(future, concurrent.futures.Future)
    right = future.result(20) == 8 and list(pool.map(pow, [1, 2], [3, 4])) == [1, 16]
    pool.shutdown(wait=True)
    return right


@row("interface", "`as_completed`, `wait` and asyncio's `run_in_executor`")
def waiting(peer: Peer, room: str) -> bool | str:
    pool = peer.open()
    raw = peer.start(acts.power, 2, 3).raw
    future = raw.future() if hasattr(raw, "future") else raw
    if not isinstance(future, concurrent.futures.Future):
        return False
    assert concurrent.futures.wait([future], 20).done == {future}
    assert list(concurrent.futures.as_completed([future], 20)) == [future]

    async def run() -> int:
        return await asyncio.get_running_loop().run_in_executor(pool, pow, 2, 3)

    try:
        return asyncio.run(run()) == 8 and (True if raw is future else "after conversion")
    except Exception as error:
        told(story(error))
        return "but `run_in_executor`"


@row("interface", "lambdas and closures")
def lambdas(peer: Peer, room: str) -> bool | str:
    try:
        peer.open(by_value=True)
        answer: bool | str = "with an option"
    except (Lacks, TypeError):
        peer.open()
        answer = True
    three = 3
    outcome = peer.start(lambda number: number + three, 4).outcome(15)
    told(story(outcome))
    return answer if outcome == 7 else False


SCRIPTS = {
    "joblib": "print(Parallel(n_jobs=2)(delayed(double)(x) for x in [1, 2]))",
    "ray": "ray.init(num_cpus=2, include_dashboard=False, logging_level='error')\n"
    "print(ray.get([ray.remote(double).remote(x) for x in [1, 2]]))",
    "pebble": "with {open} as pool: print(list(pool.map(double, [1, 2]).result()))",
}


@row("interface", "a script without a guard, and standard input")
def unguarded(peer: Peer, room: str) -> bool | str:
    name = next(name for name, kind in PEERS.items() if type(peer) is kind)

    def runs(context: str) -> bool:
        body = SCRIPTS.get(name, "with {open} as pool: print(list(pool.map(double, [1, 2])))")
        body = body.format(open=peer.OPEN.format(context))
        text = f"{peer.IMPORT}\ndef double(number): return 2 * number\n{body}\nprint('the end')\n"
        script = Path(room) / f"script{len(context)}.py"
        script.write_text(text, encoding="utf-8")
        with open(script, "rb") as source:
            ways: list[tuple[list[str], Any]] = [([str(script)], subprocess.DEVNULL), (["-"], source)]
            for arguments, stdin in ways:
                try:
                    done = subprocess.run(
                        [sys.executable, *arguments],
                        stdin=stdin,
                        capture_output=True,
                        text=True,
                        timeout=15,
                        check=False,
                    )
                except subprocess.TimeoutExpired:
                    return False
                told(done.stdout, done.stderr[-300:])
                if done.stdout.count("[2, 4]") != 1 or done.stdout.count("the end") != 1:
                    return False
        return True

    if not runs(""):
        return False
    return True if not peer.CONTEXT or runs(peer.CONTEXT) else "if forked"


# --- time limits ------------------------------------------------------------------------------------------------------


@row("time limits", "a timeout that ends the task, and no other")
def timeout(peer: Peer, room: str) -> bool | str:
    path = f"{room}/beat"
    peer.open()
    calls = [(acts.beat, path), *((acts.nap, 0.5, text) for text in "abc")]
    try:
        outcomes = peer.together(calls, timeout=1.5)
    except Lacks:
        # The only timeout there is: of the wait for the result.
        outcomes = peer.together(calls, within=6)
    told(outcomes)
    if not isinstance(outcomes[0], BaseException) or not stops_beating(path, 5):
        return False
    return True if outcomes[1:] == ["a", "b", "c"] else "ends all of the call"


@row("time limits", "a soft timeout, raised inside the task", "soft")
def soft(peer: Peer, room: str) -> bool | str:
    path = f"{room}/caught"
    words = ({"soft_timeout": 1},)
    for word in words:
        try:
            peer.open(**word)
        except Lacks:
            continue
        outcome = peer.start(acts.catch, path).outcome(15)
        told(outcome)
        return outcome == "caught"
    peer.open()
    handle = peer.start(acts.catch, path, timeout=1)
    told(handle.outcome(10))
    if not os.path.exists(path):
        return False
    told(Path(path).read_text("utf-8"))
    return "the timeout is one"


def overtime(peer: Peer, room: str, act: Callable[[str], object]) -> Any:
    """Run into the timeout; return the error and the seconds it took; there is nothing to see without one."""
    peer.open()
    begun = time.monotonic()
    try:
        handle = peer.start(act, f"{room}/act", timeout=3)
    except Lacks:
        raise NotThereError from None
    outcome = handle.outcome(20)
    told(story(outcome), time.monotonic() - begun)
    return outcome


class NotThereError(Exception):
    """The row asks about a feature that the library does not have at all."""


@row("time limits", "the error shows where the task hung")
def stack(peer: Peer, room: str) -> bool | str:
    outcome = overtime(peer, room, acts.beat)
    return isinstance(outcome, BaseException) and bool(re.search(r"acts\.py\W.*line \d+.* beat", story(outcome)))


@row("time limits", "also while C code holds the interpreter lock")
def stuck(peer: Peer, room: str) -> bool | str:
    outcome = overtime(peer, room, acts.hold_the_lock)
    if not isinstance(outcome, BaseException):
        return False
    return True if gone(number_in(f"{room}/act.pid"), 5) else "error, but it runs on"


@row("time limits", "programs that it started end with the task")
def family(peer: Peer, room: str) -> bool | str:
    outcome = overtime(peer, room, acts.start_child_and_beat)
    return isinstance(outcome, BaseException) and gone(number_in(f"{room}/act.child"), 5)


# --- deaths -----------------------------------------------------------------------------------------------------------


@row("deaths", "a worker that dies fails its own task only")
def death(peer: Peer, room: str) -> bool | str:
    peer.open()
    outcomes = peer.together([(acts.die,), *((acts.nap, 1.5, text) for text in "abcd")], within=12)
    told(outcomes)
    others = outcomes[1:] == ["a", "b", "c", "d"]
    if others and outcomes[0] == "waiting":
        return "its own waits for ever"
    return isinstance(outcomes[0], BaseException) and others


@row("deaths", "and the pool is of use afterwards")
def afterwards(peer: Peer, room: str) -> bool | str:
    peer.open()
    peer.together([(acts.die,)], within=6)
    outcome = peer.start(acts.power, 2, 3).outcome(12)
    told(outcome)
    return outcome == 8


@row("deaths", "the error tells the exit code")
def exit_code(peer: Peer, room: str) -> bool | str:
    peer.open()
    (outcome,) = peer.together([(acts.die, 37)], within=8)
    told(story(outcome))
    return isinstance(outcome, BaseException) and "37" in story(outcome)


@row("deaths", "the task is tried again, if wished", r"retr(y|ies)")
def retries(peer: Peer, room: str) -> bool | str:
    peer.open()
    outcome = peer.start(acts.die_once, f"{room}/flag", retries=1).outcome(15)
    told(outcome)
    return outcome == "second try"


def bereave(peer: Peer, room: str, *, child: bool) -> bool:
    """Kill a program while its pool works; look for the worker, or for what the worker had started."""
    name = next(name for name, kind in PEERS.items() if type(peer) is kind)
    host = subprocess.Popen([sys.executable, __file__, "--host", name, room])
    pids = [number_in(f"{room}/act.child")] if child else []
    pids.append(number_in(f"{room}/act.pid"))
    time.sleep(1)
    assert all(alive(pid) for pid in pids)
    host.send_signal(signal.SIGKILL)
    host.wait()  # an init that does not reap would have a library that asks for its parent wait for ever
    return gone(pids[0], 10)


@row("deaths", "the host is killed: its busy workers end")
def host_killed(peer: Peer, room: str) -> bool | str:
    return bereave(peer, room, child=False)


@row("deaths", "the host is killed: what its tasks started ends")
def host_killed_child(peer: Peer, room: str) -> bool | str:
    return bereave(peer, room, child=True)


@row("deaths", "a worker is killed: what its task started ends")
def worker_killed(peer: Peer, room: str) -> bool | str:
    peer.open()
    peer.start(acts.start_child_and_beat, f"{room}/act")
    worker, child = number_in(f"{room}/act.pid"), number_in(f"{room}/act.child")
    time.sleep(0.5)
    os.kill(worker, signal.SIGKILL)
    return gone(child, 10)


# --- control ----------------------------------------------------------------------------------------------------------


@row("control", "end one running task", r"(^|_)(kill|cancel)")
def kill(peer: Peer, room: str) -> bool | str:
    peer.open()
    other = peer.start(acts.nap, 4, "other")
    handle = peer.start(acts.beat, f"{room}/beat")
    number_in(f"{room}/beat.pid")
    time.sleep(0.5)
    try:
        peer.kill(handle)
    except Lacks:
        told("cancel() says", peer.cancel(handle))
        return not is_beating(f"{room}/beat")
    return stops_beating(f"{room}/beat") and other.outcome(15) == "other"


@row("control", "cancel a queued call, and wake who waits for it", r"cancel")
def cancel(peer: Peer, room: str) -> bool | str:
    peer.open(1)
    peer.start(acts.beat, f"{room}/beat")
    number_in(f"{room}/beat.pid")
    handles = [peer.start(acts.nap, 0.1) for _ in range(5)]
    answer = peer.cancel(handles[-1])
    raw = handles[-1].raw
    if not answer or not isinstance(raw, concurrent.futures.Future):
        return answer
    woken = bool(concurrent.futures.wait([raw], 3).done)
    return True if woken else "`wait` is not woken"


@row("control", "shut down within a time limit")
def bounded_shutdown(peer: Peer, room: str) -> bool | str:
    pool = peer.open()
    peer.start(acts.beat, f"{room}/beat")
    number_in(f"{room}/beat.pid")
    endings = [getattr(pool, name, None) for name in ("shutdown", "close", "join", "stop_and_join")]
    bounded = [ending for ending in endings if ending and "timeout" in parameters(ending)]
    if not bounded:
        return MISSING
    if hasattr(pool, "close"):
        pool.close()
    try:
        bounded[0](timeout=1)
    except Exception:
        return "raises; the task runs on" if is_beating(f"{room}/beat") else "raises"
    return stops_beating(f"{room}/beat", 1)


def parameters(function: Callable[..., Any]) -> set[str]:
    import inspect

    return set(inspect.signature(function).parameters)


@row("control", "an exception in the `with` block can end the work")
def on_error(peer: Peer, room: str) -> bool | str:
    try:
        pool = peer.open(on_error="kill")
    except Lacks:
        pool = peer.open()
    if isinstance(peer, PEERS["joblib"] | PEERS["ray"]):  # no block, or none in which calls go on
        return NOT_APPLICABLE
    begun = 0.0
    with contextlib.suppress(LookupError), pool:
        peer.start(acts.beat, f"{room}/beat", 15)
        number_in(f"{room}/beat.pid")
        begun = time.monotonic()
        raise LookupError
    return time.monotonic() - begun < 8 and stops_beating(f"{room}/beat", 2)


@row("control", "what a successful task left running")
def leftovers(peer: Peer, room: str) -> bool | str:
    peer.open()
    child = peer.start(acts.start_child, f"{room}/act").get(20)
    time.sleep(1)
    if not alive(child):
        return "ends with the task"
    peer.close()
    return "ends with the worker" if gone(child, 5) else "runs on"


@row("control", "it can be ended with its task, if wished", r"leftover")
def leftovers_end(peer: Peer, room: str) -> bool:
    peer.open(leftovers="end")
    child = peer.start(acts.start_child, f"{room}/act").get(20)
    return not alive(child)


# --- memory and workers -----------------------------------------------------------------------------------------------


@row("workers", "a memory limit while the task runs", r"memory_limit|(^|_)mem")
def memory_limit(peer: Peer, room: str) -> bool | str:
    limit = 200 << 20
    for word in ("memory_limit", "worker_memory"):
        try:
            peer.open(**{word: limit})
        except Lacks:
            continue
        handle = peer.start(acts.grow, 800)
        break
    else:
        peer.open()
        handle = peer.start(acts.grow, 800, memory_limit=limit)
    outcome = handle.outcome(20)
    told(story(outcome), outcome)
    return isinstance(outcome, BaseException)


@row("workers", "a worker that has grown is replaced after its task", r"memory|leak")
def recycling(peer: Peer, room: str) -> bool | str:
    try:
        peer.open(worker_memory=200 << 20)
    except Lacks:
        peer.open()
    peer.together([(acts.slow_pid,)] * 6)
    time.sleep(1.2)  # one library looks once a second at most
    leaky = peer.together([(acts.keep, 400)])[0]
    for _ in range(4):
        time.sleep(1.2)
        if not alive(leaky):
            return True
        peer.together([(acts.slow_pid,)] * 6, within=5)
    return gone(leaky, 3)


@row("workers", "a worker is replaced after so many tasks", r"max_?tasks|lifespan|max_calls")
def max_tasks(peer: Peer, room: str) -> bool | str:
    try:
        peer.open(1, max_tasks=1)
        pids = [peer.start(acts.pid).get(20) for _ in range(3)]
    except Lacks:
        peer.close() if hasattr(peer, "pool") else None
        peer.open(1)
        if isinstance(peer, PEERS["mpire"]):
            pids = list(peer.iterate(acts.pid, range(3), max_tasks=1))
        else:
            pids = [peer.start(acts.pid, max_tasks=1).get(20) for _ in range(3)]
    told(pids)
    return len(set(pids)) == 3


@row("workers", "idle workers leave after a while", r"idle")
def idle_timeout(peer: Peer, room: str) -> bool | str:
    peer.open(2, idle_timeout=1)
    return gone(peer.start(acts.pid).get(20), 15)


@row("workers", "but for so many of them", r"min_?workers")
def min_workers(peer: Peer, room: str) -> bool | str:
    try:
        peer.open(3, min_workers=1, idle_timeout=1)
    except Lacks:
        peer.open(3, min_workers=1)
    pids = {handle.get(20) for handle in [peer.start(acts.slow_pid) for _ in range(12)]}
    time.sleep(5)
    left = sum(map(alive, pids))
    told(pids, left)
    return len(pids) > 1 and left == 1


@row("workers", "workers that stand by", r"spare|stand_?by")
def spare_workers(peer: Peer, room: str) -> bool | str:
    pool = peer.open(1, spare_workers=1)
    peer.start(acts.power, 2, 3).get(20)
    return eventually(lambda: len(pool._processes) == 2)


@row("workers", "an initializer", r"init")
def initializer(peer: Peer, room: str) -> bool | str:
    peer.open(initializer=acts.set_state, initargs=(5,))
    return peer.start(acts.get_state).get(20) == 5


@row("workers", "its failure is shown as it was raised")
def initializer_failure(peer: Peer, room: str) -> bool | str:
    try:
        peer.open(initializer=acts.fail_to_initialize)
        outcome = peer.start(acts.power, 2, 3).outcome(30)
    except Lacks:
        return NOT_APPLICABLE
    except BaseException as error:
        outcome = error
    told(story(outcome), outcome)
    if outcome == 8:
        return "not noticed"
    if outcome == "waiting":
        return "hangs"
    return "no ignition" in story(outcome)


@row("workers", "a finalizer", r"final|worker_exit")
def finalizer(peer: Peer, room: str) -> bool | str:
    peer.open(finalizer=acts.say, finalargs=(f"{room}/final", "done"))
    peer.start(acts.power, 2, 3).get(20)
    peer.close()
    return eventually(lambda: os.path.exists(f"{room}/final"), 5)


@row("workers", "a number for each worker", r"worker_id|get_worker")
def worker_id(peer: Peer, room: str) -> bool | str:
    act = {"Safepool": acts.safepool_worker_id, "Mpire": acts.mpire_worker_id, "Ray": acts.ray_worker_id}
    peer.open(**({"worker_id": True} if isinstance(peer, PEERS["mpire"]) else {}))
    if type(peer).__name__ not in act:
        raise Lacks
    found = peer.start(act[type(peer).__name__]).get(20)
    told(found)
    return isinstance(found, int) or "a name"


@row("workers", "state that tasks of a worker share", r"(^|_)state$")
def worker_state(peer: Peer, room: str) -> bool | str:
    if isinstance(peer, PEERS["ray"]):
        ray = peer.open()

        class Counter:
            count = 0

            def up(self) -> int:
                self.count += 1
                return self.count

        counter = ray.remote(Counter).remote()
        return "actors" if ray.get([counter.up.remote() for _ in range(2)]) == [1, 2] else False
    act = {"Safepool": acts.safepool_count, "Mpire": acts.mpire_count}
    peer.open(1, **({"state": True} if isinstance(peer, PEERS["mpire"]) else {}))
    if type(peer).__name__ not in act:
        raise Lacks
    return list(peer.iterate(act[type(peer).__name__], [1, 2])) == [1, 2]


@row("workers", "a pool that is shared and resized", r"reus|resiz|grow|keep_alive|get_reusable_executor")
def reusable(peer: Peer, room: str) -> bool | str:
    if isinstance(peer, PEERS["safepool"] | PEERS["loky"]):
        if isinstance(peer, PEERS["safepool"]):
            from safepool import get_reusable_executor
        else:
            from loky import get_reusable_executor
        first = get_reusable_executor(1)
        pid = first.submit(acts.pid).result(20)
        second = get_reusable_executor(2)
        pids = {future.result(20) for future in [second.submit(acts.slow_pid) for _ in range(6)]}
        return pid in pids and second._max_workers == 2
    if isinstance(peer, PEERS["joblib"]):
        peer.open()
        return len({pid for _ in range(2) for pid in peer.together([(acts.slow_pid,)] * 4)}) == 2 and "shared"
    if isinstance(peer, PEERS["mpire"]):
        from mpire import WorkerPool

        with WorkerPool(2, keep_alive=True) as pool:
            return len({pid for _ in range(2) for pid in pool.map(acts.slow_pid, range(4))}) == 2 and "kept alive"
    peer.open()
    raise Lacks


@row("workers", "environment variables for workers", r"env")
def environment(peer: Peer, room: str) -> bool | str:
    peer.open(env={"PROBE": "1"})
    return peer.start(acts.environ, "PROBE").get(30) == "1"


@row("workers", "limits for the threads of BLAS and OpenMP", r"thread")
def threads(peer: Peer, room: str) -> bool | str:
    os.environ.pop("OMP_NUM_THREADS", None)
    try:
        peer.open(threads=3)
    except Lacks:
        peer.open()
        found = peer.start(acts.environ, "OMP_NUM_THREADS").get(20)
        told(found)
        if found is None:
            raise
        return f"sets {found}"
    return peer.start(acts.environ, "OMP_NUM_THREADS").get(20) == "3"


@row("workers", "own reducers for pickling", r"reducer|serializer")
def reducers(peer: Peer, room: str) -> bool | str:
    if isinstance(peer, PEERS["ray"]):
        ray = peer.open()
        ray.util.register_serializer(acts.Opaque, serializer=lambda opaque: opaque.value, deserializer=acts.Opaque)
    else:
        peer.open(reducers={acts.Opaque: acts.reduce_opaque})
    return peer.start(acts.value_of, acts.Opaque(5)).get(20) == 5


# --- queue and map ----------------------------------------------------------------------------------------------------


@row("queue and map", "priorities", r"priorit")
def priority(peer: Peer, room: str) -> bool | str:
    peer.open(1)
    path = f"{room}/order"
    with contextlib.suppress(AttributeError):
        peer.start(acts.nap, 1.5)
    time.sleep(1)
    handles = [peer.start(acts.note, path, "later", priority=5) for _ in range(3)]
    handles.append(peer.start(acts.note, path, "first", priority=1))
    for handle in handles:
        handle.get(20)
    order = Path(path).read_text("utf-8").split()
    told(order)
    return order.index("first") < 2  # one may already be on its way


@row("queue and map", "`submit` waits while the queue is full", r"backlog|max_pending|pending_calls|queue_?size")
def back_pressure(peer: Peer, room: str) -> bool | str:
    peer.open(1, max_pending=1)
    peer.start(acts.power, 2, 3).get(20)
    begun = time.monotonic()
    for _ in range(6):
        peer.start(acts.nap, 0.5)
    took = time.monotonic() - begun
    told(took)
    return took > 0.9


@row("queue and map", "`submit` raises while the queue is full, if wished", r"when_full")
def refusal(peer: Peer, room: str) -> bool | str:
    peer.open(1, max_pending=1, when_full="raise")
    try:
        for _ in range(6):
            peer.start(acts.nap, 0.5)
    except queue.Full as error:
        told(story(error))
        return True
    return False


class Counted:
    """Items of a map, and how many were taken."""

    def __init__(self, limit: int) -> None:
        self.limit, self.taken = limit, 0

    def __iter__(self) -> Iterator[int]:
        while self.taken < self.limit:
            self.taken += 1
            yield self.taken


@row("queue and map", "a map that takes its input as it goes", r"buffersize|max_tasks_active|pre_dispatch|lazy")
def lazy(peer: Peer, room: str) -> bool | str:
    if isinstance(peer, PEERS["ray"]):  # no map, but in what is built on top of it
        return NOT_APPLICABLE
    peer.open()
    items = Counted(10_000)
    try:
        results = peer.iterate(acts.invert, items, lazy=8)
    except Lacks:
        items = Counted(10_000)
        results = peer.iterate(acts.invert, items)
    first = [next(results) for _ in range(3)]
    time.sleep(0.5)
    told(first, items.taken)
    if items.taken < 1000:
        return True
    return "as tasks finish" if isinstance(peer, PEERS["joblib"]) and fed_by_tasks(peer) else False


def fed_by_tasks(peer: Peer) -> bool:
    """Say whether slow tasks hold the input back, though a slow reader of the results does not."""
    items = Counted(10_000)
    next(peer.iterate(acts.slow, items))
    time.sleep(0.5)
    return items.taken < 1000


@row("queue and map", "a map in the order of completion", r"unordered")
def unordered(peer: Peer, room: str) -> bool | str:
    peer.open()
    results = list(peer.unordered(acts.nap, [2.5, 0.1]))
    if results == [0.1, 2.5]:
        return True if not isinstance(peer, PEERS["ray"]) else "by `ray.wait`"
    return False


def walk(results: Iterator[Any]) -> list[Any]:
    """Go on after errors, as far as the iterator does."""
    outcomes: list[Any] = []
    for _ in range(10):
        try:
            outcomes.append(next(results))
        except StopIteration:
            break
        except Exception as error:
            outcomes.append(error)
    return outcomes


@row("queue and map", "a map goes on after an item that failed")
def going_on(peer: Peer, room: str) -> bool | str:
    peer.open()
    try:
        outcomes = walk(peer.iterate(acts.invert, [1, 0, 2], go_on=True))
    except Lacks:
        outcomes = walk(peer.iterate(acts.invert, [1, 0, 2]))
    told(outcomes)
    return outcomes[0::2] == [1.0, 0.5] and isinstance(outcomes[1], BaseException)


@row("queue and map", "and after an item whose time was up", r"(?!)")
def item_deadline(peer: Peer, room: str) -> bool | str:
    peer.open()
    items = [0.1, 500, 0.2]
    try:
        outcomes = walk(peer.iterate(acts.nap, items, timeout=1.5, go_on=True))
    except Lacks:
        return NOT_APPLICABLE
    told(outcomes)
    return outcomes[0::2] == [0.1, 0.2] and isinstance(outcomes[1], BaseException)


# --- decorators -------------------------------------------------------------------------------------------------------


@row("decorators", "a function that runs in a process, by a decorator")
def decorator(peer: Peer, room: str) -> bool | str:
    if isinstance(peer, PEERS["pebble"]):
        import pebble

        return pebble.concurrent.process(acts.invert)(2).result(20) == 0.5
    if isinstance(peer, PEERS["safepool"]):
        import safepool

        return safepool.process(acts.invert)(2).result(20) == 0.5
    if isinstance(peer, PEERS["ray"]):
        return peer.open().get(peer.pool.remote(acts.invert).remote(2), timeout=20) == 0.5
    peer.open()
    raise Lacks


@row("decorators", "and can be awaited")
def awaiting(peer: Peer, room: str) -> bool | str:
    if isinstance(peer, PEERS["pebble"]):
        import pebble

        call = pebble.asynchronous.process(acts.invert)
    elif isinstance(peer, PEERS["safepool"]):
        import safepool

        call = safepool.process(acts.invert)
    elif isinstance(peer, PEERS["ray"]):
        call = peer.open().remote(acts.invert).remote
    else:
        peer.open()
        raise Lacks

    async def run() -> float:
        return await call(2)

    return asyncio.run(asyncio.wait_for(run(), 20)) == 0.5


# --- running it -------------------------------------------------------------------------------------------------------


def run_cell(name: str, peer_name: str, room: str) -> None:
    """Be the process that probes one cell, and write down what was seen."""
    entry, peer = ROWS[name], PEERS[peer_name]()
    try:
        answer = entry.probe(peer, room)
        verdict = answer if isinstance(answer, str) else "yes" if answer else "no"
    except Lacks as error:
        if not hasattr(peer, "pool"):
            peer.open()
        told("lacks", error, *(words := sorted(word for word in peer.vocabulary() if re.search(entry.words, word))))
        verdict = MISSING if not words else f"{MISSING}?"
    except NotThereError:
        verdict = NOT_APPLICABLE
    except BaseException as error:
        told(story(error))
        verdict = "no"
    Path(room, "verdict").write_text(json.dumps([verdict, DETAILS]), encoding="utf-8")
    os._exit(0)  # whatever hangs is ended by who started this


def run_host(peer_name: str, room: str) -> None:
    """Be a program that is killed while its task has started a program, and hangs."""
    peer = PEERS[peer_name]()
    peer.open()
    peer.start(acts.start_child_and_beat, f"{room}/act").outcome(60)


def probe(name: str, peer_name: str) -> tuple[str, list[str]]:
    """Start a process for a cell, wait, and see to it that nothing of it stays."""
    mark = f"PROBE_{secrets.token_hex(8)}"
    with tempfile.TemporaryDirectory(prefix="probe-") as room:
        with open(os.path.join(room, "output"), "wb") as output:
            path = os.pathsep.join([str(HERE), *filter(None, sys.path)])
            cell = subprocess.Popen(
                [sys.executable, __file__, "--cell", name, peer_name, room],
                env={**os.environ, mark: "1", "PYTHONPATH": path},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
            with contextlib.suppress(subprocess.TimeoutExpired):
                cell.wait(LIMIT)
        try:
            verdict, details = json.loads(Path(room, "verdict").read_text("utf-8"))
        except FileNotFoundError:
            verdict, details = "hangs", [Path(room, "output").read_text("utf-8", errors="replace")[-3000:]]
        end_carrying(mark)
        cell.wait()
    return verdict, details


def end_carrying(mark: str) -> None:
    from support.handles import end_all

    end_all(mark)


def versions() -> str:
    names = {"deadpool": "deadpool-executor", "stdlib": "", "mp.Pool": "", "safepool": ""}
    found = []
    for peer in PEERS:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):  # not here: its cells say so
            found += [f"{peer} {importlib.metadata.version(name)}"] if (name := names.get(peer, peer)) else []
    return (
        f"Python {platform.python_version()}, {platform.system()} {platform.release().partition('-')[0]}; "
        + ", ".join(found)
    )


def print_table(cells: dict[tuple[str, str], str], names: list[str], peers: list[str]) -> None:
    print(versions())
    for group, members in itertools.groupby(names, lambda name: ROWS[name].group):
        print(f"\n| {group} | {' | '.join(peers)} |\n|{'---|' * (len(peers) + 1)}")
        for name in members:
            print(f"| {name} | {' | '.join(cells[name, peer] for peer in peers)} |")


def main() -> None:
    """Probe what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--row", help="only rows whose name has this text in it", default="")
    parser.add_argument("--peer", help="only this library", choices=PEERS, action="append")
    parser.add_argument("--jobs", help="cells at a time", type=int, default=3)
    parser.add_argument("--verbose", help="show what was seen", action="store_true")
    parser.add_argument("--cell", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--host", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.cell:
        run_cell(*options.cell)
    elif options.host:
        run_host(*options.host)
    else:
        peers = options.peer or list(PEERS)
        names = [name for name in ROWS if options.row in name]
        pairs = list(itertools.product(names, peers))
        cells = {}
        with concurrent.futures.ThreadPoolExecutor(options.jobs) as threads_:
            for pair, (verdict, details) in zip(pairs, threads_.map(lambda pair: probe(*pair), pairs), strict=True):
                cells[pair] = verdict
                if options.verbose:
                    print(*pair, verdict, *details, sep="\n    ", file=sys.stderr, flush=True)
        print_table(cells, names, peers)


if __name__ == "__main__":
    main()
