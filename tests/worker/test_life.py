"""The stages of a worker's life: the table, what leads from one to another, and what time ends."""

import contextlib

import pytest

from flyexecutor.worker.life import DRAIN_SECONDS, NEXT, Life, Stage

STARTING, JOINED, IDLE, DRAINING, OLD, RESTING, WAKING, ENDED = Stage
# What happens to a worker (suspended when idle, or not), and whither it leads from which stage.
EVENTS = {
    "join": (lambda life: life.join(), True, {(STARTING, JOINED), (WAKING, JOINED)}),
    "idle": (lambda life: life.note_idle(True), True, {(JOINED, IDLE)}),
    "busy": (lambda life: life.note_idle(False), True, {(IDLE, JOINED)}),
    "stop": (
        lambda life: life.stop(0.0),
        True,
        {(STARTING, DRAINING), (JOINED, DRAINING), (IDLE, DRAINING), (WAKING, DRAINING)},
    ),
    "retire": (lambda life: life.retire(1e9), True, {(JOINED, OLD), (IDLE, OLD)}),
    "leave, to rest": (lambda life: life.leave(), True, {(IDLE, RESTING), (DRAINING, ENDED), (OLD, ENDED)}),
    "leave, to end": (
        lambda life: life.leave(),
        False,
        {(IDLE, ENDED), (DRAINING, ENDED), (OLD, ENDED), (WAKING, ENDED)},
    ),
    "wake": (lambda life: life.wake(), True, {(RESTING, WAKING)}),
    "rejoin": (lambda life: life.rejoin(0.0), True, {(STARTING, JOINED), (IDLE, JOINED), (WAKING, JOINED)}),
    "end": (lambda life: life.end(), True, {(IDLE, ENDED), (DRAINING, ENDED), (OLD, ENDED), (WAKING, ENDED)}),
}


def life_in(stage, *, suspends=True, max_lifetime=100.0):
    life = Life(max_lifetime, suspends=suspends, now=1000.0)
    life.stage = stage
    return life


def test_a_life_begins_outside_the_lane():
    assert Life(100.0, suspends=True, now=0.0).stage is Stage.STARTING


@pytest.mark.parametrize(("happens", "suspends", "made"), EVENTS.values(), ids=EVENTS)
def test_what_happens_leads_from_stage_to_stage_or_changes_nothing(happens, suspends, made):
    seen = set()
    for stage in Stage:
        life = life_in(stage, suspends=suspends)
        with contextlib.suppress(RuntimeError):
            happens(life)
        if life.stage is not stage:
            seen.add((stage, life.stage))
    assert seen == made


def test_all_that_happens_together_is_the_table():
    made = {transition for _, _, transitions in EVENTS.values() for transition in transitions}
    assert made == {(stage, following) for stage, stages in NEXT.items() for following in stages}


def test_a_transition_that_the_table_lacks_names_both_stages_and_changes_nothing():
    life = life_in(Stage.ENDED)
    deadline = life.deadline
    with pytest.raises(RuntimeError, match="ended can't be draining"):
        life.stop(1.0)
    assert (life.stage, life.deadline) == (Stage.ENDED, deadline)


def test_a_worker_in_its_lane_that_joins_again_stays_what_it_is():
    for stage in (Stage.JOINED, Stage.IDLE, Stage.DRAINING, Stage.OLD):
        life = life_in(stage)
        life.join()
        assert life.stage is stage


def test_a_worker_that_stops_or_has_left_is_not_idle_whatever_it_does():
    for stage in (Stage.STARTING, Stage.DRAINING, Stage.OLD, Stage.RESTING, Stage.WAKING, Stage.ENDED):
        life = life_in(stage)
        life.note_idle(True)
        life.note_idle(False)
        assert life.stage is stage


@pytest.mark.parametrize(("max_lifetime", "drain"), [(100.0, DRAIN_SECONDS), (20.0, 10.0)])
def test_a_worker_is_old_in_time_to_end_what_runs(max_lifetime, drain):
    life = life_in(Stage.JOINED, max_lifetime=max_lifetime)
    old_at = 1000.0 + max_lifetime - drain
    assert life.deadline == old_at
    assert not life.retire(old_at - 0.1)
    assert life.stage is Stage.JOINED
    assert life.retire(old_at)
    assert (life.stage, life.deadline) == (Stage.OLD, 1000.0 + max_lifetime)


def test_whoever_stops_already_neither_stops_again_nor_grows_old():
    draining, old = life_in(Stage.JOINED), life_in(Stage.JOINED)
    assert draining.stop(1010.0)
    assert old.retire(1075.0)
    for life, deadline in ((draining, 1010.0 + DRAIN_SECONDS), (old, 1100.0)):
        stage = life.stage
        assert not life.stop(1080.0)
        assert not life.retire(1080.0)
        assert (life.stage, life.deadline) == (stage, deadline)


def test_only_who_drains_or_is_old_stops():
    assert {stage for stage in Stage if life_in(stage).stops} == {Stage.DRAINING, Stage.OLD}


def test_a_resumed_worker_lives_as_long_as_a_new_one():
    life = life_in(Stage.WAKING)
    life.rejoin(5000.0)
    assert (life.stage, life.deadline) == (Stage.JOINED, 5000.0 + 100.0 - DRAIN_SECONDS)


def test_who_leaves_rests_only_if_it_suspends_and_does_not_stop():
    for stage, suspends, following in (
        (Stage.IDLE, True, Stage.RESTING),
        (Stage.IDLE, False, Stage.ENDED),
        (Stage.DRAINING, True, Stage.ENDED),
        (Stage.OLD, True, Stage.ENDED),
    ):
        life = life_in(stage, suspends=suspends)
        life.leave()
        assert life.stage is following
