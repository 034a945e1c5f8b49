"""What workers run in tests of a worker's whole life: who it is, what it keeps, what it does at its end."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
from pathlib import Path
from typing import Any, NoReturn

import safepool
from contract.gate import announce, pass_gate
from features import acts

_kept: dict[str, Any] = {}


# --- identity ---


def tell_id() -> int:
    return safepool.get_worker().id


def pass_gate_and_tell_id(folder: str) -> int:
    pass_gate(folder, None)
    return safepool.get_worker().id


def ask_who() -> tuple[str, int]:
    return repr(safepool.get_worker()), os.getpid()


def count() -> tuple[int, int]:
    """Say who this is, and how many times it was asked."""
    worker = safepool.get_worker()
    worker.state.count = getattr(worker.state, "count", 0) + 1
    return worker.id, worker.state.count


def pass_gate_and_count(folder: str) -> tuple[int, int]:
    pass_gate(folder, None)
    return count()


def count_and_die() -> NoReturn:
    count()
    os._exit(7)


def keep_in_state(name: str, value: object) -> None:
    setattr(safepool.get_worker().state, name, value)


def tell_state() -> dict[str, object]:
    return dict(vars(safepool.get_worker().state))


def ask_in_thread() -> tuple[bool, str]:
    """Say whether a thread of the task finds the same worker, and what it kept there."""
    found = []

    def ask() -> None:
        found.append(safepool.get_worker())
        found[0].state.word = "from a thread"

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
    worker = safepool.get_worker()
    return found == [worker], worker.state.word


def ask_in_forked_child() -> str:
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, _ask().encode())
        os._exit(0)
    os.close(writer)
    with open(reader, encoding="ascii") as answer:
        told = answer.read()
    os.waitpid(child, 0)
    return told


def ask_in_spawned_child() -> str:
    context = multiprocessing.get_context("spawn")
    queue = context.SimpleQueue()
    process = context.Process(target=_answer, args=(queue,))
    process.start()
    told: str = queue.get()
    process.join()
    process.close()
    queue.close()
    return told


def _answer(queue: Any) -> None:
    queue.put(_ask())


def _ask() -> str:
    try:
        return repr(safepool.get_worker())
    except RuntimeError as error:
        return str(error)


def ask_nested() -> tuple[tuple[int, int], list[tuple[int, int]], tuple[int, int]]:
    """Count here, then twice in the worker of a pool of this task, then here."""
    before = count()
    with safepool.SafeProcessPoolExecutor(1) as pool:
        nested = [pool.submit(count).result(60) for _ in range(2)]
    return before, nested, count()


# --- the end ---


def note_pid(path: str, word: str) -> None:
    acts.note(path, f"{word} {os.getpid()}")


def keep_everywhere(word: str) -> None:
    """Serve as initializer: keep the word as a global and in the worker's state."""
    _kept["word"] = word
    safepool.get_worker().state.word = word


def note_what_was_kept(path: str) -> None:
    worker = safepool.get_worker()
    acts.note(path, f"{worker.id} {_kept['word']} {worker.state.word} {worker.state.count}")


def fail_by(kind: type[BaseException], text: str) -> NoReturn:
    raise kind(text)


def fail_as_initializer() -> NoReturn:
    raise ValueError("not fit")


def log_to(path: str) -> None:
    """Serve as initializer: have what goes to the standard library's logger written into a file."""
    logging.getLogger("concurrent.futures").addHandler(logging.FileHandler(path, encoding="utf-8"))


def arrive_and_hang(folder: str, *, deaf: bool = False) -> NoReturn:
    if deaf:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    announce(folder)
    while True:
        pass


def hang_at_the_end(folder: str, deaf: bool) -> NoReturn:
    arrive_and_hang(folder, deaf=deaf)


def pass_gate_and_note_pid(folder: str, path: str) -> None:
    pass_gate(folder, None)
    note_pid(path, "left")


def grow_and_hang() -> NoReturn:
    _kept["memory"] = b"x" * (256 << 20)
    while True:
        pass


def put(queue: Any, value: object) -> None:
    queue.put(value)


def pass_gate_and_fail_at_first(folder: str, path: str) -> int:
    """Die in the first run, once the gate lets it; return how many runs it took."""
    acts.note(path, "run")
    runs = len(Path(path).read_text("ascii").split())
    if runs == 1:
        pass_gate(folder, None)
        os._exit(7)
    return runs
