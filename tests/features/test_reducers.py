"""``job_reducers`` and ``result_reducers``: how calls and results are pickled, in one pool and in no other."""

from __future__ import annotations

import copyreg
import multiprocessing
from collections.abc import Iterator
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import pytest

from contract.patience import error_of, result_of
from contract.scripts import run_script
from features import acts, parcels
from features.parcels import LostParcelError, Parcel
from safepool import InitializerError, SafeProcessPoolExecutor, TransferError, WorkerDiedError

JOB = {Parcel: parcels.by_job}
RESULT = {Parcel: parcels.by_result}


@pytest.fixture
def registered() -> Iterator[None]:
    ForkingPickler.register(Parcel, parcels.by_registry)
    yield
    del ForkingPickler._extra_reducers[Parcel]


def test_job_reducer_is_for_arguments_wherever_they_are_and_not_for_results(new_pool) -> None:
    pool = new_pool(job_reducers=JOB)

    assert result_of(pool.submit(parcels.route_of, Parcel())) == ("job",)
    assert result_of(pool.submit(parcels.routes_of, [Parcel("a"), Parcel("b")], last=Parcel())) == [
        ("a", "job"),
        ("b", "job"),
        ("job",),
    ]
    assert list(pool.map(parcels.route_of, [Parcel()] * 3, chunksize=2)) == [("job",)] * 3
    assert result_of(pool.submit(parcels.new_parcel))[0].route == ("new", "own")


def test_job_reducer_is_for_what_a_closure_and_an_initializer_hold(new_pool) -> None:
    held = Parcel("held")
    pool = new_pool(job_reducers=JOB, initializer=parcels.keep, initargs=(Parcel("kept"),))

    assert result_of(pool.submit(lambda: held.route)) == ("held", "job")
    assert result_of(pool.submit(parcels.kept_route)) == ("kept", "job")


def test_result_reducer_is_for_results_and_not_for_arguments(new_pool) -> None:
    pool = new_pool(result_reducers=RESULT)

    assert result_of(pool.submit(parcels.new_parcel))[0].route == ("new", "result")
    assert result_of(pool.submit(parcels.send_back, {"inner": [Parcel()]}))["inner"][0].route == ("own", "result")


def test_result_reducer_is_for_exceptions(new_pool) -> None:
    pool = new_pool(result_reducers={LostParcelError: parcels.by_result})

    error = error_of(pool.submit(parcels.lose_new))

    assert isinstance(error, LostParcelError)
    assert error.route == ("new", "result")
    assert "lose_new" in str(error.__cause__)


def test_result_reducer_made_on_the_spot_travels_by_value(new_pool) -> None:
    mark = "on the spot"
    pool = new_pool(result_reducers={Parcel: lambda parcel: (Parcel, (*parcel.route, mark))})

    assert result_of(pool.submit(parcels.new_parcel))[0].route == ("new", "on the spot")
    assert result_of(pool.submit(lambda: [Parcel(mark)]))[0].route == ("on the spot", "on the spot")


def test_reducers_for_a_class_that_cannot_be_imported_serve_it(new_pool) -> None:
    class Local:
        def __init__(self, *route: str) -> None:
            self.route = route

    def by(way: str):
        return lambda local: (Local, (*local.route, way))

    pool = new_pool(job_reducers={Local: by("job")}, result_reducers={Local: by("result")})

    assert result_of(pool.submit(parcels.send_back, Local())).route == ("job", "result")


def test_reducer_comes_before_that_of_multiprocessing(new_pool, registered) -> None:
    options = {"initializer": parcels.register, "initargs": (Parcel, parcels.by_registry)}
    without = new_pool(**options)
    pool = new_pool(job_reducers=JOB, result_reducers=RESULT, **options)

    assert result_of(without.submit(parcels.send_back, Parcel())).route == ("registry", "registry")
    assert result_of(pool.submit(parcels.send_back, Parcel())).route == ("job", "result")
    held = Parcel()
    assert result_of(pool.submit(lambda: [held]))[0].route == ("job", "result")


def test_reducers_of_one_pool_are_those_of_no_other(new_pool) -> None:
    pool = new_pool(job_reducers=JOB, result_reducers=RESULT)
    other = new_pool()

    assert result_of(pool.submit(parcels.send_back, Parcel())).route == ("job", "result")
    assert result_of(other.submit(parcels.send_back, Parcel())).route == ("own", "own")
    assert result_of(pool.submit(parcels.route_in_inner_pool)) == (("own",), ("new", "own"))
    assert Parcel not in ForkingPickler._extra_reducers
    assert Parcel not in copyreg.dispatch_table


def test_reducer_may_give_the_name_of_a_global(new_pool) -> None:
    pool = new_pool(job_reducers={Parcel: parcels.as_the_last_one})

    assert result_of(pool.submit(parcels.is_last, parcels.LAST))


def test_reducers_are_those_that_were_given(new_pool) -> None:
    job, result = dict(JOB), dict(RESULT)
    pool = new_pool(job_reducers=job, result_reducers=result)
    job.clear()
    result.clear()

    assert result_of(pool.submit(parcels.send_back, Parcel())).route == ("job", "result")


def test_result_of_a_plain_type_with_a_reducer_is_rebuilt_in_no_thread_that_keeps_deadlines(new_pool) -> None:
    pool = new_pool(result_reducers={complex: parcels.number_from_thread})

    thread, number = result_of(pool.submit(parcels.new_number))

    assert number == 3
    assert thread == "safepool-delivery"


def test_job_reducer_that_raises_fails_its_task_alone(new_pool) -> None:
    pool = new_pool(job_reducers={Parcel: parcels.lose})

    assert isinstance(error_of(pool.submit(parcels.route_of, Parcel())), LookupError)
    assert result_of(pool.submit(acts.square, 3)) == 9


def test_result_reducer_that_raises_fails_its_task_alone(new_pool) -> None:
    pool = new_pool(result_reducers={Parcel: parcels.lose, LostParcelError: parcels.lose})
    pid = result_of(pool.submit(acts.tell_pid))

    assert isinstance(error_of(pool.submit(parcels.new_parcel)), LookupError)
    assert isinstance(error_of(pool.submit(parcels.lose_new)), TransferError)
    assert result_of(pool.submit(acts.tell_pid)) == pid


def test_worker_that_dies_while_it_reduces_fails_its_task_and_the_next_has_the_reducers_too(new_pool) -> None:
    pool = new_pool(result_reducers={parcels.Fatal: parcels.end_worker, **RESULT})
    waiting = [pool.submit(parcels.new_parcel) for _ in range(2)]

    error = error_of(pool.submit(parcels.new_fatal))

    assert isinstance(error, WorkerDiedError)
    assert error.exitcode == 7
    waiting.append(pool.submit(parcels.new_parcel))
    assert [result_of(future)[0].route for future in waiting] == [("new", "result")] * 3


def test_result_reducer_that_no_worker_can_unpickle_breaks_the_pool_with_its_reason(new_pool) -> None:
    pool = new_pool(result_reducers={Parcel: parcels.Unwelcome()})

    error = error_of(pool.submit(acts.square, 3))

    assert isinstance(error, InitializerError)
    assert isinstance(error.__cause__, LookupError)


def test_initializer_whose_own_result_cannot_be_pickled_is_fine(new_pool) -> None:
    assert result_of(new_pool(initializer=multiprocessing.Lock).submit(acts.square, 3)) == 9


def test_reducers_of_a_script_travel_by_value(tmp_path: Path) -> None:
    program = """
from safepool import SafeProcessPoolExecutor

class Parcel:
    def __init__(self, *route):
        self.route = route

def by_job(parcel):
    return Parcel, (*parcel.route, "job")

def by_result(parcel):
    return Parcel, (*parcel.route, "result")

HELD = Parcel("held")

with SafeProcessPoolExecutor(1, job_reducers={Parcel: by_job}, result_reducers={Parcel: by_result}) as pool:
    print(pool.submit(lambda parcel: [parcel], Parcel()).result()[0].route)
    print(pool.submit(lambda: HELD).result().route)
"""
    done = run_script(tmp_path / "program.py", program)

    assert done.stdout == "('job', 'result')\n('held', 'job', 'result')\n", done.stderr


@pytest.mark.parametrize("option", ["job_reducers", "result_reducers"])
@pytest.mark.parametrize("value", [3, [Parcel], {"Parcel": str}, {Parcel: 3}, {list: str}])
def test_bad_reducers_are_refused_by_name(option: str, value) -> None:
    with pytest.raises((TypeError, ValueError), match=f"{option} must .*, not "):
        SafeProcessPoolExecutor(1, **{option: value})
