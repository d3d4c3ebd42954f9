"""A short run of `make chaos`: whatever goes wrong, every call is answered once and no machine is left running."""

import pytest

from tests import chaos


@pytest.mark.long
@pytest.mark.timeout(240)
@pytest.mark.parametrize("seed", [1, 2])
def test_whatever_goes_wrong_every_call_is_answered_once_and_nothing_runs_on(seed):
    report = chaos.run(60, seed)
    print(report)
    assert report.deeds
