"""Each operation of the Machines API is here, with its good answer in Fly's shape, or says that it is not."""

import re
import uuid

import pytest

from flyexecutor import LocalFly
from flyexecutor.local.api.missing import MISSING
from tests.local.conftest import Api, operations

OPTIONAL = object()  # beside a type: the field may be missing
APP = {
    "id": str, "name": str, "status": str, "machine_count": int, "volume_count": int, "network": str,
    "organization": {"name": str, "slug": str},
}  # fmt: skip
EVENT = {"id": str, "type": str, "status": str, "source": str, "timestamp": int, "request": (dict, OPTIONAL)}
SUMMARY = {
    "id": str, "name": str, "state": str, "region": str, "instance_id": str, "version": str, "private_ip": str,
    "created_at": str, "updated_at": str, "cordoned": bool,
}  # fmt: skip
MACHINE = {
    **SUMMARY, "config": dict, "events": [EVENT], "checks": list, "host_status": str, "nonce": (str, OPTIONAL),
    "image_ref": {"registry": str, "repository": str, "tag": str, "digest": str, "labels": dict},
}  # fmt: skip
LEASE = {
    "status": str,
    "data": {"nonce": str, "expires_at": int, "owner": str, "description": str, "version": str},
}
SECRET = {"name": str, "digest": str, "created_at": str, "updated_at": str}
VOLUME = {
    "id": str, "name": str, "state": str, "size_gb": int, "region": str, "zone": str, "encrypted": bool,
    "attached_machine_id": (str, None), "attached_alloc_id": None, "created_at": str, "blocks": int, "block_size": int,
    "blocks_free": int, "blocks_avail": int, "bytes_total": int, "bytes_used": int, "fstype": str, "host_status": str,
    "snapshot_retention": int, "auto_backup_enabled": bool, "type": str,
}  # fmt: skip
PROCESS = {
    "pid": int, "command": str, "directory": str, "cpu": int, "rss": int, "rtime": int, "stime": int,
    "listen_sockets": list,
}  # fmt: skip
OK = {"ok": bool}

A = "/v1/apps/<app_name>"
M = f"{A}/machines/<machine_id>"
V = f"{A}/volumes/<volume_id>"
# In an order in which each is possible: method, path, what is sent, status and shape of the answer, where a
# machine has to be for it. A path's <machine_id> is a machine with the lease NONCE, <volume_id> a volume.
OPERATIONS = [
    ("POST", "/v1/apps", {"name": "<new_app>", "org_slug": "personal"}, 201, APP, None),
    ("GET", "/v1/apps?org_slug=personal", None, 200, {"total_apps": int, "apps": [APP]}, None),
    ("GET", A, None, 200, APP, None),
    ("GET", f"{A}/secrets", None, 200, {"secrets": [SECRET]}, None),
    ("GET", f"{A}/secrets/<secret_name>", None, 200, SECRET, None),
    ("POST", f"{A}/volumes", {"name": "data"}, 200, VOLUME, None),
    ("GET", f"{A}/volumes", None, 200, [VOLUME], None),
    ("GET", V, None, 200, VOLUME, None),
    ("PUT", f"{V}/extend", {"size_gb": 4}, 200, {"volume": VOLUME, "needs_restart": bool}, None),
    ("DELETE", V, None, 200, VOLUME, None),
    ("POST", f"{A}/machines", {"config": {"image": "<image>"}, "skip_launch": True}, 200, MACHINE, None),
    ("GET", f"{A}/machines", None, 200, [MACHINE], None),
    ("GET", f"{A}/machines?summary=true", None, 200, [SUMMARY], None),
    ("GET", M, None, 200, MACHINE, None),
    ("POST", f"{M}/lease", {"ttl": 600}, 201, LEASE, None),
    ("GET", f"{M}/lease", None, 200, LEASE, None),
    ("GET", f"{M}/events", None, 200, [EVENT], None),
    ("GET", f"{M}/versions", None, 200, [{"version": str, "user_config": dict}], None),
    ("POST", f"{M}/metadata/<key>", {"value": "x"}, 204, None, None),
    ("GET", f"{M}/metadata", None, 200, {"key": str}, None),
    ("GET", f"{M}/metadata/<key>", None, 200, {"value": str}, None),
    ("PUT", f"{M}/metadata", {"metadata": {"a": "1"}}, 204, None, None),
    ("PATCH", f"{M}/metadata", {"metadata": {"a": "2"}}, 204, None, None),
    ("DELETE", f"{M}/metadata/<key>", None, 204, None, None),
    ("POST", f"{M}/cordon", None, 200, OK, None),
    ("POST", f"{M}/uncordon", None, 200, OK, None),
    ("GET", f"{M}/wait?state=started", None, 200, {"ok": bool, "state": (str, OPTIONAL), "version": (str, OPTIONAL),
                                                   "event_id": (str, OPTIONAL)}, "started"),
    ("POST", f"{M}/exec", {"command": ["true"]}, 200,
     {"exit_code": int, "exit_signal": int, "stdout": str, "stderr": str}, "started"),
    ("GET", f"{M}/ps", None, 200, [PROCESS], "started"),
    ("POST", f"{M}/suspend", None, 200, OK, "started"),
    ("POST", f"{M}/start", None, 200, {"previous_state": str, "migrated": bool, "new_host": str}, "suspended"),
    ("POST", f"{M}/restart", None, 200, OK, "started"),
    ("POST", M, {"config": {"image": "<image>", "init": {"exec": ["sleep", "600"]}}}, 200, MACHINE, "started"),
    ("POST", f"{M}/signal", {"signal": "SIGUSR1"}, 200, OK, "started"),
    ("POST", f"{M}/stop", None, 200, OK, None),
    ("DELETE", f"{M}/lease", None, 200, {"status": str, "data": OK}, "stopped"),
    ("DELETE", M, None, 200, OK, "stopped"),
    ("DELETE", "/v1/apps/<new_app>", None, 202, None, None),
]  # fmt: skip


def fits(value, shape):
    """Whether an answer has a shape: a type, a tuple of choices, a list of such, or the fields of an object."""
    match shape:
        case tuple():
            return any(fits(value, one) for one in shape if one is not OPTIONAL)
        case list():
            return isinstance(value, list) and bool(value) and all(fits(one, shape[0]) for one in value)
        case dict():
            needed = {name for name, one in shape.items() if not (isinstance(one, tuple) and OPTIONAL in one)}
            return (
                isinstance(value, dict)
                and needed <= set(value) <= set(shape)
                and all(fits(one, shape[name]) for name, one in value.items())
            )
        case type():
            return type(value) is shape
    return value is shape


@pytest.fixture
def api_with_secrets():
    with LocalFly(rate_limits=False, secrets={"TESTED": "x"}) as fly:
        api = Api(fly)
        yield api
        api.session.close()


def test_each_operation_that_is_here_has_its_good_answer(api_with_secrets):
    """In their order, on one machine: each is asked of the state that it needs, by whoever holds the lease."""
    api = api_with_secrets
    volume = api.raw("POST", f"/apps/{api.fly.app}/volumes", json={"name": "data"}).json()
    machine = api.create()
    names = {
        "app_name": api.fly.app, "machine_id": machine["id"], "volume_id": volume["id"], "key": "key",
        "secret_name": "TESTED", "new_app": f"app-{uuid.uuid4().hex}", "image": api.fly.image,
    }  # fmt: skip
    headers = {}
    for method, path, body, status, shape, state in OPERATIONS:
        if state:
            assert api.wait(machine, state).ok, (method, path)
        address = _filled(path, names).removeprefix("/v1")
        answer = api.raw(method, address, json=_filled(body, names), headers=headers)
        assert answer.status_code == status, (method, path, answer.text)
        if shape is None:
            assert answer.content == b"", (method, path)
        else:
            assert fits(answer.json(), shape), (method, path, answer.text)
        if (method, path.endswith("/lease")) == ("POST", True):
            headers = {"fly-machine-lease-nonce": answer.json()["data"]["nonce"]}


def test_no_operation_is_left_out():
    assert operations() == {(method, path.split("?")[0]) for method, path, *_ in OPERATIONS[:-1]} | {
        ("DELETE", A),
        *((method, f"/v1{path}") for method, path in MISSING),
    }


@pytest.mark.parametrize(("method", "path"), MISSING)
def test_what_is_not_here_says_so_and_what_it_is(api, method, path):
    answer = api.raw(method, re.sub("<.*?>", "x", path))
    text = f"not implemented by the local Fly: {MISSING[method, path]}"
    assert (answer.status_code, answer.json()) == (501, {"error": text})


def test_what_no_api_has_is_not_found(api):
    for path in ("/apps/x/machine", "/nonsense", f"/apps/{api.fly.app}/machines/x/nonsense", "/apps/"):
        assert api.raw("GET", path).status_code == 404


def _filled(value, names):
    if isinstance(value, dict):
        return {name: _filled(one, names) for name, one in value.items()}
    if isinstance(value, str):
        for name, to in names.items():
            value = value.replace(f"<{name}>", to)
    return value
