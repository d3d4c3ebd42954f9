"""A Flask app with local="name" under gunicorn: each worker is asked for what the other has submitted."""

import signal
import socket
import subprocess
import sys
import uuid

import pytest
import requests

from flyexecutor.local import LocalFly, connection
from tests.e2e.test_lifecycle import family, wait_for_end

WAIT = 30.0
APP = """
import os
from flask import Flask
from flyexecutor import FlyMachineExecutor
from flyexecutor.local import connection

connection.GRACE = 0.0
app = Flask(__name__)
executor = FlyMachineExecutor(local={name!r}, max_workers=1)

def double(number):
    return 2 * number

@app.post("/submit")
def submit():
    future = executor.submit(double, 21)
    executor.flush()
    return {{"id": future.id, "pid": os.getpid()}}

@app.get("/result/<call_id>")
def result(call_id):
    return {{"result": executor.future(call_id).result(30), "pid": os.getpid()}}
"""


@pytest.mark.parametrize("preload", [[], ["--preload"]])
def test_two_workers_share_one_local_fly_and_it_ends_with_them(tmp_path, preload, monkeypatch):
    monkeypatch.setattr(connection, "GRACE", 0.0)
    name = uuid.uuid4().hex
    (tmp_path / "app.py").write_text(APP.format(name=name))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        command = [sys.executable, "-m", "gunicorn", "app:app", "--bind", f"fd://{listener.fileno()}", *preload]
        command += ["--workers", "2", "--log-level", "warning", "--no-control-socket"]
        with subprocess.Popen(command, cwd=tmp_path, pass_fds=[listener.fileno()]) as gunicorn:
            url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            listener.close()
            submitted = requests.post(f"{url}/submit", timeout=WAIT).json()
            pids = set()
            while len(pids) < 2:  # each connection is taken by either
                got = requests.get(f"{url}/result/{submitted['id']}", timeout=WAIT)
                assert (got.status_code, got.json()["result"]) == (200, 42)
                pids.add(got.json()["pid"])
            with LocalFly(name=name) as fly:
                processes = family(fly.pid)
                assert len(fly.states()) == 1
            gunicorn.send_signal(signal.SIGTERM)
            assert gunicorn.wait(WAIT) == 0
    for process in processes:
        wait_for_end(process)
