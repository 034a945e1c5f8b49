"""Every case: what is measured, in which units, and how much of it at each scale.

``tiny`` is for tests of the benchmark itself, ``quick`` takes minutes for all peers, ``full`` is what is published.
"""

from __future__ import annotations

from safepool.bench import endings, footprint, latency, throughput, transfer
from safepool.bench.case import Case, Metric

__all__ = ["CASES"]

_KIB, _MIB = 1 << 10, 1 << 20


def _rate(label: str) -> tuple[Metric]:
    return (Metric("rate", label, "tasks/s", more_is_better=True),)


def _spread(label: str, unit: str = "ms") -> tuple[Metric, Metric]:
    return Metric("p50", f"{label}, p50", unit), Metric("p99", f"{label}, p99", unit)


def _fate(label: str) -> tuple[Metric, ...]:
    return *_spread(label), Metric("left", "still there 5 s later", "processes")


def _both_ways(label: str) -> tuple[Metric, Metric]:
    return (
        Metric("in", f"{label} in", "GB/s", more_is_better=True),
        Metric("out", f"{label} out", "GB/s", more_is_better=True),
    )


_ALL = (
    Case(
        "submit",
        "throughput",
        _rate("submit and gather no-ops"),
        throughput.submit_and_gather,
        tiny={"count": 50},
        quick={"count": 5_000},
        full={"count": 50_000},
    ),
    Case(
        "submit-timeout",
        "throughput",
        _rate("the same, each with a time limit"),
        throughput.submit_with_timeout,
        tiny={"count": 50},
        quick={"count": 5_000},
        full={"count": 50_000},
    ),
    Case(
        "deadlines",
        "throughput",
        _rate("1,000 limits in flight"),
        throughput.deadlines_in_flight,
        tiny={"count": 100, "window": 20},
        quick={"count": 5_000, "window": 1_000},
        full={"count": 50_000, "window": 1_000},
    ),
    Case(
        "map-1",
        "throughput",
        _rate("map no-ops, chunksize 1"),
        throughput.map_items,
        fixed={"chunk": 1},
        tiny={"count": 50},
        quick={"count": 5_000},
        full={"count": 50_000},
    ),
    Case(
        "map-64",
        "throughput",
        _rate("map no-ops, chunksize 64"),
        throughput.map_items,
        fixed={"chunk": 64},
        tiny={"count": 200},
        quick={"count": 100_000},
        full={"count": 1_000_000},
    ),
    Case(
        "queue",
        "throughput",
        (
            Metric("rate", "submit and gather, the long queue", "tasks/s", more_is_better=True),
            Metric("kept", "that, over the rate with the short queue", "%", more_is_better=True),
        ),
        throughput.queued,
        tiny={"few": 20, "many": 200},
        quick={"few": 1_000, "many": 20_000},
        full={"few": 10_000, "many": 1_000_000},
    ),
    Case(
        "short",
        "throughput",
        (Metric("efficiency", "tasks of 1 ms of CPU: share of the CPUs' time", "%", more_is_better=True),),
        throughput.short_tasks,
        fixed={"seconds": 0.001},
        tiny={"count": 20},
        quick={"count": 1_000},
        full={"count": 10_000},
    ),
    Case(
        "mixed",
        "throughput",
        (Metric("makespan", "1 % of tasks 1,000x longer: time over the ideal", "x"),),
        throughput.mixed_lengths,
        tiny={"count": 100, "short": 0.00002, "factor": 1_000},
        quick={"count": 1_000, "short": 0.0002, "factor": 1_000},
        full={"count": 5_000, "short": 0.0002, "factor": 1_000},
    ),
    Case(
        "round-trip",
        "latency",
        _spread("round trip", "µs"),
        latency.round_trip,
        tiny={"count": 20},
        quick={"count": 1_000},
        full={"count": 10_000},
    ),
    Case(
        "import",
        "latency",
        (Metric("import", "import, over a bare interpreter", "ms"),),
        latency.import_time,
        tiny={"count": 1},
        quick={"count": 5},
        full={"count": 21},
    ),
    Case(
        "first-result",
        "latency",
        (Metric("first", "first result from nothing", "ms"), Metric("close", "end of an idle pool", "ms")),
        latency.first_result,
        tiny={},
        quick={},
        full={},
    ),
    Case(
        "spawn",
        "latency",
        _spread("bare spawn of a process, to compare with"),
        latency.bare_spawn,
        tiny={"count": 1},
        quick={"count": 5},
        full={"count": 30},
        only=("stdlib",),
    ),
    Case(
        "replace",
        "latency",
        _spread("worker killed: the next task starts"),
        latency.replacement,
        fixed={"spare": 0},
        tiny={"count": 1, "rest": 0.0},
        quick={"count": 3, "rest": 0.0},
        full={"count": 30, "rest": 0.0},
    ),
    Case(
        "replace-standby",
        "latency",
        _spread("the same, with a worker that stands by"),
        latency.replacement,
        fixed={"spare": 1},
        tiny={"count": 1, "rest": 0.1},
        quick={"count": 3, "rest": 1.0},
        full={"count": 30, "rest": 1.0},
    ),
    Case(
        "bytes-64M",
        "data",
        (Metric("both", "64 MiB of bytes, there and back", "GB/s", more_is_better=True),),
        transfer.bytes_and_back,
        tiny={"size": _MIB, "count": 1},
        quick={"size": 64 * _MIB, "count": 3},
        full={"size": 64 * _MIB, "count": 15},
    ),
    Case(
        "array-64M",
        "data",
        _both_ways("array of 64 MiB"),
        transfer.arrays_in_and_out,
        tiny={"size": _MIB, "batch": 1, "count": 1},
        quick={"size": 64 * _MIB, "batch": 1, "count": 3},
        full={"size": 64 * _MIB, "batch": 1, "count": 15},
    ),
    Case(
        "array-1M",
        "data",
        _both_ways("arrays of 1 MiB, 32 at a time"),
        transfer.arrays_in_and_out,
        tiny={"size": _MIB, "batch": 2, "count": 1},
        quick={"size": _MIB, "batch": 32, "count": 5},
        full={"size": _MIB, "batch": 32, "count": 31},
    ),
    Case(
        "array-16K",
        "data",
        _both_ways("arrays of 16 KiB, 512 at a time"),
        transfer.arrays_in_and_out,
        tiny={"size": 16 * _KIB, "batch": 4, "count": 1},
        quick={"size": 16 * _KIB, "batch": 512, "count": 5},
        full={"size": 16 * _KIB, "batch": 512, "count": 31},
    ),
    Case(
        "idle-memory",
        "footprint",
        (
            Metric("rss", "idle worker, RSS", "MiB"),
            Metric("pss", "idle worker, PSS", "MiB"),
            Metric("all", "all processes but the host, PSS", "MiB"),
        ),
        footprint.idle_memory,
        tiny={},
        quick={},
        full={},
    ),
    Case(
        "queue-memory",
        "footprint",
        (Metric("task", "host memory for each queued task", "bytes"),),
        footprint.queue_memory,
        tiny={"count": 5_000},
        quick={"count": 20_000},
        full={"count": 1_000_000},
    ),
    Case(
        "idle-switches",
        "footprint",
        (Metric("switches", "wake-ups of an idle pool in 5 s", ""),),
        footprint.idle_switches,
        tiny={"settle": 0.1, "seconds": 0.2},
        quick={"settle": 1.0, "seconds": 5.0},
        full={"settle": 1.0, "seconds": 5.0},
    ),
    Case(
        "overshoot",
        "endings",
        (
            *_fate("time limit of a task that hangs: gone so long after it"),
            Metric("told", "the same: the caller knows, p50", "ms"),
        ),
        endings.deadline_overshoot,
        tiny={"timeout": 0.1, "trials": 1, "patience": 0.5},
        quick={"timeout": 0.2, "trials": 10, "patience": 5.0},
        full={"timeout": 0.2, "trials": 200, "patience": 5.0},
    ),
    Case(
        "host-kill",
        "endings",
        _fate("host killed, 8 workers with 4 children each"),
        endings.host_killed,
        tiny={"hosted": 1, "children": 1, "trials": 1, "patience": 0.5},
        quick={"hosted": 8, "children": 4, "trials": 2, "patience": 5.0},
        full={"hosted": 8, "children": 4, "trials": 30, "patience": 5.0},
    ),
    Case(
        "tree-end",
        "endings",
        _fate("task ended, tree of 100 processes"),
        endings.tree_ended,
        tiny={"branches": 1, "leaves": 1, "trials": 1, "patience": 0.5},
        quick={"branches": 10, "leaves": 9, "trials": 2, "patience": 5.0},
        full={"branches": 10, "leaves": 9, "trials": 30, "patience": 5.0},
    ),
    Case(
        "scale-tasks",
        "scaling",
        (),
        throughput.scaling_tasks,
        tiny={"counts": [10, 100]},
        quick={"counts": [100, 1_000, 10_000]},
        full={"counts": [100, 1_000, 10_000, 100_000, 1_000_000]},
        series="tasks",
    ),
    Case(
        "scale-workers",
        "scaling",
        (),
        throughput.scaling_workers,
        tiny={"counts": [1, 2], "per_worker": 10, "at_least": 20},
        quick={"counts": [1, 2, 4, 8], "per_worker": 250, "at_least": 2_000},
        full={"counts": [1, 2, 4, 8, 16, 32, 64, 128, 256], "per_worker": 250, "at_least": 10_000},
        series="workers",
    ),
)

CASES: dict[str, Case] = {case.name: case for case in _ALL}
