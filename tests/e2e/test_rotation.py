"""The signing key is replaced step by step, and no call is lost: docs/security.md has the steps."""

import pytest

from flyexecutor import ExpiredCallError, FlyMachineExecutor, State, UnknownCallError
from tests import tasks

WAIT = 30.0
OLD, NEW = "Zy0uCkGJ3xWq8mSbnR1TfA5hVdE7oLpK", "b4b5cf6e-93f1-4f0e-8d3b-0c6a2a9b7c11"
STEPS = [([OLD], [OLD, NEW]), ([OLD, NEW], [NEW, OLD]), ([NEW, OLD], [NEW])]


@pytest.fixture
def ring(local_fly, monkeypatch, request):
    """Makes the executor of a process whose environment has these secrets."""
    made = []

    def make(secret, *fallbacks, **options):
        told = {"FLYEXECUTOR_SECRET": secret, "FLYEXECUTOR_SECRET_FALLBACKS": ";".join(fallbacks)}
        for name, value in {**local_fly.environ(), **told}.items():
            monkeypatch.setenv(name, value)
        usual = {"env": {"TEST": request.node.nodeid}, "max_workers": 1, "idle_timeout": 1.0}
        made.append(FlyMachineExecutor(**{**usual, **options}))
        return made[-1]

    yield make
    for executor in made:
        executor.shutdown(wait=False, cancel_futures=True)


def leave(executor):
    """A process that exits: its calls are stored, and a machine is asked for."""
    executor.flush(WAIT)
    executor._client.close()


@pytest.mark.parametrize(("before", "after"), STEPS[:2], ids=["the new key is made known", "the new key signs"])
def test_what_was_submitted_before_a_step_has_its_result_after_it(ring, tmp_path, before, after):
    submitter, gate = ring(*before), tasks.Gate.make(tmp_path)
    ended = submitter.submit(tasks.increment, 1)
    assert ended.result(WAIT) == 2
    running = submitter.submit(gate.enter)
    machine = gate.wait_for_entry()
    queued = submitter.submit(tasks.increment, 2)
    batch = submitter.submit_batch(tasks.increment, range(3))
    leave(submitter)
    executor = ring(*after)
    assert executor.future(ended.id).result(WAIT) == 2
    told = executor.future(running.id)
    assert told.state() is State.RUNNING
    gate.open()
    assert told.result(WAIT) == machine
    assert executor.future(queued.id).result(WAIT) == 3
    assert list(executor.batch(batch.id).results(WAIT)) == [1, 2, 3]
    assert executor.submit(tasks.increment, 3).result(WAIT) == 4


def test_after_the_last_step_the_old_key_opens_nothing(ring):
    ended = ring(NEW, OLD).submit(tasks.increment, 1)
    old = ring(OLD).submit(tasks.increment, 2)
    assert (ended.result(WAIT), old.result(WAIT)) == (2, 3)
    executor = ring(NEW)
    assert executor.future(ended.id).result(WAIT) == 2
    with pytest.raises(UnknownCallError, match="or it was signed with another key"):
        executor.future(old.id)


@pytest.mark.usefixtures("quick_fleet")
def test_a_call_whose_machine_is_lost_runs_again_though_all_clients_sign_with_another_key(ring, tmp_path, machine_api):
    submitter, gate = ring(OLD, NEW), tasks.Gate.make(tmp_path)
    lost = submitter.submit(gate.enter)
    machine = gate.wait_for_entry()
    leave(submitter)
    executor = ring(NEW, OLD)
    machine_api(machine, "destroy")
    (tmp_path / "own").mkdir()
    own_gate = tasks.Gate.make(tmp_path / "own")
    own = executor.submit(own_gate.enter)  # it asks for no call of before
    assert gate.wait_for_entry() != machine
    gate.open()
    own_gate.wait_for_entry()
    own_gate.open()
    assert own.result(WAIT)
    assert executor.future(lost.id).attempt == 2


def test_the_key_of_a_token_gives_way_to_a_secret(ring, make_executor, local_fly):
    submitter = make_executor()
    ended = submitter.submit(tasks.increment, 1)
    assert ended.result(WAIT) == 2
    assert ring(NEW, local_fly.token).future(ended.id).result(WAIT) == 2


def test_a_schedule_stays_one_machine_through_all_steps(ring, until, local_redis):
    made = ring(OLD).schedule(tasks.increment, 1, every="monthly", name="through all steps")
    (first,) = until(lambda: ring(OLD).schedules()[0].call_ids)
    for _, secrets in STEPS:
        executor = ring(*secrets)
        for _ in range(2):
            again = executor.schedule(tasks.increment, 1, every="monthly", name="through all steps")
            assert (again.machine_id, len(executor.schedules())) == (made.machine_id, 1)
            local_redis.delete(*local_redis.keys("*:scheduled:*"))
        if OLD in secrets:
            assert executor.future(first).result(WAIT) == 2
    executor.unschedule("through all steps")


def test_machines_of_each_key_of_the_ring_are_ours_and_those_of_before_are_retired(ring, until, monkeypatch):
    monkeypatch.setattr("flyexecutor.fleet.retirement.UNUSED", 0.0)
    monkeypatch.setattr("flyexecutor.fleet.retirement.SEARCH_EVERY", 0.1)  # one that finds it under way is not the last
    old = ring(OLD, NEW)
    machine = old.submit(tasks.machine_id).result(WAIT)
    until(lambda: {one.id: one.state for one in old.machines()}[machine] == "suspended")
    leave(old)
    for secrets, ours in (([NEW], False), ([NEW, OLD], True)):
        stock = ring(*secrets)._stock
        monkeypatch.setattr(stock, "_destroy", lambda _: True)
        assert (machine in [one.id for one in stock.reap(0.0)]) is ours
    executor = ring(NEW, OLD)
    executor.submit(tasks.increment, 1).result(WAIT)
    until(
        lambda: executor.submit(tasks.increment, 1).result(WAIT) and machine not in [m.id for m in executor.machines()]
    )


@pytest.fixture(params=[1, -1], ids=["the new key signs", "the old key signs, as before"])
def two_orders(request):
    """The secrets of a process of before a step, and of one after it: which goes first is no matter."""
    return [[OLD, NEW], [NEW, OLD]][:: request.param]


def test_a_key_names_one_call_whichever_key_of_the_ring_signs(ring, two_orders, tmp_path):
    first, second = (ring(*secrets) for secrets in two_orders)
    gate, key = tasks.Gate.make(tmp_path), str(tmp_path)  # each order has a key of its own
    submitted = first.with_options(key=key).submit(gate.enter)
    gate.wait_for_entry()
    again = second.with_options(key=key).submit(gate.enter)
    own_id = again.id
    assert second.with_options(key=key).submit(gate.enter) is again
    second.flush(WAIT)
    assert again.state() is State.RUNNING
    attached = ring(*two_orders[1]).future(own_id)  # another process, which has kept the id that it saw first
    gate.open()
    assert again.result(WAIT) == attached.result(WAIT) == submitted.result(WAIT)
    assert own_id != again.id == attached.id == submitted.id
    assert again.attempt == 1
    late = second.with_options(key=key).submit(gate.enter)
    assert late.result(WAIT) == submitted.result()


def test_a_future_of_the_same_call_does_not_lose_the_one_that_comes_by_its_key(ring, tmp_path, monkeypatch):
    monkeypatch.setattr("flyexecutor.client.watcher.READ_FOR", 0.5)
    gate = tasks.Gate.make(tmp_path)
    submitted = ring(OLD, NEW).with_options(key="twice").submit(gate.enter)
    gate.wait_for_entry()
    executor = ring(NEW, OLD)
    attached = executor.future(submitted.id)
    by_key = executor.with_options(key="twice").submit(gate.enter)
    executor.flush(WAIT)
    assert by_key.state() is State.RUNNING
    gate.open()
    assert by_key.result(WAIT) == attached.result(WAIT) == submitted.result(WAIT)


def test_a_key_whose_call_has_expired_runs_anew_and_what_pointed_there_is_gone(ring, local_redis):
    one = ring(OLD, NEW).with_options(key="again").submit(tasks.increment, 1)
    assert one.result(WAIT) == 2
    executor = ring(NEW, OLD).with_options(key="again")
    two = executor.submit(tasks.increment, 2)
    own_id = two.id
    assert two.result(WAIT) == 2
    (pointer,) = local_redis.keys(f"*:same:{own_id}")
    assert local_redis.ttl(pointer) > 0
    local_redis.delete(*local_redis.keys(f"*:call:{one.id}"))
    three = ring(NEW, OLD).with_options(key="again").submit(tasks.increment, 3)
    assert (three.result(WAIT), three.id) == (4, own_id)
    assert not local_redis.exists(pointer)


def test_who_writes_into_redis_points_no_future_to_another_call(ring, local_redis):
    executor = ring(NEW, OLD)
    ended = executor.submit(tasks.increment, 1)
    assert ended.result(WAIT) == 2
    own_id = executor._trust.new_call_id("mine")
    true = executor._trust.pointers("mine")[0]
    (call,) = local_redis.keys(f"*:call:{ended.id}")
    for forged in (ended.id, ended.id + true[48:], ended.id + "0" * 64, "x", "\u20ac" * 112):
        local_redis.set(call.replace(f":call:{ended.id}", f":same:{own_id}"), forged)
        with pytest.raises(ExpiredCallError):
            ring(NEW, OLD).future(own_id)
