"""`config.files` are written at each cold boot, into a folder that is the machine's own."""

import base64
import json
import os
import stat
import sys
import uuid
from pathlib import Path

import pytest

from flyexecutor.local import LocalFly
from tests.local.conftest import Api

SHOW = """
import json, os, sys
from pathlib import Path
folder = Path(os.environ["FLY_FILES"])
found = {}
for path in sorted(folder.rglob("*")):
    if path.is_file():
        found["/" + str(path.relative_to(folder))] = [path.read_text(), path.stat().st_mode & 0o777, str(folder)]
        path.write_text("changed")
with open(sys.argv[1], "w") as out:
    json.dump(found, out)
"""


def encoded(text):
    return base64.b64encode(text.encode()).decode()


@pytest.fixture(scope="module")
def fly_with_secrets():
    secrets = {"CERTIFICATE": encoded("of a secret"), "PLAIN": "no base64!"}
    with LocalFly(rate_limits=False, image=0.1, secrets=secrets) as fly:
        yield fly


@pytest.fixture
def api(fly_with_secrets):
    api = Api(fly_with_secrets)
    yield api
    api.session.close()


@pytest.fixture
def shows_files(tmp_path):
    """The command of a machine that notes its files and spoils them, and how to read what it noted."""
    os.mkfifo(tmp_path / "found")
    return [sys.executable, "-c", SHOW, str(tmp_path / "found")], lambda: json.loads((tmp_path / "found").read_text())


def test_files_lie_below_the_machine_s_folder_at_each_cold_boot_as_they_are_told(api, shows_files):
    command, found = shows_files
    files = [
        {"guest_path": "/etc/app/config.json", "raw_value": encoded('{"a": 1}')},
        {"guest_path": "/run/certificate", "secret_name": "CERTIFICATE", "mode": 0o400},
    ]
    machine = api.create(command, files=files)
    assert api.get(machine["id"])["config"]["files"] == files
    first = found()
    assert {path: seen[0] for path, seen in first.items()} == {
        "/etc/app/config.json": '{"a": 1}',
        "/run/certificate": "of a secret",
    }
    assert first["/run/certificate"][1] == 0o400
    assert api.wait(machine, "stopped").ok
    api("POST", f"/{machine['id']}/start")
    assert found() == first
    folder = Path(first["/run/certificate"][2])
    assert stat.S_IMODE(folder.parent.stat().st_mode) == 0o700
    assert api.wait(machine, "stopped").ok
    assert folder.is_dir()
    assert api("DELETE", f"/{machine['id']}").ok
    assert not folder.exists()


def test_an_update_brings_its_own_files_and_takes_the_others_away(api, shows_files):
    command, found = shows_files
    machine = api.make_stock(command, files=[{"guest_path": "/old", "raw_value": encoded("old")}])
    config = {**machine["config"], "files": [{"guest_path": "/new", "raw_value": encoded("new")}]}
    for told, seen in ((None, ["/old"]), (config, ["/new"])):
        if told:
            assert api("POST", f"/{machine['id']}", config=told).ok
        api("POST", f"/{machine['id']}/start")
        assert list(found()) == seen
        assert api.wait(api.get(machine["id"]), "stopped").ok


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ({}, "guest_path must be"),
        ({"guest_path": "relative"}, "'relative'"),
        ({"guest_path": "/"}, "'/'"),
        ({"guest_path": "/a/"}, "'/a/'"),
        ({"guest_path": "/../../etc/passwd"}, "'/../../etc/passwd'"),
        ({"guest_path": "/a/../../b"}, "'/a/../../b'"),
        ({"guest_path": "/a\0b"}, "guest_path must be"),
        ({"guest_path": "/a", "raw_value": "no base64!"}, "/a: raw_value is not base64"),
        ({"guest_path": "/a", "raw_value": ""}, None),
        ({"guest_path": "/a", "secret_name": "PLAIN", "raw_value": ""}, "/a needs one of raw_value and secret_name"),
        ({"guest_path": "/a", "raw_value": None}, "/a needs one of raw_value and secret_name"),
        ({"guest_path": "/a", "image_config": "x"}, "/a needs one of raw_value and secret_name"),
    ],
)
def test_a_path_that_could_escape_and_a_value_that_is_none_are_refused(api, file, text):
    body = {"raw_value": encoded("x"), **file} if "secret_name" not in file and "image_config" not in file else file
    config = {"image": api.fly.image, "files": [body]}
    answer = api("POST", name=uuid.uuid4().hex, config=config, skip_launch=True)
    if text is None:
        assert answer.ok
    else:
        assert (answer.status_code, text in answer.json()["error"]) == (400, True), answer.text
        assert answer.json()["error"].startswith("invalid_argument: config.files")


@pytest.mark.parametrize(
    ("files", "text"),
    [
        ([{"guest_path": "/a", "secret_name": "MISSING"}], "no secret 'MISSING'"),
        ([{"guest_path": "/a", "secret_name": "PLAIN"}], "PLAIN"),
        ([{"guest_path": "/a", "raw_value": ""}, {"guest_path": "/a/b", "raw_value": ""}], ".files/a"),
    ],
)
def test_a_machine_whose_files_can_t_be_written_fails_and_says_why(api, files, text):
    machine = api.create(files=files)
    assert api("GET", f"/{machine['id']}/wait?state=failed&timeout=20").ok
    told = str(api.get(machine["id"])["events"])
    assert text in told
    assert "no base64!" not in told  # a secret's value is nobody's to see


def test_a_link_that_a_program_leaves_does_not_lead_the_next_boot_astray(api, tmp_path):
    (tmp_path / "others").mkdir()
    lure = f"rm -r $FLY_FILES/etc && ln -s {tmp_path}/others $FLY_FILES/etc"
    machine = api.create(["sh", "-c", lure], files=[{"guest_path": "/etc/a", "raw_value": encoded("x")}])
    for _ in range(2):
        assert api.wait(machine, "stopped").ok
        assert api.get(machine["id"])["events"][0]["request"]["exit_event"]["exit_code"] == 0
        api("POST", f"/{machine['id']}/start")
    assert list((tmp_path / "others").iterdir()) == []
