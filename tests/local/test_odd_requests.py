"""Whatever is sent to whichever route: the answer is a success, a refusal in JSON or "not here", never a 500."""

import http.client
import json
import re
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flyexecutor import LocalFly
from flyexecutor.local.api.missing import MISSING
from tests.local.conftest import SLEEP, Api, operations

APP = "odd"
RULES = sorted((method, path.removeprefix("/v1")) for method, path in operations())
TEXTS = ["", "x", "é", "true", "[]", " ", "../..", "a=b", "9" * 400, "-1", "1", "0x1", "inf", "nan", "1e999"]
VALUES = [
    *TEXTS, "\0", "\ud800", None, True, False, 0, 1, -1, 1.5, 1e308, 2**31, 10**400, float("nan"), float("inf"),
    [], {}, [None], [1], ["x"], [[]], [{}], {"x": 1}, {"x": None}, {"": "x"}, {"x": "y"}, {"a=b": "x"},
    {"\0": "\ud800"},
]  # fmt: skip
BODIES = [b"", b"[]", b"null", b'"x"', b"1", b"{", b"\xff", b"\x00", b"[" * 100_000, b'{"x":NaN}', b"9" * 10_000]
FIELDS = (
    "app_name auto_backup_enabled cmd command config current_version description encrypted lease_ttl machine_version "
    "metadata name network org_slug region signal size_gb skip_launch skip_service_registration snapshot_id "
    "snapshot_retention stdin timeout ttl value"
)
CONFIG = (
    "auto_destroy checks containers dns env files guest image init metadata metrics mounts processes restart schedule "
    "services size statics stop_config"
)
INNER = {
    "files": "guest_path raw_value secret_name mode",
    "guest": "cpu_kind cpus memory_mb gpus gpu_kind kernel_args",
    "init": "exec entrypoint cmd tty swap_size_mb",
    "mounts": "volume path name size_gb",
    "restart": "policy max_retries",
    "stop_config": "signal timeout",
}
PLAIN = {"image": "registry.fly.io/local:flyexecutor", "init": {"exec": SLEEP}, "restart": {"policy": "no"}}
QUERY = (
    "cursor force force_stop from_event_id include_deleted include_leases instance_id kill limit order org_slug region "
    "signal sort_by state summary timeout ttl version"
)
# A valid time that is long would only be waited for.
LONG = (2**31, 10**400, 1e308)
SHORT = [text for text in TEXTS if text not in {"", " ", "9" * 400}]

values = st.sampled_from(VALUES)


def odd(names, **others):
    """One or two of the fields, with odd values: more, and it is always the same that is refused."""
    chosen = st.lists(st.sampled_from(names.split()), min_size=1, max_size=2, unique=True)
    return chosen.flatmap(lambda names: st.fixed_dictionaries({name: others.get(name, values) for name in names}))


inner = {name: st.one_of(values, odd(names), st.lists(odd(names), max_size=2)) for name, names in INNER.items()}
configs = odd(CONFIG, **inner).map(lambda config: {**PLAIN, **config})
bodies = st.one_of(
    odd(
        FIELDS,
        command=st.sampled_from([*VALUES, ["true"], ["/no/such"], ["true", "\0"], ["\ud800"]]),
        timeout=st.sampled_from([value for value in VALUES if value not in LONG]),
    ),
    st.builds(lambda config: {"config": config}, configs),
)


@pytest.fixture(scope="module")
def api():
    with LocalFly(rate_limits=False, show_output=False, image=0.01) as fly:
        api = Api(fly)
        yield api
        api.session.close()


def filled(api, path):
    """A path that leads to an app, a machine and a volume that are there."""
    api.raw("POST", "/apps", json={"name": APP, "org_slug": "personal"})
    machine_id = volume_id = ""
    if "machine_id" in path:
        machines = api.raw("GET", f"/apps/{APP}/machines?state=started").json()
        machines = machines or [api.raw("POST", f"/apps/{APP}/machines", json={"config": PLAIN}).json()]
        machine_id = machines[0]["id"]
    if "volume_id" in path:
        volume_id = api.raw("POST", f"/apps/{APP}/volumes", json={"name": "data"}).json()["id"]
    path = path.replace("<app_name>", APP).replace("<machine_id>", machine_id).replace("<volume_id>", volume_id)
    return re.sub("<.*?>", "x", path)


def assert_is_an_answer(answer):
    assert answer.status_code < 500 or answer.status_code == 501, answer.text
    if answer.status_code >= 400:
        error = answer.json()["error"]
        assert isinstance(error, str)
        assert error
        assert len(error) < 2000
    elif answer.content:
        answer.json()


def test_a_body_that_is_none_is_refused_or_ignored_by_each_route(api):
    for method, path in RULES:
        for body in BODIES if method in {"POST", "PUT", "PATCH"} and (method, path) not in MISSING else ():
            assert_is_an_answer(api.raw(method, filled(api, path), data=body))


def test_what_is_unknown_is_refused_by_each_route(api):
    for method, path in RULES:
        for text in ("no-such", "é", "a" * 300, "%00", "..%2f"):
            address = re.sub("<.*?>", quote(text, safe="%"), path)
            answer = api.raw(method, address, json={})
            assert_is_an_answer(answer)
            if "<" in path:
                assert answer.status_code >= 400, (method, address)


def test_what_is_nested_as_deep_as_json_can_be_read_breaks_no_list(api):
    path = filled(api, "/apps/<app_name>/machines")
    for depth in (50, *range(900, 1000)):
        config = json.dumps({"config": {**PLAIN, "checks": "deep"}, "skip_launch": True})
        deep = config.replace('"deep"', "[" * depth + "]" * depth)
        answer = api.raw("POST", path, data=deep)
        assert answer.status_code == (200 if depth == 50 else 400), answer.text
        assert api.raw("GET", path).ok


def test_a_body_in_broken_chunks_is_refused(api):
    connection = http.client.HTTPConnection(api.fly.api_url.removeprefix("http://"))
    connection.putrequest("POST", "/v1/apps")
    connection.putheader("Authorization", f"Bearer {api.fly.token}")
    connection.putheader("Transfer-Encoding", "chunked")
    connection.endheaders(b"no number\r\n{}\r\n0\r\n\r\n")
    answer = connection.getresponse()
    assert (answer.status, json.loads(answer.read())) == (
        400,
        {"error": "the body can't be read: Invalid chunk header"},
    )
    connection.close()


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_no_request_breaks_the_server(api, data):
    here = [rule for rule in RULES if rule not in MISSING]
    # What says most is a configuration.
    often = [
        (method, path) for method, path in here if method == "POST" and path.endswith(("machines", "<machine_id>"))
    ]
    method, path = data.draw(st.one_of(st.sampled_from(often), st.sampled_from(here)), label="rule")
    address = filled(api, path)
    query = data.draw(st.dictionaries(st.sampled_from(QUERY.split()), st.sampled_from(SHORT)), label="query")
    if path.endswith("/wait"):
        query.setdefault("timeout", "1")
    nonce = data.draw(st.sampled_from([None, "", "x", "9" * 400]), label="nonce")
    headers = {} if nonce is None else {"fly-machine-lease-nonce": nonce}
    body = data.draw(bodies, label="body")
    assert_is_an_answer(api.raw(method, address, data=json.dumps(body), params=query, headers=headers))
