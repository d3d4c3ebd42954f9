"""adaptive's runner takes the executor; it wants to be told how many tasks to have at a time."""

import adaptive
import pytest

# adaptive's own event loop handling, on newer Python versions
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:adaptive")


def peak(x):
    return x + 0.01 / (0.01 + x * x)


def test_a_function_is_learnt_on_machines(make_executor):
    learner = adaptive.Learner1D(peak, bounds=(-1, 1))
    adaptive.BlockingRunner(learner, npoints_goal=15, executor=make_executor(max_workers=2), ntasks=2)
    assert learner.npoints >= 15
    assert learner.data[-1.0] == peak(-1.0)
