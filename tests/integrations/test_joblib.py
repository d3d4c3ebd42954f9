"""joblib runs on machines after `register()`."""

import joblib
import pytest

from flyexecutor import current_call
from flyexecutor.contrib.joblib import register
from tests import tasks


@pytest.fixture
def backend(make_executor):
    register("fly", make_executor(max_workers=2))
    with joblib.parallel_config(backend="fly", n_jobs=2):
        yield


def test_parallel_calls_run_on_machines(backend):
    assert joblib.Parallel()(joblib.delayed(tasks.increment)(n) for n in range(20)) == list(range(1, 21))
    assert all(joblib.Parallel()(joblib.delayed(tasks.machine_id)() for _ in range(3)))


def name_of_this_call():
    return current_call().name


def test_a_batch_of_joblib_has_the_name_of_its_function(backend, make_executor):
    assert joblib.Parallel()([joblib.delayed(name_of_this_call)()]) == ["name_of_this_call"]
    register("named", make_executor(max_workers=2).with_options(name="mine"))
    with joblib.parallel_config(backend="named", n_jobs=2):
        assert joblib.Parallel()([joblib.delayed(name_of_this_call)()]) == ["mine"]


def test_an_exception_is_raised_where_the_results_are_wanted(backend):
    with pytest.raises(ValueError, match="3 is bad"):
        joblib.Parallel()(joblib.delayed(tasks.fail_on)(3, n) for n in range(6))


def test_results_can_be_had_as_a_generator(backend):
    results = joblib.Parallel(return_as="generator")(joblib.delayed(tasks.increment)(n) for n in range(5))
    assert list(results) == [1, 2, 3, 4, 5]
