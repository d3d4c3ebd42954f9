"""A new machine can't be started while its image is fetched, may not be found at first, and may hang for hours."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from flyexecutor import FlyMachineExecutor, LocalFly
from flyexecutor.fleet.api import MachinesClient
from tests import tasks

WAIT = 30.0
STOPS = "performance-2x"  # too large to be suspended: what is prepared does not boot


@pytest.fixture
def inject(local_fly):
    """Lets the Machines API go wrong until the test ends."""
    yield local_fly.inject
    local_fly.inject()


@pytest.fixture
def asked(monkeypatch):
    """How often each is asked for by clients of this process, and what is refused."""
    counts = Counter()
    request, refused = MachinesClient._request, MachinesClient._refused

    def count(self, method, path, *told, **more):
        counts[f"{method} {path.split('/')[-1]}"] += 1
        return request(self, method, path, *told, **more)

    def count_refused(self, method, path, response):
        counts[response.status_code] += 1
        return refused(self, method, path, response)

    monkeypatch.setattr(MachinesClient, "_request", count)
    monkeypatch.setattr(MachinesClient, "_refused", count_refused)
    return counts


@pytest.mark.parametrize("stays_created", [False, True])
def test_what_is_prepared_can_be_started_at_once(make_executor, inject, states, asked, monkeypatch, stays_created):
    monkeypatch.setattr("flyexecutor.fleet.stock.FETCHED_WITHIN", 0.5)
    inject(stays_created=stays_created)
    executor = make_executor(guest=STOPS, idle_timeout=30.0)
    executor.prepare(2, timeout=WAIT)
    assert states(executor) == (["created", "created"] if stays_created else ["stopped", "stopped"])
    before = asked["POST machines"]
    future = executor.submit(tasks.increment, 1)
    assert future.result(WAIT) == 2
    assert (asked["POST machines"] - before, asked[412]) == (0, 0)


def test_what_is_suspended_in_advance_has_booted_first(make_executor, states):
    executor = make_executor(idle_timeout=30.0)
    executor.prepare(2, timeout=WAIT)
    assert states(executor) == ["suspended", "suspended"]


def test_a_machine_whose_image_is_still_fetched_is_started_when_it_is_there_without_looking_again(asked, monkeypatch):
    monkeypatch.setattr("flyexecutor.fleet.turns.LOOK_EVERY", 2 * WAIT)  # only a 412 causes a look
    with (
        LocalFly(rate_limits=False, image=2.0) as fly,
        FlyMachineExecutor(local=fly, guest=STOPS, max_workers=1) as executor,
        ThreadPoolExecutor(1) as other,
    ):
        prepared = other.submit(executor.prepare, 1, WAIT)
        while not fly.states():
            assert not prepared.done()
        asked.clear()
        future = executor.submit(tasks.increment, 1)
        assert future.result(WAIT) == 2
        assert list(fly.states()) == [future.machine_id]
        assert asked[412] >= 1
        assert asked["GET machines"] <= 1
        prepared.result(WAIT)


@pytest.mark.usefixtures("quick_fleet")
def test_a_machine_that_hangs_in_created_is_given_up_for_another(make_executor, inject, local_fly, until):
    before = set(local_fly.states())
    inject(stuck=["created"])
    executor = make_executor(max_workers=1, boot_timeout=8.0)
    future = executor.submit(tasks.increment, 1)
    until(lambda: set(local_fly.states()) > before)
    (hangs,) = set(local_fly.states()) - before
    inject()
    assert future.result(WAIT) == 2
    assert future.machine_id != hangs
    until(lambda: local_fly.states()[hangs] == "destroyed")


@pytest.mark.usefixtures("quick_fleet")
def test_a_new_machine_that_is_not_found_at_first_is_not_gone(make_executor, inject, local_fly, states, monkeypatch):
    monkeypatch.setattr("flyexecutor.fleet.policy.OVERDUE", 0.0)
    before = set(local_fly.states())
    inject(invisible=1.5)
    executor = make_executor(max_workers=1, idle_timeout=30.0)
    executor.prepare(1, timeout=WAIT)
    assert states(executor) == ["suspended"]  # as it wished: its own host knows it at once
    assert executor.submit(tasks.increment, 1).result(WAIT) == 2
    assert len(set(local_fly.states()) - before) == 1
