"""Queues, locks, events, pipes and values are shared with processes of the context."""

from __future__ import annotations

import os
from collections.abc import Callable
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from typing import Any

import pytest

from context import calls
from contract.patience import PATIENCE

Start = Callable[..., BaseProcess]


def test_queue_carries_values(context: BaseContext, start: Start) -> None:
    queue: Any = context.Queue()
    start(calls.send_twice, 21, queue)
    assert queue.get(timeout=PATIENCE) == 42
    queue.close()
    queue.join_thread()


def test_joinable_queue_carries_values(context: BaseContext, start: Start) -> None:
    queue: Any = context.JoinableQueue()
    start(calls.send_twice, 21, queue)
    assert queue.get(timeout=PATIENCE) == 42
    queue.task_done()
    queue.close()
    queue.join_thread()


def test_simple_queue_carries_values(context: BaseContext, start: Start) -> None:
    queue: Any = context.SimpleQueue()
    process = start(calls.send_twice, 21, queue)
    process.join(PATIENCE)
    assert not queue.empty()
    assert queue.get() == 42
    queue.close()


def test_pipe_carries_values_both_ways(context: BaseContext, start: Start) -> None:
    mine, theirs = context.Pipe()
    start(calls.answer_over_pipe, theirs)
    theirs.close()
    mine.send(41)
    assert mine.poll(PATIENCE)
    assert mine.recv() == 42
    mine.close()


def test_event_is_seen_on_both_sides(context: BaseContext, start: Start) -> None:
    ours, theirs = context.Event(), context.Event()
    start(calls.wait_then_set, ours, theirs)
    assert not theirs.is_set()
    ours.set()
    assert theirs.wait(PATIENCE)


@pytest.mark.parametrize("held", [True, False])
def test_lock_is_shared(context: BaseContext, start: Start, held: bool) -> None:
    lock, queue = context.Lock(), context.SimpleQueue()
    if held:
        lock.acquire()
    start(calls.try_lock, lock, queue).join(PATIENCE)
    assert queue.get() is not held
    queue.close()


def test_value_is_shared(context: BaseContext, start: Start) -> None:
    value: Any = context.Value("i", 41)
    start(calls.add_to_value, value).join(PATIENCE)
    assert value.value == 42


@pytest.mark.parametrize("daemon", [True, False])
def test_process_knows_itself(context: BaseContext, start: Start, daemon: bool) -> None:
    queue: Any = context.SimpleQueue()
    process = start(calls.describe_self, queue, name="Somebody", daemon=daemon)
    process.join(PATIENCE)
    assert queue.get() == (process.pid, "Somebody", daemon)
    assert process.pid != os.getpid()
    queue.close()
