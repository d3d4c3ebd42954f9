"""An answer of Fly's is not what it must be: that costs the answer. Calls run, and what can't be read is left alone."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import requests

from tests import tasks

pytestmark = pytest.mark.usefixtures("quick_fleet")
WAIT = 60.0


class Between:
    """A server between a client and the Machines API, which changes answers as the test says."""

    def __init__(self, api_url):
        self.change = lambda _asked, body: body  # asked: the method, then the path from the app's name on
        self.asked = []
        between = self

        class Handler(BaseHTTPRequestHandler):
            def handle_one(self):
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                headers = {key: self.headers[key] for key in ("Authorization", "Content-Type") if key in self.headers}
                told = requests.request(self.command, api_url + self.path, data=body, headers=headers, timeout=90)
                between.asked.append((self.command, self.path))
                answer = told.content
                if told.ok:
                    answer = between.change(f"{self.command} {self.path.split('/apps/')[-1]}", answer)
                self.send_response(told.status_code)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            do_GET = do_POST = do_DELETE = handle_one

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self):
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def between(local_fly):
    server = Between(local_fly.api_url)
    yield server
    server.close()


def is_list(asked):
    return asked.startswith("GET") and asked.endswith("/machines")


def states_of(executor):
    return {machine.state for machine in executor.machines() if machine.lane == executor._lane.name}


def odd_machines(lane):
    """What a list may hold of a lane that no machine is."""
    config = {"metadata": {"flyexecutor": lane, "flyexecutor_keeper": "1", "flyexecutor_owner": "o"}}
    good = {"id": "odd0", "state": "suspended", "updated_at": "2020-01-01T00:00:00Z", "config": config}
    return [
        {**good, "id": ["odd1"]},
        {**good, "id": "../odd2"},
        {**good, "id": "odd3", "state": {"is": "suspended"}},
        {**good, "id": "odd4", "created_at": "when it was made"},
        {**good, "id": "odd5", "events": 10**400},
        {**good, "id": "odd6", "state": "\x1b[2Jstarted"},
        {**good, "id": "odd7", "config": {"metadata": {**config["metadata"], "flyexecutor_family": 7}}},
        None,
        [],
    ]


def test_odd_machines_in_each_list_are_left_alone_and_calls_run(make_executor, between, until):
    executor = make_executor(api_url=between.url, max_workers=2, idle_timeout=0.1)

    def add_odd(asked, body):
        return json.dumps([*odd_machines(executor._lane.name), *json.loads(body)]).encode() if is_list(asked) else body

    between.change = add_odd
    for _ in range(2):  # one is created, then started
        assert list(executor.map(tasks.increment, range(4))) == [1, 2, 3, 4]
        until(lambda: states_of(executor) <= {"suspended"})
    assert "odd" not in repr(executor._stock.reap(0.0, dry_run=True))
    assert not [path for _, path in between.asked if "odd" in path]


def test_a_worker_whose_machine_can_not_be_read_is_not_gone(make_executor, between, tmp_path, until):
    executor = make_executor(api_url=between.url, max_workers=2)
    gate = tasks.Gate.make(tmp_path)
    held = executor.submit(gate.enter)
    gate.wait_for_entry()
    (worker,) = [machine for machine in executor.machines() if machine.lane == executor._lane.name]
    seen = []

    def spoil(asked, body):
        if worker.id.encode() in body and asked.startswith("GET"):
            seen.append(asked)
            return body.replace(b'"started"', b"7")
        return body

    between.change = spoil
    assert executor.submit(tasks.increment, 1).result(WAIT) == 2  # another machine's
    until(lambda: any(asked.endswith(worker.id) for asked in seen))  # the list lacks it: it was looked at by itself
    gate.open()
    held.result(WAIT)
    assert (held.attempt, held.machine_id) == (1, worker.id)
    changes = [path for command, path in between.asked if command != "GET" and worker.id in path]
    assert [path for path in changes if not path.endswith("/start")] == []


@pytest.mark.parametrize("nonsense", [b"[" * 100_000, b"\xff\xfe", b"7" * 5000, b"", b'{"machines": []}'], ids=range(5))
def test_lists_that_are_none_cost_those_lists(make_executor, between, nonsense, until):
    executor = make_executor(api_url=between.url, max_workers=1)
    spoilt = []

    def spoil(asked, body):
        if is_list(asked) and len(spoilt) < 3:
            spoilt.append(asked)
            return nonsense
        return body

    between.change = spoil
    assert executor.submit(tasks.increment, 1).result(WAIT) == 2
    assert len(spoilt) == 3


def test_orders_whose_answers_are_nonsense_were_carried_out(make_executor, between, until):
    executor = make_executor(api_url=between.url, max_workers=1, idle_timeout=0.1)
    between.change = lambda asked, body: b"[" * 100_000 if asked.startswith("POST") else body
    for n in range(2):  # a create, then a start
        assert executor.submit(tasks.increment, n).result(WAIT) == n + 1
        until(lambda: states_of(executor) == {"suspended"})
    creates = [path for command, path in between.asked if command == "POST" and path.endswith("/machines")]
    assert len(creates) == 1
