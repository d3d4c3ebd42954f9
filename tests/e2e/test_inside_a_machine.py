"""An executor inside a machine: what needs other machines is refused there, and what is not known is not told."""

import pytest

from flyexecutor import FlyMachineExecutor, Retry, SettingsError
from flyexecutor.lane import name_lane
from tests import tasks

WAIT = 30.0
BIGGER = Retry(on_oom="bigger")


def test_larger_machines_are_refused_inside_a_machine(make_executor):
    def ask():
        said = []
        for make in (
            lambda: FlyMachineExecutor(retries=BIGGER),
            lambda: FlyMachineExecutor().with_options(retries=BIGGER),
            lambda: FlyMachineExecutor().schedule(tasks.increment, 1, every="daily"),
        ):
            with pytest.raises(SettingsError, match=r"(on_oom|schedule): inside a machine nobody can start other"):
                make()
            said.append("refused")
        return said

    assert make_executor().submit(ask).result(WAIT) == ["refused"] * 3


def test_no_price_is_told_inside_a_machine(make_executor):
    def ask():
        inside = FlyMachineExecutor()
        future = inside.submit(tasks.increment, 1)
        future.result(WAIT)
        return future.info().run_seconds, future.info().dollars, inside.stats().running, inside.stats().dollars

    run_seconds, *told = make_executor(max_workers=1, guest="performance-2x").submit(ask).result(WAIT)
    assert run_seconds >= 0
    assert told == [None, 1, None]


def test_larger_lanes_are_made_once_for_all_that_with_options_makes_and_anew_by_new_limits(make_executor, monkeypatch):
    made = []
    monkeypatch.setattr("flyexecutor.fleet.config.name_lane", lambda *told: made.append(told) or name_lane(*told))
    executor = make_executor(max_workers=1)
    bigger = executor.with_options(retries=BIGGER)
    lanes = executor._client._lanes
    assert (len(made), len(lanes)) == (1, 1)
    futures = [one.submit(tasks.increment, 1) for one in (bigger, bigger, executor.with_options(retries=BIGGER))]
    assert (len(made), len(lanes)) == (4, 4)  # 512, 1024, 2048 MB
    executor.set_limits(max_workers=2)
    futures.append(bigger.submit(tasks.increment, 1))
    assert (len(made), len(lanes)) == (8, 4)
    assert {lane.max_workers for lane in lanes.values()} == {2}
    assert bigger._max_workers == 2
    assert [future.result(WAIT) for future in futures] == [2] * 4


def test_limits_that_are_refused_change_nothing(make_executor):
    executor = make_executor(max_workers=2)
    with pytest.raises(SettingsError, match=r"max_cost_per_hour is 0\.0001"):
        executor.set_limits(max_workers=7, max_cost_per_hour=0.0001)
    assert (executor._max_workers, executor._lane.max_workers) == (2, 2)
