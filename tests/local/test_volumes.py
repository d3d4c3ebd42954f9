"""A volume belongs to one machine at a time, in its own region."""

import pytest
import requests

from tests.local.conftest import SLEEP


@pytest.fixture
def make_volume(api):
    def make(**body):
        url = f"{api.fly.api_url}/v1/apps/{api.fly.app}/volumes"
        answer = requests.post(url, json={"name": "data", **body}, headers=api.session.headers, timeout=10)
        assert answer.status_code == 200
        return answer.json()

    return make


def holder_of(api, volume):
    url = f"{api.fly.api_url}/v1/apps/{api.fly.app}/volumes"
    volumes = requests.get(url, headers=api.session.headers, timeout=10).json()
    return next(one["attached_machine_id"] for one in volumes if one["id"] == volume["id"])


def create(api, *mounts, region="iad"):
    config = {"image": api.fly.image, "init": {"exec": SLEEP}, "mounts": mounts}
    return api("POST", config=config, region=region, skip_launch=True)


def mount(volume):
    return {"volume": volume["id"], "path": "/data"}


def test_a_new_volume_is_attached_to_nobody(make_volume):
    volume = make_volume(region="dfw", size_gb=10)
    assert volume.pop("id").startswith("vol_")
    assert volume == {
        "name": "data",
        "region": "dfw",
        "size_gb": 10,
        "state": "created",
        "attached_machine_id": None,
    }


def test_a_volume_is_attached_until_its_machine_is_destroyed(api, make_volume):
    volume = make_volume(region="iad")
    machine = create(api, mount(volume)).json()
    assert holder_of(api, volume) == machine["id"]
    taken = create(api, mount(volume))
    assert (taken.status_code, machine["id"] in taken.json()["error"]) == (412, True)
    api("DELETE", f"/{machine['id']}")
    assert holder_of(api, volume) is None
    assert create(api, mount(volume)).ok


@pytest.mark.parametrize(
    ("mounts", "text"),
    [
        (lambda _volume: [{"volume": "vol_none", "path": "/data"}], "vol_none"),
        (lambda volume: [mount(volume), mount(volume)], "2 volumes"),
        (lambda volume: [{"volume": volume["id"]}], "path"),
        (lambda volume: [mount(volume)], "'dfw'"),
    ],
)
def test_a_mount_that_can_t_be_is_refused_with_the_reason(api, make_volume, mounts, text):
    refused = create(api, *mounts(make_volume(region="dfw")))
    assert (refused.status_code, text in refused.json()["error"]) == (422, True)


def test_a_machine_without_a_region_goes_where_its_volume_is(api, make_volume):
    assert create(api, mount(make_volume(region="dfw")), region="").json()["region"] == "dfw"


def test_an_update_can_keep_a_volume_or_take_a_free_one_but_no_other_machine_s(api, make_volume):
    first, second = make_volume(region="iad"), make_volume(region="iad")
    machine = create(api, mount(first)).json()
    create(api, mount(second))
    assert api.wait(machine, "stopped").ok

    def update(volume):
        config = {"image": api.fly.image, "init": {"exec": SLEEP}, "mounts": [mount(volume)]}
        return api("POST", f"/{machine['id']}", config=config, skip_launch=True).status_code

    assert update(second) == 412
    assert update(first) == 200
    assert update(make_volume(region="iad")) == 200
    assert update(make_volume(region="dfw")) == 422
    assert holder_of(api, first) is None
