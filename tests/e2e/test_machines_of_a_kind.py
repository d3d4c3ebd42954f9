"""What machines may have beside a size: volumes; and what happens at the limit of an organisation."""

import pytest
import requests

from flyexecutor import FlyMachineExecutor, LocalFly, MachineStartError, SettingsError
from tests import tasks

WAIT = 30.0


def make_volume(local_fly, name):
    answer = requests.post(
        f"{local_fly.api_url}/v1/apps/{local_fly.app}/volumes",
        json={"name": name, "region": "iad", "size_gb": 1},
        headers={"Authorization": f"Bearer {local_fly.token}"},
        timeout=10,
    )
    answer.raise_for_status()
    return answer.json()["id"]


def test_each_machine_gets_a_volume_of_its_own(make_executor, local_fly, hold, until):
    for _ in range(2):
        make_volume(local_fly, "models")
    executor = make_executor(volume=("models", "/models"), max_workers=3, boot_timeout=2.0)
    _, let_go = hold(executor, 3)
    until(lambda: executor.stats().running == 2)
    assert len(set(let_go())) == 2


@pytest.mark.usefixtures("quick_fleet")
def test_a_volume_that_is_not_there_is_told(make_executor):
    error = make_executor(volume=("nothing", "/data"), boot_timeout=1.0).submit(tasks.increment, 1).exception(WAIT)
    assert isinstance(error, MachineStartError)
    assert "none named 'nothing' is free" in str(error)
    with pytest.raises(SettingsError, match="must be a name and an absolute path"):
        make_executor(volume=("models", "relative"))


def test_at_the_limit_of_the_organisation_calls_wait_for_the_machines_that_there_are():
    with (
        LocalFly(rate_limits=False, machine_limit=2) as fly,
        FlyMachineExecutor(local=fly, max_workers=5, idle_timeout=0.2) as executor,
    ):
        futures = [executor.submit(tasks.rest_and_return, 0.2, n) for n in range(12)]
        assert [future.result(WAIT) for future in futures] == list(range(12))
        assert len(fly.states()) == 2
