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


def test_a_new_volume_is_attached_to_nobody_and_is_what_was_asked_for(make_volume):
    volume = make_volume(region="dfw", size_gb=10, encrypted=False, snapshot_retention=9)
    assert volume["id"].startswith("vol_")
    assert (volume["name"], volume["region"], volume["size_gb"]) == ("data", "dfw", 10)
    assert (volume["encrypted"], volume["snapshot_retention"]) == (False, 9)
    assert (volume["state"], volume["attached_machine_id"]) == ("created", None)
    assert volume["blocks"] * volume["block_size"] == volume["bytes_total"] == 10 << 30


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


def test_a_volume_is_deleted_only_when_no_machine_has_it(api, make_volume):
    volume = make_volume()
    path = f"/apps/{api.fly.app}/volumes/{volume['id']}"
    machine = create(api, mount(volume)).json()
    refused = api.raw("DELETE", path)
    assert refused.status_code == 412
    assert refused.json()["error"] == f"failed_precondition: volume is currently bound to machine: {machine['id']}"
    api("DELETE", f"/{machine['id']}?force=true")
    assert api.wait(machine, "destroyed").ok
    deleted = api.raw("DELETE", path)
    assert (deleted.status_code, deleted.json()["state"]) == (200, "destroyed")
    assert api.raw("GET", path).status_code == 404
    assert create(api, mount(volume)).status_code == 422


def test_a_volume_only_grows_and_keeps_what_it_is(api, make_volume):
    volume = make_volume(size_gb=2)
    path = f"/apps/{api.fly.app}/volumes/{volume['id']}"
    for size in (2, 1, 0, 501, "3", None):
        assert api.raw("PUT", f"{path}/extend", json={"size_gb": size}).status_code == 400
    extended = api.raw("PUT", f"{path}/extend", json={"size_gb": 3}).json()
    assert extended["needs_restart"] is False
    assert extended["volume"] == api.raw("GET", path).json()
    assert {name for name, value in volume.items() if extended["volume"][name] != value} == {
        "size_gb", "blocks", "blocks_free", "blocks_avail", "bytes_total",
    }  # fmt: skip
    assert extended["volume"]["size_gb"] == 3


def test_a_volume_from_a_snapshot_is_not_silently_an_empty_one(api):
    path = f"/apps/{api.fly.app}/volumes"
    for source in ("snapshot_id", "source_volume_id"):
        refused = api.raw("POST", path, json={"name": "data", source: "x"})
        assert refused.status_code == 501
        assert "snapshot" in refused.json()["error"]
