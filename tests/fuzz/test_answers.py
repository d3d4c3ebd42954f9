"""Whatever stands in an answer of the Machines API: no crash, no machine that is not as it must be, bounded memory.

FUZZ_EXAMPLES=10000 (`make fuzz`) tries so many of each; the suite a hundred.
"""

import contextlib
import gzip
import io
import json
import math
import tracemalloc
from dataclasses import asdict

import pytest
import requests
import urllib3
from hypothesis import assume, given
from hypothesis import strategies as st

from flyexecutor.errors import MachinesError
from flyexecutor.fleet import answers, lists, policy
from flyexecutor.fleet.api import MachinesClient
from flyexecutor.fleet.guests import Prices, name_guest
from flyexecutor.fleet.lists import Lists
from flyexecutor.fleet.machine import Machine
from flyexecutor.names import visible
from flyexecutor.payload.trust import Encoding, Trust
from tests.fleet.test_answers import EXIT, OURS, Api

MOST = 64 * 1024
GOOD = {
    **OURS,
    "events": [EXIT, {"type": "start", "status": "started", "timestamp": 1_785_585_600_000}],
    "config": {
        "metadata": {"flyexecutor": "lane", "flyexecutor_keeper": "1", "flyexecutor_owner": "o"},
        "guest": {"cpu_kind": "shared", "cpus": 1, "memory_mb": 256},
    },
}
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([10**30, -(10**400), 2**63, -1]),
    st.floats(),
    st.text(),
    st.text(st.characters(categories=["Cs", "Cc", "Cf"])),
    st.sampled_from(["../x", "e 1", "2026-13-01T00:00:00Z", "0001-01-01T00:00:00Z", "9" * 5000, "started", ""]),
)
JSON = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3))


def places(told, path=()):
    """The ways to all that is in a value."""
    yield path
    inner = told.items() if isinstance(told, dict) else enumerate(told) if isinstance(told, list) else ()
    for key, value in inner:
        yield from places(value, (*path, key))


PLACES = list(places(GOOD))


def changed(told, path, value):
    """A copy in which something else is at that place."""
    if not path:
        return value
    copy = told.copy()
    copy[path[0]] = changed(told[path[0]], path[1:], value)
    return copy


ODD = st.builds(lambda path, value: changed(GOOD, path, value), st.sampled_from(PLACES), JSON)


def check(machine: Machine) -> None:
    """All that the package relies on."""
    assert answers.is_word(machine.id)
    assert answers.is_word(machine.state)
    for text in asdict(machine).values():
        if isinstance(text, str):
            text.encode()
            assert text.isprintable()
    for number in (machine.created_at, machine.changed_at, machine.billed_seconds, machine.last_run):
        assert math.isfinite(number)
        assert number >= 0
    assert lists._machine(**json.loads(json.dumps(asdict(machine)))) == machine
    if machine.guest:
        name_guest(machine.guest)
        Prices().per_second(machine.guest, machine.region)
    seen = policy.Snapshot(
        machines=[machine],
        workers={machine.id: "7"},
        starts=frozenset("r"),
        reservations=["r"],
        creating=[],
        starting=frozenset(),
        booting={machine.id: policy.Boot(0.0, None)},
        avoid=frozenset(),
        max_workers=1,
        warm=1,
        boot_timeout=60.0,
        now=2e9,
        moment=0.0,
    )
    policy.plan(seen)
    policy.retire([machine], kinds={("o", "")}, lane="x", used=frozenset(), rested_before=2e9)
    policy.rests(machine, 2e9)
    str(machine.exit)


def check_error(told: object) -> None:
    """It stands on one line of a terminal."""
    assert visible(str(told), lines=False) == str(told)
    assert len(str(told)) < 10 * answers.MOST_ERROR


@given(st.lists(ODD, max_size=4))
def test_of_any_machines_the_odd_are_passed_over_and_the_others_count(odd):
    told = answers.read_json(json.dumps([*odd, GOOD, {**GOOD, "id": "e2"}]).encode())
    found = answers.read_machines(told)
    for machine in found:
        check(machine)
    assert [machine.id for machine in found[-2:]] == ["e1", "e2"]


@given(ODD | JSON)
def test_what_is_asked_for_is_a_machine_or_an_error_in_a_line(told):
    try:
        check(answers.read_machine(answers.read_json(json.dumps(told).encode())))
    except MachinesError as exc:
        check_error(exc)


@given(JSON)
def test_any_other_answer_is_read_or_refused(told):
    told = answers.read_json(json.dumps(told).encode())
    for read in (answers.read_regions, lambda told: answers.read_free_volumes(told, "data")):
        try:
            read(told)
            read({"regions": told})
        except MachinesError:
            pass
    for error in (told, {"error": told}, {"message": told}):
        text = answers.in_a_line(answers.read_error(error))
        check_error(text)


def damaged(body, cuts):
    """A text in which pieces are replaced."""
    for place, length, other in cuts:
        at = place % (len(body) + 1)
        body = body[:at] + other + body[at + length :]
    return body


CUTS = st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 20), st.binary(max_size=20)), max_size=4)
NESTED = st.tuples(st.sampled_from([b"[", b'{"a":', b"[[]," * 2]), st.integers(0, 200_000)).map(
    lambda two: two[0] * two[1]
)
BODIES = st.builds(damaged, st.just(json.dumps([GOOD, GOOD]).encode()), CUTS) | st.binary() | NESTED


@given(BODIES)
def test_any_bytes_are_machines_or_none(body):
    try:
        for machine in answers.read_machines(answers.read_json(body)):
            check(machine)
    except MachinesError:
        pass


@given(BODIES, CUTS, st.sampled_from(["gzip", "identity", "br", "x" * 999, "gzip, gzip"]))
def test_what_is_read_and_unpacked_is_never_larger_than_it_may_be(body, cuts, packing):
    packed = damaged(gzip.compress(body), cuts) if "gzip" in packing else body
    response = requests.Response()
    response.headers["Content-Encoding"] = packing
    response.raw = urllib3.HTTPResponse(io.BytesIO(packed), preload_content=False)
    try:
        read = answers.read_body(response, MOST, 30.0)
    except answers.OddAnswerError as exc:
        check_error(exc)
    else:
        assert len(read) <= MOST


def test_a_hundred_bombs_take_no_memory():
    bomb = gzip.compress(gzip.compress(b"[" * 50_000_000, mtime=0), mtime=0)
    tracemalloc.start()
    try:
        for packed in [gzip.compress(b" " * 50_000_000, mtime=0), bomb] * 50:
            response = requests.Response()
            response.headers["Content-Encoding"] = "gzip"
            response.raw = urllib3.HTTPResponse(io.BytesIO(packed), preload_content=False)
            with contextlib.suppress(answers.OddAnswerError):
                assert answers.read_json(answers.read_body(response, MOST, 30.0)) is None
        assert tracemalloc.get_traced_memory()[1] < 64 * 1024 * 1024
    finally:
        tracemalloc.stop()


@given(st.binary() | st.builds(damaged, st.just(b"[]"), CUTS) | NESTED)
def test_any_list_that_a_holder_of_our_key_has_published_is_one_or_none(body):
    trust = Trust(b"key", "app")
    sealed = trust.seal_part("machines 7", lists.zlib.compress(body), Encoding.TEXT)
    found = Lists(None, None, trust)._open(lists.Sought(7, began=7, found=sealed))
    assert found is None or list(found) == []


@pytest.fixture(scope="module")
def api():
    api = Api()
    yield api
    api.close()


HEADS = [
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\nConnection: close\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n%x\r\n",
    b"HTTP/1.1 422 Unprocessable\r\nfly-request-id: 01\r\nContent-Length: %d\r\nConnection: close\r\n\r\n",
    b"HTTP/1.0 429 Wait\r\nRetry-After: 5\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\nConnection: close\r\n\r\n",
]


@given(st.sampled_from(HEADS), BODIES, CUTS)
def test_any_bytes_on_the_wire_are_an_answer_or_an_error(api, head, body, cuts):
    whole = (head % len(body) if b"%" in head else head) + body + (b"\r\n0\r\n\r\n" if b"chunked" in head else b"")
    api.answers = [damaged(whole, cuts)]
    assume(b" 100 " not in api.answers[0][:40])  # a hundred "100 Continue" would be waited for
    client = MachinesClient(api.url, "tasks", "token")
    try:
        for machine in client.list_all(attempts=1):
            check(machine)
    except MachinesError as exc:
        check_error(exc)
        check_error(exc.request_id or "")
    finally:
        client.close()
