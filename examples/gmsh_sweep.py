"""Mesh a plate with a hole for many parameters, some of which hang or crash the mesher.

    pip install 'safepool[examples]'
    python examples/gmsh_sweep.py

A parameter sweep over native code is where a process pool usually dies: one combination of parameters meets a bug
and takes the interpreter down, another keeps the mesher busy until tomorrow. Here each of them becomes one row of
the table, beside the meshes of its neighbours.

Both faults are Gmsh's own; nothing is simulated:

* a mesh size of 1e-4 asks for some 200 million triangles, and native code does not look up before it has them;
* two size fields that refer to each other make Gmsh call itself until the stack is full: a segmentation fault.
"""

from __future__ import annotations

import collections
import itertools
import resource
import signal
import time
from concurrent.futures import as_completed
from typing import TYPE_CHECKING, NamedTuple

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from safepool import InitializerError, SafeProcessPoolExecutor, TaskTimeoutError, WorkerDiedError

if TYPE_CHECKING:
    from concurrent.futures import Future

TASK_TIMEOUT = 3.0  # seconds; an ordinary mesh here takes a tenth of one
STACK = 8 << 20  # bytes; the customary limit, see prepare_worker


class Plate(NamedTuple):
    """One point of the sweep: a unit square with a round hole in the middle."""

    size: float
    radius: float
    circular_fields: bool = False


class Mesh(NamedTuple):
    """What a worker sends back."""

    elements: int
    seconds: float


class Row(NamedTuple):
    """One line of the table."""

    outcome: str
    elements: int | None
    seconds: float | None
    remark: str = ""


# --- tasks: these run in workers ----------------------------------------------------------------------------------
# Gmsh is imported here and nowhere else: code that is never loaded in the host cannot crash the host.


def prepare_worker() -> None:
    """Initialize Gmsh once per worker."""
    import gmsh

    # Gmsh raises its stack limit as far as it may. Where that is "unlimited", a runaway recursion eats all memory
    # before it crashes; with a hard limit it crashes at once, which is the better failure.
    _, most = resource.getrlimit(resource.RLIMIT_STACK)
    limit = STACK if most == resource.RLIM_INFINITY else min(STACK, most)
    resource.setrlimit(resource.RLIMIT_STACK, (limit, limit))
    gmsh.initialize(interruptible=False)
    gmsh.option.setNumber("General.Terminal", 0)
    gmsh.option.setNumber("General.NumThreads", 1)


def mesh(plate: Plate) -> Mesh:
    """Mesh one plate and count its triangles."""
    import gmsh

    began = time.monotonic()
    gmsh.clear()
    gmsh.option.setNumber("Mesh.MeshSizeMin", plate.size)
    gmsh.option.setNumber("Mesh.MeshSizeMax", plate.size)
    square = gmsh.model.occ.addRectangle(0, 0, 0, 1, 1)
    hole = gmsh.model.occ.addDisk(0.5, 0.5, 0, plate.radius, plate.radius)
    gmsh.model.occ.cut([(2, square)], [(2, hole)])
    gmsh.model.occ.synchronize()
    if plate.circular_fields:
        refer_to_each_other()
    gmsh.model.mesh.generate(2)
    _, tags, _ = gmsh.model.mesh.getElements(dim=2)
    return Mesh(sum(map(len, tags)), time.monotonic() - began)


def refer_to_each_other() -> None:
    """Set up two size fields, each of which asks the other one for its input."""
    import gmsh

    fields = gmsh.model.mesh.field
    one, other = fields.add("Threshold"), fields.add("Threshold")
    fields.setNumber(one, "InField", other)
    fields.setNumber(other, "InField", one)
    fields.setAsBackgroundMesh(one)


# --- host ---------------------------------------------------------------------------------------------------------


def main() -> None:
    """Run the sweep with a progress bar, then print the table."""
    console = Console()
    plates = sweep()
    rows: dict[Plate, Row] = {}
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with (
        Progress(*columns, console=console) as progress,
        SafeProcessPoolExecutor(initializer=prepare_worker, task_timeout=TASK_TIMEOUT) as pool,
    ):
        bar = progress.add_task("meshing", total=len(plates))
        futures: dict[Future[Mesh], Plate] = {pool.submit(mesh, plate): plate for plate in plates}
        for future in as_completed(futures):
            rows[futures[future]] = judge(future)
            progress.advance(bar)
    console.print(tabulate(plates, rows))
    tally = collections.Counter(row.outcome for row in rows.values())
    console.print(", ".join(f"{count} {outcome}" for outcome, count in tally.most_common()))


def sweep() -> list[Plate]:
    """Every size with every radius, and among them three plates that no mesher should be asked for."""
    plates = [Plate(size, radius) for size, radius in itertools.product((0.1, 0.05, 0.02), (0.1, 0.2, 0.3, 0.4))]
    plates.insert(2, Plate(1e-4, 0.2))
    plates.insert(4, Plate(0.05, 0.2, circular_fields=True))
    plates.insert(6, Plate(-1.0, 0.2))
    return plates


def judge(future: Future[Mesh]) -> Row:
    """Turn the outcome of a task, whatever it is, into a line of the table."""
    try:
        meshed = future.result()
    except InitializerError:
        raise  # no worker could be made ready (is Gmsh installed?), so there is no sweep to report on
    except TaskTimeoutError as error:
        return Row("timed out", None, error.elapsed, f"limit {error.timeout:g} s")
    except WorkerDiedError as error:
        return Row("crashed", None, error.elapsed, name_exit(error.exitcode))
    except Exception as error:  # noqa: BLE001 — Gmsh raises bare Exception for what it refuses
        return Row("refused", None, None, str(error))
    return Row("meshed", meshed.elements, meshed.seconds)


def name_exit(code: int | None) -> str:
    """Name the signal that ended a worker; without one, its exit status."""
    return signal.Signals(-code).name if code is not None and code < 0 else f"exit status {code}"


def tabulate(plates: list[Plate], rows: dict[Plate, Row]) -> Table:
    """Lay the rows out in the order of the sweep."""
    table = Table("size", "radius", "fields", "outcome", "elements", "seconds", "remark", title="Plate with a hole")
    for plate in plates:
        row = rows[plate]
        table.add_row(
            f"{plate.size:g}",
            f"{plate.radius:g}",
            "circular" if plate.circular_fields else "",
            row.outcome,
            "" if row.elements is None else f"{row.elements}",
            "" if row.seconds is None else f"{row.seconds:.2f}",
            row.remark,
            style="" if row.outcome == "meshed" else "yellow",
        )
    return table


if __name__ == "__main__":
    main()
