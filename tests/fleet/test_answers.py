"""Whatever the Machines API answers, by a real server: bounded, checked before it is used, and told in one sentence."""

import gzip
import json
import logging
import re
import socket
import threading
import time
import tracemalloc
from dataclasses import asdict, replace

import pytest

from flyexecutor import damage
from flyexecutor.errors import MachinesError
from flyexecutor.fleet import answers
from flyexecutor.fleet import api as machines
from flyexecutor.fleet.api import MachinesClient

NOW = "2026-08-01T12:00:00Z"
OURS = {
    "id": "e1",
    "name": "fx-lane-1",
    "state": "started",
    "region": "iad",
    "instance_id": "01",
    "host_status": "ok",
    "created_at": NOW,
    "updated_at": NOW,
    "config": {"metadata": {"flyexecutor": "lane", "flyexecutor_keeper": "1"}},
    "events": [],
}
DEEP = b"[" * 100_000
BOMB = gzip.compress(b"[" + b" " * (100 * 1024 * 1024) + b"]", mtime=0)
WAIT = 20.0


class Api:
    """A server that answers each request with the bytes that the test has put there, and closes the connection."""

    def __init__(self):
        self.answers = []  # bytes, or an iterator of bytes; the last is for all that follow
        self.asked = self.connections = 0
        self.stays_open = False
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def say(self, body, *headers, status=b"200 OK"):
        if not any(one.startswith(b"Content-Length") for one in headers):
            headers = (*headers, b"Content-Length: %d" % len(body))
        if not self.stays_open:
            headers = (*headers, b"Connection: close")
        self.answers = [b"\r\n".join((b"HTTP/1.1 " + status, *headers, b"", body))]

    def say_json(self, told, *headers, status=b"200 OK"):
        self.say(json.dumps(told).encode(), *headers, status=status)

    def _serve(self):
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection):
        self.connections += 1
        with connection:
            while self._answer_one(connection) and self.stays_open:
                pass

    def _answer_one(self, connection):
        if not self._read_request(connection):
            return False
        self.asked += 1
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        try:
            for part in [answer] if isinstance(answer, bytes) else answer:
                connection.sendall(part)
            if not self.stays_open:
                connection.shutdown(socket.SHUT_WR)
                connection.recv(1)
        except OSError:
            return False  # the client has heard enough
        return True

    def _read_request(self, connection):
        head = b""
        while b"\r\n\r\n" not in head:
            if not (read := connection.recv(1)):
                return False
            head += read
        if length := re.search(rb"content-length: (\d+)", head.lower()):
            connection.recv(int(length[1]), socket.MSG_WAITALL)
        return True

    def close(self):
        self._socket.close()


@pytest.fixture
def api():
    api = Api()
    yield api
    api.close()


@pytest.fixture
def client(api, monkeypatch):
    monkeypatch.setattr(machines, "FIRST_PAUSE", 0.001)
    monkeypatch.setattr(damage, "_seen", set())
    client = MachinesClient(api.url, "tasks", "token")
    yield client
    client.close()


def without(name):
    return {key: value for key, value in OURS.items() if key != name}


ODD = {
    "an id of 1 MB": {**OURS, "id": "e" * 1_000_000},
    "an id that leads elsewhere": {**OURS, "id": "../../other/machines/e1"},
    "an id with a space": {**OURS, "id": "e 1"},
    "an id that is a number": {**OURS, "id": 7},
    "an id that is a list": {**OURS, "id": ["e1"]},
    "no id": without("id"),
    "no state": without("state"),
    "a state that is a list": {**OURS, "state": ["started"]},
    "a state with an escape": {**OURS, "state": "\x1b[2Jstarted"},
    "a name that is a number": {**OURS, "name": 7},
    "a name with a newline": {**OURS, "name": "a\nb"},
    "a region that is an object": {**OURS, "region": {}},
    "a host of another type": {**OURS, "host_status": 1},
    "a day that is none": {**OURS, "created_at": "yesterday"},
    "a day before Fly": {**OURS, "updated_at": "0001-01-02T00:00:00Z"},
    "a day without a zone": {**OURS, "updated_at": "2026-08-01T12:00:00"},
    "a day at the end of time": {**OURS, "updated_at": "9999-12-31T23:59:59Z"},
    "a day that is a number": {**OURS, "created_at": 1.5e9},
    "events that are an object": {**OURS, "events": {"type": "exit"}},
    "a schedule that is a number": {**OURS, "config": {**OURS["config"], "schedule": 7}},
    "an owner that is a list": {**OURS, "config": {"metadata": {"flyexecutor": "lane", "flyexecutor_owner": ["x"]}}},
    "a lane that is a path": {**OURS, "config": {"metadata": {"flyexecutor": "../lane"}}},
    "half a character": {**OURS, "name": "\ud800"},
}


@pytest.mark.parametrize("kind", ODD)
def test_an_odd_machine_in_a_list_is_passed_over_and_the_others_count(api, client, caplog, kind):
    caplog.set_level(logging.WARNING, "flyexecutor")
    api.say_json([{**OURS, "id": "e0"}, ODD[kind], {**OURS, "id": "e2"}])
    for _ in range(3):
        assert [machine.id for machine in client.list_all(attempts=1)] == ["e0", "e2"]
    (told,) = caplog.messages  # once
    assert "passed over" in told
    assert len(told) < 400
    assert told.isprintable()


@pytest.mark.parametrize("kind", ODD)
def test_an_odd_machine_that_was_asked_for_is_told_and_is_neither_there_nor_gone(api, client, kind):
    api.say_json(ODD[kind])
    with pytest.raises(MachinesError, match="no machine") as told:
        client.get("e1")
    assert len(str(told.value)) < 400
    assert told.value.status is None


def test_an_answer_about_another_machine_is_none_about_this_one(api, client):
    api.say_json(OURS)
    with pytest.raises(MachinesError, match="e1"):
        client.get("e2")


@pytest.mark.parametrize("told", [{}, {"created_at": "0001-01-01T00:00:00Z", "updated_at": None}], ids=repr)
def test_a_machine_whose_days_are_not_told_has_changed_just_now(api, client, told):
    """So it is neither stuck, nor an orphan, nor an earlier deploy's: nothing is done to it."""
    began = time.time()
    api.say_json({**{key: value for key, value in OURS.items() if not key.endswith("_at")}, **told})
    machine = client.get("e1")
    assert began <= machine.created_at == machine.changed_at <= time.time()


EXIT = {"type": "exit", "timestamp": 2_000_000_000_000, "request": {"exit_event": {"exit_code": 3, "signal": -1}}}
ODD_EVENTS = [
    None,
    7,
    "exit",
    ["exit"],
    {"type": "exit", "timestamp": 10**400, "request": {}},
    {**EXIT, "timestamp": "now"},
    {**EXIT, "timestamp": -1},
    {**EXIT, "timestamp": float("nan")},
    {**EXIT, "request": "by hand"},
    {**EXIT, "request": {"exit_event": 7}},
    {**EXIT, "request": {"MonitorEvent": [1]}},
    {**EXIT, "request": {"exit_event": {"exit_code": 10**30}}},
    {**EXIT, "request": {"exit_event": {"exit_code": "3"}}},
    {**EXIT, "request": {"exit_event": {"exit_code": 3, "oom_killed": "no"}}},
]


@pytest.mark.parametrize("event", ODD_EVENTS, ids=range(len(ODD_EVENTS)))
def test_an_odd_event_of_a_machine_is_passed_over_and_the_others_count(api, client, event):
    api.say_json({**OURS, "events": [event, EXIT]})
    machine = client.get("e1")
    assert (machine.exit.exit_code, machine.exit.at) == (3, EXIT["timestamp"])
    assert 0 <= machine.billed_seconds < 1e10


@pytest.mark.parametrize(
    "guest",
    [7, "large", ["x"], {"cpus": "many"}, {"cpus": 10**400}, {"memory_mb": -1}, {"cpu_kind": {}}, {"memory_mb": 256.5}],
    ids=range(8),
)
def test_an_odd_guest_costs_its_price_and_no_more(api, client, guest):
    api.say_json({**OURS, "config": {**OURS["config"], "guest": guest}})
    assert client.get("e1") == replace(client.get("e1"), id="e1", guest=None)


def test_a_list_that_is_not_utf_8_costs_what_is_not(api, client):
    body = json.dumps([OURS, {**OURS, "id": "e2", "name": "NAME"}]).encode().replace(b"NAME", b"\xff\xfe")
    api.say(body)
    assert [machine.id for machine in client.list_all(attempts=1)] == ["e1", "e2"]


NO_LISTS = {
    "deep nesting": DEEP,
    "deep nesting in a machine": json.dumps([OURS]).encode()[:-2] + b', "checks": ' + DEEP,
    "objects all the way": b'{"a":' * 100_000,
    "5,000 digits": b"9" * 5000,
    "text": b"down for maintenance",
    "an object": b"{}",
    "nothing": b"",
    "half a list": b"[{",
    "bytes": bytes(range(256)),
}


@pytest.mark.parametrize("kind", NO_LISTS)
def test_an_answer_that_is_no_list_is_told(api, client, kind):
    api.say(NO_LISTS[kind])
    with pytest.raises(MachinesError, match="no list of machines"):
        client.list_all(attempts=1)


@pytest.mark.parametrize("place", ["id", "state", "events", "guest"])
def test_nesting_that_can_just_be_read_costs_the_machine_that_has_it(place):
    odd = json.dumps({**OURS, "config": {**OURS["config"], "guest": {"x": "DEEP"}}, place: "DEEP"}).encode()
    for depth in (*range(900, 1000, 3), 2_000, 5_000, 9_000):  # Python versions differ in what they read
        deep = b"[" * depth + b"7" + b"]" * depth
        body = b"[%b, %b]" % (odd.replace(b'"DEEP"', deep), json.dumps({**OURS, "id": "e2"}).encode())
        try:
            found = answers.read_machines(answers.read_json(body))
        except MachinesError:
            continue  # too deep for the whole list
        assert [machine.id for machine in found][-1] == "e2"
        json.dumps([asdict(machine) for machine in found])  # as they are published


def test_a_number_of_5000_digits_costs_the_machine_that_has_it(api, client):
    api.say(json.dumps([OURS, {**OURS, "id": "e2", "state": "S"}]).encode().replace(b'"S"', b"9" * 5000))
    assert [machine.id for machine in client.list_all(attempts=1)] == ["e1"]


def endless(head, part):
    yield head
    while True:
        yield part


@pytest.fixture
def bounded_memory():
    tracemalloc.start()
    yield lambda: tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()


@pytest.mark.parametrize(
    ("headers", "part"),
    [
        (b"", b" " * 65536),
        (b"Transfer-Encoding: chunked\r\n", b"10000\r\n" + b" " * 65536 + b"\r\n"),
        (b"Content-Length: 999999999999\r\n", b" " * 65536),
    ],
    ids=["until it closes", "chunked", "of a length"],
)
def test_a_list_that_never_ends_is_told_and_memory_stays_bounded(
    api, client, monkeypatch, bounded_memory, headers, part
):
    monkeypatch.setattr(answers, "MOST_LIST", 2 * 1024 * 1024, raising=False)
    api.answers = [endless(b"HTTP/1.1 200 OK\r\n" + headers + b"\r\n", part)]
    with pytest.raises(MachinesError, match="larger than 2 MB"):
        client.list_all(attempts=1)
    assert bounded_memory() < 16 * 1024 * 1024


def test_a_list_that_swells_when_it_is_unpacked_is_told_and_memory_stays_bounded(
    api, client, monkeypatch, bounded_memory
):
    monkeypatch.setattr(answers, "MOST_LIST", 2 * 1024 * 1024, raising=False)
    api.say(BOMB, b"Content-Encoding: gzip")
    with pytest.raises(MachinesError, match="larger than 2 MB"):
        client.list_all(attempts=1)
    assert bounded_memory() < 16 * 1024 * 1024


def test_a_list_that_is_packed_is_read(api, client):
    api.say(gzip.compress(json.dumps([OURS]).encode()), b"Content-Encoding: gzip")
    assert [machine.id for machine in client.list_all(attempts=1)] == ["e1"]


@pytest.mark.parametrize("told", [b'{"of": "an order"}', b"", DEEP])
def test_a_connection_serves_the_next_request_whatever_its_last_answer_said(client, api, monkeypatch, told):
    api.stays_open = True
    api.say(told)
    for _ in range(3):
        client.start("e1")
    assert (api.asked, api.connections) == (3, 1)


@pytest.mark.parametrize(("encoding", "body"), [(b"gzip", b"no gzip"), (b"br", b"x"), (b"gzip, gzip", b"x")])
def test_an_answer_that_can_not_be_unpacked_is_told(api, client, encoding, body):
    api.say(body, b"Content-Encoding: " + encoding)
    with pytest.raises(MachinesError, match=r"no list of machines|can't be unpacked"):
        client.list_all(attempts=1)


def test_an_answer_that_drips_is_given_up(api, client, monkeypatch):
    monkeypatch.setattr(machines, "ANSWER_TIMEOUT", 0.3)

    def drip():
        yield b"HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n"
        while True:
            yield b" "
            time.sleep(0.05)

    api.answers = [drip()]
    with pytest.raises(MachinesError, match="can't be reached"):
        client.list_all(attempts=1)


ODD_ANSWERS = {
    "no status": b"garbage\r\n\r\n",
    "a status of 400 digits": b"HTTP/1.1 " + b"9" * 400 + b" OK\r\n\r\n",
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 2, 3\r\n\r\n[]",
    "half a body": b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n[]",
    "a chunk of no length": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nmany\r\n[]\r\n",
    "half a chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\n[]\r\n",
    "a header of 1 MB": b"HTTP/1.1 200 OK\r\nx: " + b"y" * 1_000_000 + b"\r\n\r\n",
    "10,000 headers": b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 10_000 + b"\r\n",
    "nothing": b"",
}


@pytest.mark.parametrize("kind", ODD_ANSWERS)
def test_an_answer_that_is_no_http_is_told_as_one_that_did_not_come(api, client, kind):
    api.answers = [ODD_ANSWERS[kind]]
    with pytest.raises(MachinesError, match=r"can't be reached|no list of machines|answered"):
        client.list_all(attempts=2)


ODD_ERRORS = {
    "nothing": b"",
    "bytes": b"\xff" * 100,
    "deep nesting": DEEP,
    "5,000 digits": b"9" * 5000,
    "a list as its text": b'{"error": ["a list"]}',
    "of another edition": b'{"error": {"of": "another edition"}, "message": 7}',
    "a list": b'["error"]',
    "null": b"null",
    "3 MB": json.dumps({"error": "e" * 3_000_000}).encode(),
    "more than is read": json.dumps({"error": "e" * 5_000_000}).encode(),
    "half of it": b"",
    "an escape": json.dumps({"error": "\x1b[2J\x00 half: \ud800"}).encode(),
}


@pytest.mark.parametrize("kind", ODD_ERRORS)
@pytest.mark.parametrize("status", [b"403 No\x1b[31m", b"429 Wait", b"503 " + b"x" * 3000], ids=["403", "429", "503"])
def test_an_odd_error_is_told_by_its_status_in_one_line(api, client, kind, status):
    cut = [b"Content-Length: 999"] if kind == "half of it" else []
    api.say(ODD_ERRORS[kind], *cut, b"fly-request-id: 01\x1b[31m", b"Retry-After: " + b"9" * 400, status=status)
    with pytest.raises(MachinesError) as told:
        client.start("e1")
    assert told.value.status == int(status[:3])
    assert told.value.request_id is None
    assert str(told.value).isprintable()
    assert len(str(told.value)) < 2000


@pytest.mark.parametrize("after", [b"9" * 400, b"-5", b"Wed, 21 Oct 2099 07:28:00 GMT", b"soon"], ids=range(4))
def test_how_long_to_wait_is_ours_to_say(api, client, monkeypatch, after):
    slept = []
    monkeypatch.setattr(machines.time, "sleep", slept.append)
    api.say(b"{}", b"Retry-After: " + after, status=b"429 Wait")
    with pytest.raises(MachinesError):
        client.start("e1")
    assert 0 < max(slept) <= machines.LONGEST_PAUSE


@pytest.mark.parametrize("body", [b"", DEEP, b"\xff", b"[7]", b"9" * 5000, b"null"], ids=lambda body: repr(body[:9]))
def test_an_order_that_was_carried_out_needs_no_words(api, client, body):
    api.say(body)
    client.start("e1")
    client.stop("e1")
    client.destroy("e1")
    assert api.asked == 3


@pytest.mark.parametrize("body", [b"", DEEP, b"[7]", b"{}", b'{"regions": 7}'], ids=range(5))
def test_an_answer_that_is_no_list_of_regions_is_told_and_what_is_no_region_passed_over(api, client, body):
    api.say(body)
    with pytest.raises(MachinesError, match="no list of regions"):
        client.regions()
    api.say_json({"regions": [7, {"code": []}, {"code": "ia d"}, {"code": "iad"}]})
    assert client.regions() == ["iad"]


def test_odd_volumes_are_passed_over_and_the_others_count(api, client):
    good = {"id": "vol_1", "name": "data", "region": "iad", "attached_machine_id": None}
    odd = [7, None, {}, {**good, "id": "../x"}, {**good, "id": 7}, {**good, "region": []}, {**good, "name": ["data"]}]
    api.say_json([*odd, good])
    assert client.free_volumes("data", None) == [("vol_1", "iad")]
    api.say(DEEP)
    with pytest.raises(MachinesError, match="no list of volumes"):
        client.free_volumes("data", None)


@pytest.mark.parametrize("machine_id", ["m" * 1_000_000, "m 1", "m\n", "é", "m1\x00", "१"], ids=range(6))
def test_an_id_that_is_none_leads_to_no_request(api, client, machine_id):
    assert client.get(machine_id) is None
    with pytest.raises(MachinesError, match="no machine has the id") as told:
        client.start(machine_id)
    assert len(str(told.value)) < 300
    assert api.asked == 0
