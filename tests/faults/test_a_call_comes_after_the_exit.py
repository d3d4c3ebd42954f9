"""A submit that comes when nobody would store it any longer is refused, as by the executors of CPython."""

import os
import subprocess
import sys

import pytest

WAIT = 60.0
REFUSED = "RuntimeError: cannot schedule new futures after interpreter shutdown"
SCRIPT = """
import atexit

def late():
    print("late", flush=True)
    ex.submit(tasks.increment, 1)

atexit.register(late)
import flyexecutor
from flyexecutor import FlyMachineExecutor
from tests import tasks

ex = FlyMachineExecutor(max_workers=1, idle_timeout=1.0)
ex.submit(tasks.increment, 1).result()  # so that it has its threads: Python 3.12 starts none once it exits

@atexit.register
def in_time():
    print(ex.submit(tasks.increment, 1).id, flush=True)

class Holder:
    def __del__(self):
        print("finaliser", flush=True)
        ex.submit(tasks.increment, 1)

{holder} = Holder()
"""


@pytest.mark.parametrize("holder", ["holder", "flyexecutor.holder"], ids=["early", "late"])
def test_exit_hooks_before_ours_and_finalisers_are_refused_and_hooks_after_ours_are_stored(local_fly, executor, holder):
    environ = {**os.environ, **local_fly.environ(), "PYTHONPATH": os.getcwd()}
    script = SCRIPT.replace("{holder}", holder)
    ran = subprocess.run(
        [sys.executable, "-c", script], env=environ, capture_output=True, text=True, timeout=WAIT, check=False
    )
    call_id, *told = ran.stdout.split()
    assert told == ["late", "finaliser"]
    assert (ran.stderr.count(REFUSED), ran.stderr.count("Traceback")) == (2, 2), ran.stderr
    assert executor.future(call_id).result(WAIT) == 2
