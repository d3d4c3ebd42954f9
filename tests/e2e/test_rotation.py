"""The signing key is replaced step by step, and no call is lost: docs/security.md has the steps."""

import pytest

from flyexecutor import FlyMachineExecutor, State, UnknownCallError
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
    monkeypatch.setattr("flyexecutor.retirement.UNUSED", 0.0)
    monkeypatch.setattr("flyexecutor.retirement.SEARCH_EVERY", 0.1)  # one that finds it under way is not the last
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
