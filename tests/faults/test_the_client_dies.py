"""The client dies: its calls go on, and another process attaches to them by id."""

import os
import subprocess
import sys

import pytest

from tests import tasks

WAIT = 30.0
CLIENT = """
import sys, os, signal
from pathlib import Path
from flyexecutor import FlyMachineExecutor
from tests import tasks

from flyexecutor.store import lanes as lane_store
from flyexecutor.store import calls as store
# What it reserves and does not start is free again after so long.
lane_store.RESERVATION_TTL = store.RESERVATION_TTL = 2.0
ex = FlyMachineExecutor(max_workers=1, idle_timeout=1.0)
future = ex.submit(tasks.Gate(Path(sys.argv[1])).enter)
if sys.argv[2] == "killed":
    ex.flush(20)
print(future.id, flush=True)
if sys.argv[2] == "killed":
    signal.pause()
"""


def start_client(local_fly, *arguments):
    environ = {**os.environ, **local_fly.environ(), "PYTHONPATH": os.getcwd()}
    return subprocess.Popen([sys.executable, "-c", CLIENT, *arguments], env=environ, stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize("how", ["killed", "exits"])
def test_a_call_survives_the_client_that_sent_it(local_fly, executor, tmp_path, how):
    gate = tasks.Gate.make(tmp_path)
    with start_client(local_fly, str(tmp_path), how) as client:
        call_id = client.stdout.readline().strip()
        if how == "killed":
            client.kill()
    # A client that exits may not have started a machine: whoever attaches sees to it.
    attached = executor.future(call_id)
    gate.wait_for_entry()
    gate.open()
    assert attached.result(WAIT)
