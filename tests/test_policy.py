import pytest

from flyexecutor.lane import Exit, Machine
from flyexecutor.policy import Bury, Create, GiveUp, Snapshot, Start, plan


def machine(name, state, *, exit_=None, host="ok"):
    return Machine(name, name, state, "iad", "01", host, exit_)


def snapshot(machines=(), *, workers=(), starts=(), reservations=(), creating=0, booting=None, max_workers=10):
    joined = dict.fromkeys(workers, "7")
    return Snapshot(machines, joined, frozenset(starts), reservations, creating, booting or {}, max_workers)


def test_nothing_to_do_is_no_action():
    assert plan(snapshot([machine("a", "started")], workers=["a"])) == []


@pytest.mark.parametrize("state", ["stopped", "suspended", "created"])
def test_a_machine_that_is_there_is_started_before_one_is_created(state):
    idle = machine("a", state)
    assert plan(snapshot([idle], reservations=["r1", "r2"])) == [Start("r1", idle), Create("r2")]


def test_suspended_goes_before_stopped():
    stopped, suspended = machine("a", "stopped"), machine("b", "suspended")
    (action,) = plan(snapshot([stopped, suspended], reservations=["r"]))
    assert action == Start("r", suspended)


def test_machines_at_work_or_on_their_way_are_not_counted_on():
    there = [machine("a", "started"), machine("b", "stopped")]
    assert plan(snapshot(there, workers=["a"], starts=["b"], reservations=["r"])) == [Create("r")]


def test_at_the_limit_one_that_is_leaving_is_awaited_instead_of_creating_one_too_many():
    leaving = machine("a", "started")
    assert plan(snapshot([leaving], reservations=["r"], max_workers=1)) == [Start("r", leaving)]
    assert plan(snapshot([leaving], reservations=["r"], max_workers=2)) == [Create("r")]
    assert plan(snapshot([leaving], reservations=["r"], creating=1, max_workers=2)) == [Start("r", leaving)]


@pytest.mark.parametrize("state", ["stopped", "suspended", "failed", "destroyed", "destroying"])
def test_a_worker_whose_machine_does_not_run_is_buried(state):
    dead = machine("a", state)
    assert Bury("a", "7", dead) in plan(snapshot([dead], workers=["a"]))


def test_a_worker_that_the_list_lacks_or_whose_host_is_gone_is_buried():
    assert plan(snapshot(workers=["a"])) == [Bury("a", "7", None)]
    away = machine("a", "started", host="unreachable")
    assert plan(snapshot([away], workers=["a"])) == [Bury("a", "7", away)]


@pytest.mark.parametrize("state", ["starting", "started", "stopping", "restarting", "replacing"])
def test_a_worker_in_a_passing_state_is_left_alone(state):
    assert plan(snapshot([machine("a", state)], workers=["a"])) == []


def test_a_start_is_given_up_when_the_machine_has_ended_anew_and_not_for_its_earlier_end():
    earlier, now = Exit(0, -1, False, 1), Exit(1, -1, False, 2)
    for exit_, actions in ((earlier, []), (now, [GiveUp(machine("a", "stopped", exit_=now))])):
        ended = machine("a", "stopped", exit_=exit_)
        assert plan(snapshot([ended], starts=["a"], booting={"a": earlier})) == actions
