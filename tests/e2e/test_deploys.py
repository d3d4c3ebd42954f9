"""What a deploy replaces, and what it must not touch: other machines of ours, prepared ones, those of another Redis."""

import logging
import threading

import pytest

from flyexecutor.fleet import policy
from flyexecutor.fleet.api import MachinesClient
from flyexecutor.store.calls import Store
from tests import tasks

WAIT = 30.0
NEXT_IMAGE = "registry.fly.io/local:of-the-next-deploy"


@pytest.fixture
def searches(monkeypatch):
    """Each call's fleet searches for machines of an earlier image; what it found, and wakes who waits for that."""
    found, searched = [], threading.Event()
    retire, try_lock = policy.retire, Store.try_lock

    def note(*told, **more):
        old = retire(*told, **more)
        found.extend(machine.id for machine in old)
        searched.set()
        return old

    def always_for_retiring(self, name, owner, seconds):
        return True if name.startswith("retire:") else try_lock(self, name, owner, seconds)

    monkeypatch.setattr(policy, "retire", note)
    monkeypatch.setattr(Store, "try_lock", always_for_retiring)
    monkeypatch.setattr("flyexecutor.fleet.retirement.UNUSED", 0.0)

    def wait():
        assert searched.wait(WAIT)
        return found

    return wait


@pytest.fixture
def one_image(local_fly, monkeypatch):
    """The registry of the local Fly has one image: whatever a lane names, its machines run that."""
    create = MachinesClient.create

    def create_from_it(self, name, config, *told, **more):
        return create(self, name, {**config, "image": local_fly.image}, *told, **more)

    monkeypatch.setattr(MachinesClient, "create", create_from_it)


def rested(executor, until, states):
    machine = executor.submit(tasks.machine_id).result(WAIT)
    until(lambda: states(executor) == ["suspended"])
    return machine


@pytest.mark.usefixtures("one_image", "searches")
def test_after_a_deploy_old_machines_end_and_calls_run_on_new_ones(make_executor, until, states):
    old = make_executor(idle_timeout=0.2, max_workers=1)
    machine = rested(old, until, states)
    new = make_executor(idle_timeout=0.2, max_workers=1, image=NEXT_IMAGE)
    assert new.submit(tasks.machine_id).result(WAIT) != machine
    until(lambda: machine not in {m.id for m in new.machines()})


def test_machines_of_another_environment_are_no_earlier_deploy(make_executor, searches, until, states):
    executor = make_executor(idle_timeout=0.2, max_workers=1)
    machine = rested(executor, until, states)
    other = executor.with_options(env={"COLOUR": "green"})
    assert other.submit(tasks.environment, "COLOUR").result(WAIT) == "green"
    assert machine not in searches()
    assert states(executor) == ["suspended"]


@pytest.mark.usefixtures("one_image")
def test_another_image_that_the_same_client_uses_is_no_earlier_deploy(make_executor, searches, until, states):
    executor = make_executor(idle_timeout=0.2, max_workers=1)
    machine = rested(executor, until, states)
    assert executor.with_options(image=NEXT_IMAGE).submit(tasks.machine_id).result(WAIT) != machine
    assert searches() == []
    assert states(executor) == ["suspended"]


@pytest.mark.usefixtures("one_image", "searches")
def test_a_prepared_machine_outlives_a_deploy_and_is_told_of(make_executor, states, until, caplog):
    caplog.set_level(logging.INFO, "flyexecutor")
    old = make_executor(idle_timeout=30.0)
    old.prepare(1, timeout=WAIT)
    new = make_executor(idle_timeout=30.0, image=NEXT_IMAGE)
    assert new.submit(tasks.increment, 1).result(WAIT) == 2
    until(lambda: "prepared machines of an earlier image stay: 1; flyexecutor reap removes them" in caplog.messages)
    assert states(old) == ["suspended"]
