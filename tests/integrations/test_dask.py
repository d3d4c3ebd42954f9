"""dask takes the executor as its scheduler."""

import dask

from tests import tasks

WAIT = 60.0


def test_a_graph_is_computed_on_machines(make_executor):
    executor = make_executor(max_workers=2)
    numbers = [dask.delayed(tasks.increment)(n) for n in range(10)]
    machines = [dask.delayed(tasks.machine_id)() for _ in range(3)]
    total, seen = dask.compute(dask.delayed(sum)(numbers), machines, scheduler=executor)
    assert total == 55
    assert all(seen)


def test_an_exception_in_a_graph_is_raised(make_executor):
    bad = dask.delayed(tasks.raise_value_error)("no good")
    try:
        dask.compute(bad, scheduler=make_executor())
    except ValueError as exc:
        assert str(exc) == "no good"  # noqa: PT017 - dask adds frames of its own, pytest's own check takes the type only
    else:
        raise AssertionError("nothing was raised")
