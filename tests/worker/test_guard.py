"""Which calls a worker stops, and when: in virtual time, with runners that have no process."""

import signal

import pytest

from flyexecutor.worker.guard import ORDERS_AFTER, Guard
from flyexecutor.worker.runner_process import GRACE, KILLED, TIMED_OUT
from tests.worker.fakes import make_call


@pytest.fixture
def guard(clock):
    return Guard()


@pytest.fixture
def runner(start_runner, clock):
    runner = start_runner()
    yield runner
    runner.close()


def order(guard, *calls):
    """Somebody wants these calls killed."""
    guard.want(call.id for call in calls)


def test_it_listens_for_orders_once_a_call_has_run_for_a_while(guard, runner, clock):
    assert list(guard.listens_at([runner])) == []
    runner.give(make_call("a"))
    assert list(guard.listens_at([runner])) == [clock.now + ORDERS_AFTER]
    clock.advance(ORDERS_AFTER - 0.01)
    assert not guard.listens([runner])
    clock.advance(0.01)
    assert guard.listens([runner])


def test_it_is_due_when_a_call_has_run_for_its_timeout_or_must_be_ended_by_force(guard, runner, clock):
    assert list(guard.due([runner])) == []
    runner.give(make_call("a", timeout=3.0))
    runner._process.begin()
    assert list(guard.due([runner])) == [clock.now + 3.0]
    clock.advance(3.0)
    guard.tend([runner])
    assert list(guard.due([runner])) == [clock.now + GRACE]


def test_a_call_without_a_timeout_runs_as_long_as_it_likes(guard, runner, clock):
    runner.give(make_call("a"))
    clock.advance(1e6)
    assert list(guard.due([runner])) == []
    assert guard.tend([runner]) == []
    assert runner._process.signals == []


def test_a_call_that_runs_for_its_timeout_is_stopped_and_what_waits_behind_it_is_free(guard, runner, clock):
    late, *behind = [make_call("a", timeout=3.0), make_call("b"), make_call("c")]
    for call in (late, *behind):
        runner.give(call)
    runner._process.begin()
    clock.advance(2.99)
    assert guard.tend([runner]) == []
    assert runner.stopping is None
    clock.advance(0.01)
    assert guard.tend([runner]) == behind
    assert runner.stopping == TIMED_OUT
    assert runner._process.signals == [signal.SIGTERM]


def test_a_stopped_call_is_ended_by_force_after_its_grace_and_stopped_once(guard, runner, clock):
    runner.give(make_call("a", timeout=3.0))
    runner._process.begin()
    clock.advance(3.0)
    guard.tend([runner])
    clock.advance(GRACE - 0.01)
    guard.tend([runner])
    assert runner._process.signals == [signal.SIGTERM]
    clock.advance(0.01)
    guard.tend([runner])
    assert runner._process.signals == [signal.SIGTERM, signal.SIGKILL]
    assert str(runner.death()) == "signal SIGKILL"
    assert runner.death().stopping == TIMED_OUT


def test_the_call_that_is_wanted_dead_is_stopped(guard, runner):
    running, behind = make_call("a"), make_call("b")
    runner.give(running)
    runner.give(behind)
    runner._process.begin()
    order(guard, running)
    assert guard.tend([runner]) == [behind]
    assert runner.stopping == KILLED


def test_a_call_that_waits_behind_is_taken_out_and_the_one_before_it_goes_on(guard, runner):
    running, wanted, other = make_call("a"), make_call("b"), make_call("c")
    for call in (running, wanted, other):
        runner.give(call)
    runner._process.begin()
    order(guard, wanted)
    freed = guard.tend([runner])
    assert freed == [wanted, other]
    assert runner.stopping is None
    assert guard.take_wanted([runner], freed) == [wanted]
    assert guard.tend([runner]) == []
    assert runner.stopping is None


def test_nothing_is_stopped_while_it_is_not_known_which_call_runs(guard, runner, clock):
    """The race: the call that is late has just been answered, and the next has begun; the answer is on its way."""
    late, following = make_call("a", timeout=3.0), make_call("b")
    runner.give(late)
    runner.give(following)
    clock.advance(3.0)
    runner._process.answer(late)
    runner._process.begin()
    assert guard.tend([runner]) == []
    assert runner.stopping is None
    assert runner._process.signals == []
    runner.hear()
    assert guard.tend([runner]) == []
    assert runner.stopping is None


def test_an_order_waits_for_a_call_that_comes_back_and_is_forgotten_with_the_call(guard, runner):
    wanted, other = make_call("a"), make_call("b")
    runner.give(wanted)
    runner._process.begin()
    order(guard, wanted, other)
    assert guard.take_wanted([runner], []) == []
    runner._process.die(1)
    runner.bury()
    runner.close = lambda: None  # it is closed
    runner.given.clear()
    assert guard.take_wanted([runner], [wanted, other]) == [wanted]  # the other one was nowhere when its order came
    assert guard.take_wanted([runner], [wanted]) == []
