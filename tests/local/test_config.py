"""A machine has of its configuration what Fly knows, in Fly's form."""

import re
import uuid

import pytest

from flyexecutor.local.durations import parse_duration, read_duration, write_duration
from flyexecutor.local.problems import Refused
from tests.local.conftest import SLEEP

ULID = re.compile(r"[0-7][0-9A-HJKMNP-TV-Z]{25}")


@pytest.mark.parametrize(
    ("told", "answered"),
    [
        ("5s", "5s"),
        (5_000_000_000, "5s"),
        (5e9, "5s"),
        (5, "5ns"),  # as Go reads it: who means seconds must say so
        ("90s", "1m30s"),
        ("1.5h", "1h30m0s"),
        ("1m", "1m0s"),
        ("1500ms", "1.5s"),
        ("100ms", "100ms"),
        ("250us", "250µs"),
        ("1h0m0.25s", "1h0m0.25s"),
        ("0", "0s"),
        (0, "0s"),
    ],
)
def test_a_duration_is_read_and_answered_as_go_does(told, answered):
    assert write_duration(read_duration(told)) == answered
    assert write_duration(read_duration(answered)) == answered


@pytest.mark.parametrize(
    "told",
    ["", "5", "s", "5 s", "-5s", -1, True, float("nan"), float("inf"), "nan", "1e9s", "5s5", "9" * 20 + "h", [], {}],
)
def test_what_is_no_duration_is_refused(told):
    with pytest.raises(Refused, match="invalid duration"):
        read_duration(told)


def test_a_query_may_also_have_seconds():
    assert [parse_duration(told, 7.0) for told in (None, "", "10", "2.5", "1m")] == [7.0, 7.0, 10.0, 2.5, 60.0]


@pytest.mark.parametrize("timeout", ["5s", 5_000_000_000])
def test_a_stop_timeout_is_answered_as_text_and_is_the_time_that_a_stop_gives(api, timeout):
    machine = api.create(skip_launch=True, stop_config={"signal": "SIGTERM", "timeout": timeout})
    assert machine["config"]["stop_config"] == {"signal": "SIGTERM", "timeout": "5s"}


def test_unknown_fields_are_dropped_and_known_ones_kept(api):
    known = {
        "env": {"A": "1"},
        "guest": {"cpu_kind": "shared", "cpus": 1, "memory_mb": 512},
        "metadata": {"a": "b"},
        "restart": {"policy": "no"},
        "services": [{"internal_port": 80, "protocol": "tcp"}],
        "auto_destroy": True,
    }
    told = {
        **known,
        "nonsense": 1,
        "image_ref": {},
        "dns": None,
        "guest": {**known["guest"], "ram": 1},
        "init": {"exec": SLEEP, "cwd": "/"},
        "stop_config": {"grace": 3},
    }
    machine = api.create(**told)
    init = {"exec": SLEEP}
    config = {"image": api.fly.image, "init": init, "stop_config": {}, **known}
    assert machine["config"] == config
    assert api.get(machine["id"])["config"] == config


@pytest.mark.parametrize(
    ("config", "text"),
    [
        ({"guest": "shared-cpu-1x"}, "config.guest must be an object"),
        ({"guest": {"memory_mb": "512"}}, "config.guest.memory_mb must be a whole number"),
        ({"guest": {"cpus": True}}, "config.guest.cpus must be a whole number"),
        ({"init": {"exec": "sleep 600"}}, "config.init.exec must be a list of strings"),
        ({"init": []}, "config.init must be an object"),
        ({"restart": "no"}, "config.restart must be an object"),
        ({"restart": {"policy": "always", "max_retries": "3"}}, "config.restart.max_retries must be a whole number"),
        ({"metadata": {"a": 1}}, "config.metadata.a must be a string"),
        ({"env": ["A=1"]}, "config.env must be an object"),
        ({"mounts": {}}, "config.mounts must be a list"),
        ({"mounts": ["vol"]}, "config.mounts must be a list of objects"),
        ({"auto_destroy": "yes"}, "config.auto_destroy must be true or false"),
        ({"stop_config": {"timeout": "soon"}}, "invalid duration 'soon'"),
        ({"stop_config": {"timeout": "5"}}, "invalid duration '5'"),
        ({"stop_config": {"signal": "SIGNONSENSE"}}, "invalid signal 'SIGNONSENSE'"),
        ({"image": 5}, "config.image must be a string"),
        ({"schedule": 5}, "config.schedule must be a string"),
    ],
)
def test_a_value_of_another_kind_is_refused_and_named(api, config, text):
    answer = api("POST", name=uuid.uuid4().hex, config={"image": api.fly.image, **config})
    assert (answer.status_code, answer.json()["error"]) == (400, f"invalid_argument: {text}")


def test_ids_of_events_and_versions_are_26_characters_in_the_order_of_time(api):
    machine = api.create()
    assert api.wait(machine, "started").ok
    machine = api.get(machine["id"])
    ids = [event["id"] for event in machine["events"]]
    assert all(ULID.fullmatch(one) for one in (*ids, machine["instance_id"]))
    assert len({*ids}) == len(ids)
    times = [one[:10] for one in reversed(ids)]
    assert times == sorted(times)


def test_an_image_has_one_digest(api):
    first, second = api.create(skip_launch=True)["image_ref"], api.create(skip_launch=True)["image_ref"]
    assert re.fullmatch(r"sha256:[0-9a-f]{64}", first["digest"])
    assert first == second
