"""A machine that has just stopped can't be started for a moment: its next call runs all the same."""

import pytest

from tests import tasks

WAIT = 30.0


@pytest.mark.usefixtures("quick_fleet")
def test_a_call_for_a_machine_that_has_just_stopped_runs(make_executor, local_fly):
    executor = make_executor(guest="performance-2x", max_workers=1, idle_timeout=0.2)  # too large to be suspended
    try:
        local_fly.inject(still_active=1.5)
        first = executor.submit(tasks.increment, 1)
        assert first.result(WAIT) == 2
        while local_fly.states()[first.machine_id] != "stopped":
            pass
        second = executor.submit(tasks.increment, 2)
        assert second.result(WAIT) == 3
        assert second.machine_id == first.machine_id
    finally:
        local_fly.inject()
