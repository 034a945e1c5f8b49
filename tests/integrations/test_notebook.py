"""Notebooks: what cells define is what tasks run, and a kernel that goes leaves nobody.

Every test has a kernel of its own, which a front end drives as Jupyter's does (``notebook_frontend.py``). What a cell
prints is what it is judged by.
"""

from __future__ import annotations

import importlib.util
import json
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support.handles import Handle, gone, none_alive
from support.hosts import Program

MISSING = [name for name in ("nbclient", "ipykernel") if importlib.util.find_spec(name) is None]
pytestmark = [
    pytest.mark.notebook,
    pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}"),
]

FRONT_END = str(Path(__file__).with_name("notebook_frontend.py"))
POOL = """
from safepool import SafeProcessPoolExecutor
pool = SafeProcessPoolExecutor(1)
"""
# A task that says who runs it, and then waits for its gate.
WAITING = """
from support.rendezvous import pass_gate, report

def wait(reports, gate):
    report(reports, "worker")
    pass_gate(gate)
"""


class Notebook:
    """A notebook with its kernel, in a front end."""

    def __init__(self, front_end: Program) -> None:
        self.front_end = front_end
        self.kernel = front_end.hold({"kernel": int(front_end.rendezvous.expect("kernel").detail)})["kernel"]
        self._cells = 0

    def tell(self, do: str, **details: str) -> None:
        assert self.front_end.process.stdin is not None
        self.front_end.process.stdin.write(json.dumps({"do": do, **details}).encode() + b"\n")
        self.front_end.process.stdin.flush()

    def start(self, source: str) -> str:
        """Start one more cell; gives its label."""
        self._cells += 1
        label = f"cell-{self._cells}"
        self.tell("run", label=label, source=source)
        return label

    def outcome(self, label: str) -> dict[str, str]:
        answer: dict[str, str] = json.loads(self.front_end.rendezvous.expect(label).detail)
        return answer

    def run(self, source: str) -> str:
        """Run one more cell, which must not fail, and give what it printed."""
        outcome = self.outcome(self.start(source))
        assert "error" not in outcome, outcome
        return outcome["printed"]

    def call_of_wait(self) -> str:
        """Arguments for ``submit``: a task that waits for the gate."""
        self.gate = self.front_end.gate("gate")
        return f"wait, {self.front_end.rendezvous.path!r}, {self.gate.path!r}"

    def hold_worker(self) -> dict[str, Handle]:
        """Wait until the task that waits is there; gives its worker."""
        return self.front_end.hold_reported(["worker"])


@pytest.fixture
def notebook(
    make_program: Callable[[], Program], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Notebook]:
    """A notebook; when the front end has left in the end, nobody may be left."""
    for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))  # nothing of whoever runs the tests
    front_end = make_program()
    front_end.run([sys.executable, FRONT_END, front_end.rendezvous.path, str(tmp_path)])
    yield Notebook(front_end)
    assert front_end.process.stdin is not None
    front_end.process.stdin.close()
    assert front_end.finish() == 0, front_end.stderr
    front_end.leaves_nothing()


def test_functions_of_cells_are_tasks(notebook: Notebook) -> None:
    notebook.run(POOL)
    notebook.run("""
from functools import partial

OFFSET = 1

def double(x):
    return 2 * x

def add(x, y):
    return double(x) // 2 + y

def adder(x):
    return lambda y: add(x, y) + OFFSET
""")
    assert notebook.run("print(pool.submit(double, 4).result(), list(pool.map(double, range(3))))") == "8 [0, 2, 4]\n"
    assert notebook.run("print(pool.submit(lambda x: double(x) + OFFSET, 4).result())") == "9\n"
    assert notebook.run("print(pool.submit(adder(3), 4).result(), pool.submit(adder, 5).result()(6))") == "8 12\n"
    assert notebook.run("print(pool.submit(partial(add, 3), y=4).result())") == "7\n"
    assert (
        notebook.run(
            "import asyncio\nloop = asyncio.get_running_loop()\nprint(await loop.run_in_executor(pool, double, 21))"
        )
        == "42\n"
    )


def test_classes_of_cells_come_back_as_themselves(notebook: Notebook) -> None:
    notebook.run(POOL)
    notebook.run("""
import dataclasses, enum

class Point:
    def __init__(self, x):
        self.x = x

class Derived(Point):
    def doubled(self):
        return type(self)(2 * self.x)

@dataclasses.dataclass
class Record:
    number: int

class Colour(enum.Enum):
    RED = 1

class OwnError(Exception):
    pass

def fail():
    raise OwnError("raised")
""")
    assert notebook.run("point = pool.submit(Point, 3).result()\nprint(type(point) is Point, point.x)") == "True 3\n"
    assert (
        notebook.run(
            "it = pool.submit(Derived.doubled, Derived(3)).result()\n"
            "print(type(it) is Derived, isinstance(it, Point), it.x)"
        )
        == "True True 6\n"
    )
    assert notebook.run("print(pool.submit(isinstance, Derived(3), Point).result())") == "True\n"
    assert notebook.run("print(pool.submit(Record, 3).result() == Record(3))") == "True\n"
    assert notebook.run("print(pool.submit(lambda colour: colour, Colour.RED).result() is Colour.RED)") == "True\n"
    assert notebook.run("print(type(pool.submit(fail).exception()) is OwnError)") == "True\n"


def test_what_an_initializer_of_a_cell_has_set_is_what_tasks_see(notebook: Notebook) -> None:
    notebook.run(POOL)
    notebook.run("""
STATE = None

def initialize(value):
    global STATE
    STATE = value

def state():
    return STATE

def forget():
    global STATE
    STATE = "forgotten"

pool_with_state = SafeProcessPoolExecutor(1, initializer=initialize, initargs=(5,))
""")
    assert notebook.run("print(pool_with_state.submit(state).result(), STATE)") == "5 None\n"
    notebook.run("pool_with_state.submit(forget).result()")
    assert notebook.run("print(pool_with_state.submit(state).result(), STATE)") == "forgotten None\n"


def test_what_a_later_cell_defines_anew_is_what_later_tasks_use(notebook: Notebook) -> None:
    notebook.run(POOL)
    notebook.run("""
FACTOR = 2

class Point:
    def __init__(self, x):
        self.x = x

def scale(x):
    return FACTOR * x

def make(x):
    return Point(scale(x))
""")
    assert notebook.run("print(pool.submit(make, 4).result().x)") == "8\n"
    notebook.run("def scale(x): return -FACTOR * x")
    assert notebook.run("print(pool.submit(make, 4).result().x)") == "-8\n"
    notebook.run("FACTOR = 3")
    assert notebook.run("print(pool.submit(make, 4).result().x)") == "-12\n"
    notebook.run("class Point:\n    def __init__(self, x):\n        self.x, self.is_new = x, True")
    assert (
        notebook.run("point = pool.submit(make, 4).result()\nprint(type(point) is Point, point.is_new)")
        == "True True\n"
    )


def test_task_that_takes_too_long_ends_and_the_notebook_goes_on(notebook: Notebook) -> None:
    notebook.run(POOL)
    notebook.run("def hang():\n    while True: pass")
    outcome = notebook.outcome(notebook.start("pool.submit(hang, task_timeout=0.3).result()"))

    assert outcome["error"] == "TaskTimeoutError"
    assert outcome["message"].startswith("hang() was still running after its 0.3 s")
    assert notebook.run("print(pool.submit(abs, -3).result())") == "3\n"


def test_module_that_a_cell_has_written_is_one_that_workers_import(notebook: Notebook) -> None:
    notebook.run("import os\nos.mkdir('later')\nos.chdir('later')")
    notebook.run("with open('written.py', 'w') as file:\n    file.write('def name(): return __name__')")
    notebook.run("import written\n" + POOL)

    assert notebook.run("print(pool.submit(written.name).result())") == "written\n"


def test_interrupted_cell_leaves_a_pool_that_works(notebook: Notebook) -> None:
    """The task goes on meanwhile: nobody has been told to end it."""
    notebook.run(POOL + WAITING)
    cell = notebook.start(f"future = pool.submit({notebook.call_of_wait()})\nfuture.result()")
    worker = notebook.hold_worker()
    notebook.tell("interrupt")

    assert notebook.outcome(cell)["error"] == "KeyboardInterrupt"
    assert notebook.run("print(future.running())") == "True\n"
    assert worker["worker"].alive()
    notebook.gate.open()
    assert notebook.run("print(future.result(), pool.submit(abs, -3).result())") == "None 3\n"


def test_interrupted_block_has_ended_its_pool_and_no_other(notebook: Notebook) -> None:
    notebook.run(POOL + WAITING)
    cell = notebook.start(f"""
with SafeProcessPoolExecutor(1) as own:
    future = own.submit({notebook.call_of_wait()})
    future.result()
""")
    worker = notebook.hold_worker()
    notebook.tell("interrupt")

    assert notebook.outcome(cell)["error"] == "KeyboardInterrupt"
    none_alive(worker)
    assert notebook.run("print(type(future.exception()).__name__)") == "TaskKilledError\n"
    assert notebook.run("print(pool.submit(abs, -3).result())") == "3\n"


def test_kernel_that_is_killed_leaves_nobody(notebook: Notebook) -> None:
    notebook.run(POOL + WAITING)
    notebook.run(f"future = pool.submit({notebook.call_of_wait()})")
    worker = notebook.hold_worker()
    notebook.kernel.send(signal.SIGKILL)

    gone(worker)
    notebook.front_end.leaves_nothing()


@pytest.mark.parametrize("busy", [False, True], ids=["idle", "busy"])
def test_kernel_that_is_shut_down_leaves_nobody(notebook: Notebook, busy: bool) -> None:
    """By a request; the front end, which lives on, resorts to signals a few seconds later."""
    notebook.run(POOL + WAITING)
    notebook.run(f"future = pool.submit({notebook.call_of_wait()})")
    worker = notebook.hold_worker()
    if not busy:
        notebook.gate.open()
        notebook.run("future.result()")
    assert worker["worker"].alive()
    notebook.tell("shutdown")

    notebook.front_end.rendezvous.expect("shutdown")
    gone({"kernel": notebook.kernel, **worker})
    notebook.front_end.leaves_nothing()
