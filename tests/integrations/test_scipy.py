"""SciPy takes `executor.map` as its `workers`."""

import numpy
from scipy.optimize import differential_evolution, rosen


def test_differential_evolution_runs_on_machines(make_executor):
    executor = make_executor(max_workers=2)
    options = {"updating": "deferred", "maxiter": 3, "popsize": 3, "polish": False, "rng": 1}
    bounds = [(0, 2), (0, 2)]
    found = differential_evolution(rosen, bounds, workers=executor.map, **options)
    alone = differential_evolution(rosen, bounds, **options)
    assert numpy.allclose(found.x, alone.x)
    assert found.nfev == alone.nfev
