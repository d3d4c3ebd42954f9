"""The lists of one app, with Fly's rate limits on: whoever asks, none is refused, and none is waited for in vain."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from flyexecutor import FlyMachineExecutor, LocalFly
from flyexecutor.fleet import lists as module
from flyexecutor.fleet.api import MachinesClient
from tests import tasks

WAIT = 60.0


@pytest.fixture
def paced(monkeypatch):
    """As Fly has it; counts the lists that an API is asked for, and what it refuses: by its address, since executors of
    earlier tests may still be there.
    """
    monkeypatch.setattr("flyexecutor.fleet.launch.CREATE_EVERY", 1.0)
    monkeypatch.setattr(module, "LIST_EVERY", 1.0)
    counts = Counter()
    refuse, list_all = MachinesClient._refused, MachinesClient.list_all

    def count_refused(self, method, path, response):
        counts[self._api_url, response.status_code, method, path] += 1
        return refuse(self, method, path, response)

    def count_list(self, *, attempts):
        counts[self._api_url, "lists"] += 1
        return list_all(self, attempts=attempts)

    monkeypatch.setattr(MachinesClient, "_refused", count_refused)
    monkeypatch.setattr(MachinesClient, "list_all", count_list)
    return counts


@pytest.mark.long
@pytest.mark.usefixtures("quick_fleet")
def test_four_executors_of_one_app_have_no_list_refused(paced, tmp_path):
    with LocalFly(machine_limit=None) as fly:
        since = time.monotonic()
        executors = [
            FlyMachineExecutor(local=fly, max_workers=2, idle_timeout=0.2, retries=9, env={"FLEET": str(n % 2)})
            for n in range(4)
        ]
        killer = MachinesClient(fly.api_url, fly.app, fly.token)
        with ThreadPoolExecutor(8) as people:
            looks = [people.submit(executor.machines) for executor in executors]
            prepared = people.submit(executors[0].with_options(env={"FLEET": "stock"}).prepare, 2, WAIT)
            futures = []
            for n in range(12):
                futures += [executor.submit(tasks.rest_and_return, 0.3, n) for executor in executors]
                looks.append(people.submit(executors[n % 4].machines))
                if n % 3 == 2 and (machine := futures[-1].machine_id or futures[-2].machine_id):
                    killer.destroy(machine, force=True)
                assert futures[4 * n].result(WAIT) == n
            assert [future.result(WAIT) for future in futures] == [n for n in range(12) for _ in executors]
            assert all(look.result(WAIT) is not None for look in looks)
            assert prepared.result(WAIT) is None
        # Before Redis goes: who still looks then asks for a list by himself.
        lists, took = paced[fly.api_url, "lists"], time.monotonic() - since
        for executor in executors:
            executor.shutdown()
        killer.close()
    # One that a busy computer holds up on its way arrives together with the next; two thirds were refused before.
    assert paced[fly.api_url, 429, "GET", "/machines"] <= lists // 10
    assert 4 < lists <= module.LIST_BURST + took / module.LIST_EVERY + 1


CLIENT = """
from flyexecutor import FlyMachineExecutor
print("asks", flush=True)
FlyMachineExecutor().machines()
"""


def test_a_client_that_is_killed_while_it_fetches_a_list_holds_up_no_other(local_fly, make_executor, until):
    environ = {**os.environ, **local_fly.environ(), "PYTHONPATH": os.getcwd()}
    executor = make_executor()
    local_fly.inject(latency=(2.0, 2.0))
    try:
        before = local_fly.requests()
        with subprocess.Popen([sys.executable, "-c", CLIENT], env=environ, stdout=subprocess.PIPE) as client:
            until(lambda: local_fly.requests() > before)  # it has the lock, and Fly has its request
            client.send_signal(signal.SIGKILL)
        local_fly.inject()
        assert executor.machines() is not None
    finally:
        local_fly.inject()
