"""What becomes of machines that do not run, do not join, or run for nobody, with another side that records."""

from dataclasses import replace

import pytest

from flyexecutor.errors import MachinesError, MachineStartError
from flyexecutor.fleet import launch
from flyexecutor.fleet.launch import Launcher
from flyexecutor.fleet.losses import Losses
from flyexecutor.fleet.machine import Exit, Machine
from flyexecutor.fleet.policy import Abandon, Bury, GiveUp, Stop
from flyexecutor.fleet.turns import Turns
from flyexecutor.lane import Lane
from tests.fleet.recorded import Recorded

NOW = 5_000.0
LANE = Lane("lane", {}, (), 5, 1, 60.0)
RUNS = Machine("m1", "m1", "started", "iad", "1", "ok", None, "lane", changed_at=NOW)
ENDED = replace(RUNS, state="stopped", exit=Exit(1, -1, False, 2))


class Loss:
    def __init__(self):
        self.side, self.told = Recorded(is_worker=[False], bury=[0]), []
        quiet = {"raised": None, "launched": None, "outdated": None, "troubled": None}
        self.launcher = Launcher(self.side, self.side, self.side, LANE, **quiet)
        self.losses = Losses(
            self.side,
            self.side,
            self.launcher,
            Turns("c"),
            troubled=lambda error, passing: self.told.append((error, passing)),
        )
        self.launcher.ledger.boot("m1", None, 0.0)

    @property
    def counted_on(self):
        return self.launcher.ledger.is_booting("m1")

    @property
    def avoided(self):
        return self.launcher.ledger.avoided(launch.time.monotonic())


@pytest.fixture
def loss():
    return Loss()


# Slow boots


def test_a_slow_boot_is_stopped_and_told_and_one_that_has_just_joined_is_not(loss):
    action = Abandon("m1", RUNS, begun=True)
    loss.side.answers["is_worker"] = [True]
    loss.losses.abandon(LANE, action)
    assert (loss.side.of("stop"), loss.told) == ([], [])
    loss.side.answers["is_worker"] = [False]
    loss.losses.abandon(LANE, action)
    ((error, passing),) = loss.told
    assert (loss.side.of("stop"), isinstance(error, MachineStartError), error.phase, passing) == (
        [["m1"]],
        True,
        "join",
        False,
    )
    assert "did not join within 60 s" in str(error)
    assert (loss.side.of("release"), loss.counted_on) == ([["m1"]], False)


def test_a_machine_that_fly_has_not_begun_to_run_is_given_up_for_another_and_is_no_fault_of_the_image(loss):
    loss.losses.abandon(LANE, Abandon("m1", replace(RUNS, state="created"), begun=False))
    ((error, passing),) = loss.told
    assert ("still created" in str(error), error.phase, error.region, passing) == (True, "boot", "iad", True)
    assert (loss.side.of("destroy"), loss.side.of("stop"), loss.side.of("release")) == ([["m1"]], [], [["m1"]])
    assert not loss.avoided


def test_a_machine_that_was_prepared_is_avoided_and_not_destroyed_when_fly_does_not_begin_it(loss):
    hung = replace(RUNS, state="created", prepared=True, launches=False)
    loss.losses.abandon(LANE, Abandon("m1", hung, begun=False))
    assert [passing for _, passing in loss.told] == [True]
    assert (loss.side.of("destroy"), loss.side.of("release"), loss.avoided) == ([], [["m1"]], {"m1"})


def test_a_machine_that_no_list_has_is_stopped_when_it_is_slow_and_not_once_it_was_given_up(loss):
    loss.side.answers["get"] = [RUNS, None]
    for _ in range(2):
        loss.losses.give_up(LANE, GiveUp("m1", None, again=True), NOW)
        loss.losses.abandon(LANE, Abandon("m1", None, begun=True))
        loss.launcher.ledger.boot("m1", None, 0.0)  # it was started again
    assert loss.side.of("stop") == [["m1"]]
    assert [error.phase for error, _ in loss.told] == ["join", "boot"]


@pytest.mark.parametrize(("verb", "begun"), [("stop", True), ("destroy", False)])
def test_a_machine_that_can_not_be_stopped_or_destroyed_is_told_all_the_same(loss, verb, begun):
    loss.side.answers[verb] = [MachinesError("broken", 500)]
    loss.losses.abandon(LANE, Abandon("m1", RUNS, begun=begun))
    assert (len(loss.told), loss.counted_on) == (1, False)


# Machines that ended


def test_a_machine_that_ended_is_given_up_with_the_reason(loss):
    assert loss.losses.give_up(LANE, GiveUp("m1", ENDED, again=True), NOW)
    assert not loss.losses.give_up(LANE, GiveUp("m1", ENDED, again=False), NOW)
    (error, _), (_, passing) = loss.told
    assert "machine m1 ended before its worker joined: exit code 1" in str(error)
    assert (error.phase, error.region, passing, loss.counted_on) == ("boot", "iad", False, False)
    assert loss.side.of("get") == []  # Fly's list has it


@pytest.mark.parametrize(
    ("found", "what"),
    [
        (None, "it no longer exists"),
        (replace(RUNS, state="failed"), "did not begin (failed)"),
        (replace(RUNS, host_status="unreachable"), "did not begin (started)"),
        (replace(RUNS, state="starting", changed_at=NOW - 301), "did not begin (starting)"),
        (RUNS, None),
        (MachinesError("broken", 503), None),
    ],
)
def test_a_machine_that_no_list_has_is_given_up_if_a_get_says_that_it_is_gone(loss, found, what):
    loss.side.answers["get"] = [found]
    assert loss.losses.give_up(LANE, GiveUp("m1", None, again=True), NOW) is (what is not None)
    assert [what in str(error) for error, _ in loss.told] == ([True] if what else [])
    assert loss.counted_on is (what is None)


def test_a_machine_is_counted_on_until_redis_has_heard_that_it_is_given_up(loss):
    loss.side.answers["release"] = [RuntimeError("Redis is away")]
    with pytest.raises(RuntimeError):
        loss.losses.give_up(LANE, GiveUp("m1", ENDED, again=True), NOW)
    assert loss.counted_on


# Workers whose machine is lost


@pytest.mark.parametrize(("calls", "again"), [(2, True), (0, False), (-1, False)])
def test_the_calls_of_a_lost_machine_are_freed_and_looked_after_at_once_if_there_are_any(loss, calls, again):
    loss.side.answers["bury"] = [calls]
    assert loss.losses.bury(LANE, Bury("m1", "7", ENDED), NOW) is again
    assert loss.side.of("bury") == [["m1", "7", "it is stopped (exit code 1)"]]


def test_a_worker_that_no_list_has_is_buried_only_if_a_get_says_that_it_is_gone(loss):
    loss.side.answers["get"] = [MachinesError("broken", 503), RUNS, None]
    loss.side.answers["bury"] = [1]
    answers = [loss.losses.bury(LANE, Bury("m1", "7", None), NOW) for _ in range(3)]
    assert answers == [False, False, True]
    assert loss.side.of("bury") == [["m1", "7", "it no longer exists"]]


@pytest.mark.parametrize("oom", [False, True])
def test_who_is_buried_has_run_out_of_memory_or_not(loss, oom):
    loss.losses.bury(LANE, Bury("m1", "7", replace(ENDED, exit=Exit(137, 9, oom, 2))), NOW)
    assert [more for verb, more in loss.side.options if verb == "bury"] == [{"oom": oom}]


def test_a_machine_that_runs_for_nobody_is_counted_on_no_longer_before_it_is_stopped(loss):
    loss.losses.stop(Stop(RUNS))
    assert [verb for verb, *_ in loss.side.asked] == ["release", "stop"]
    assert not loss.counted_on
