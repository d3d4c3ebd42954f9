"""Real gunicorn: an executor made and used before the fork works in every worker process, and all of it ends."""

import concurrent.futures
import contextlib
import os
import re
import signal
import subprocess
import sys

import psutil
import pytest
import requests

WAIT = 30.0
WORKERS = 3


@contextlib.contextmanager
def gunicorn(local_fly, *options):
    """A server; yields its process and address."""
    command = [sys.executable, "-m", "gunicorn", "--bind", "127.0.0.1:0", "--workers", str(WORKERS), *options]
    environ = {**os.environ, **local_fly.environ(), "PYTHONPATH": os.getcwd()}
    with subprocess.Popen(
        [*command, "tests.e2e.wsgi_app:app"], env=environ, stderr=subprocess.PIPE, text=True
    ) as server:
        try:
            address = None
            while address is None:
                line = server.stderr.readline()
                assert line, "gunicorn ended while it started"
                address = re.search(r"Listening at: (http://\S+)", line)
            yield server, address[1]
        finally:
            server.kill()


@pytest.mark.parametrize(
    "options",
    [
        ("--preload",),
        ("--preload", "--worker-class", "gthread", "--threads", "4"),
        ("--worker-class", "gevent"),
        ("--preload", "--worker-class", "gevent"),
    ],
    ids=" ".join,
)
def test_every_worker_process_gets_its_results_and_all_of_it_ends(local_fly, options):
    with gunicorn(local_fly, *options) as (server, address):
        seen = set()

        def ask(number):
            return requests.get(address, params={"n": number}, timeout=WAIT).json()

        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            for turn in range(50):
                numbers = range(turn * 20, turn * 20 + 20)
                answers = list(pool.map(ask, numbers))
                assert [answer["result"] for answer in answers] == [number + 1 for number in numbers]
                assert {answer["before"] for answer in answers} == {1}
                seen |= {answer["pid"] for answer in answers}
                if len(seen) == WORKERS:
                    break
        assert len(seen) == WORKERS
        family = psutil.Process(server.pid).children(recursive=True)
        server.send_signal(signal.SIGTERM)
        errors = server.communicate(timeout=WAIT)[1]
        assert server.returncode == 0
        assert "Traceback" not in errors
        assert psutil.wait_procs(family, timeout=WAIT)[1] == []
