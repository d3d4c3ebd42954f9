"""gevent: with everything patched, calls run and a waiting greenlet keeps no other from running."""

import os
import subprocess
import sys

WAIT = 60.0
SCRIPT = """
from gevent import monkey
monkey.patch_all()
import pathlib, sys
import gevent
from flyexecutor import FlyMachineExecutor
from tests import tasks

gate = tasks.Gate(pathlib.Path(sys.argv[1]))
with FlyMachineExecutor(max_workers=2, idle_timeout=2.0) as ex:
    greenlets = [gevent.spawn(lambda n=n: ex.submit(tasks.increment, n).result(30)) for n in range(100)]
    gevent.joinall(greenlets, timeout=30)
    assert [one.value for one in greenlets] == list(range(1, 101))
    assert list(ex.map(tasks.increment, range(300), chunksize=7)) == list(range(1, 301))
    running = ex.submit(tasks.hang, gate)
    waiting = gevent.spawn(running.exception)
    while not running.running():
        gevent.sleep(0)
    turns = []
    gevent.spawn(lambda: turns.append("another greenlet ran"))
    gevent.sleep(0)
    assert turns and not waiting.dead
    assert running.kill() == "killed"
    waiting.join(30)
    assert "killed" in str(waiting.value)
print("all of it")
"""

PATCHED_AFTER_FORK = """
import os, signal, sys
from flyexecutor import FlyMachineExecutor
from tests import tasks

ex = FlyMachineExecutor(max_workers=1, idle_timeout=2.0)
if child := os.fork():
    sys.exit(os.waitpid(child, 0)[1])
signal.alarm(60)  # ends a child that is stuck
from gevent import monkey
monkey.patch_all()
import gevent
greenlets = [gevent.spawn(lambda n=n: ex.submit(tasks.increment, n).result(30)) for n in range(5)]
gevent.joinall(greenlets, raise_error=True)
print([one.value for one in greenlets])
"""


def test_an_executor_made_before_gevent_patches_takes_calls_of_several_greenlets_at_once(local_fly):
    # As under gunicorn --preload --worker-class gevent: the locks of the executor are not gevent's.
    environ = {**os.environ, **local_fly.environ(), "PYTHONPATH": os.getcwd()}
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PATCHED_AFTER_FORK],
        env=environ,
        capture_output=True,
        text=True,
        timeout=WAIT,
        check=False,
    )
    assert (ran.stdout, ran.returncode) == ("[1, 2, 3, 4, 5]\n", 0), ran.stderr


def test_calls_run_and_a_waiting_greenlet_keeps_no_other_from_running(local_fly, tmp_path):
    from tests import tasks  # noqa: PLC0415

    tasks.Gate.make(tmp_path)
    environ = {**os.environ, **local_fly.environ(), "PYTHONPATH": os.getcwd()}
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT, tmp_path], env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        tasks.Gate(tmp_path).wait_for_entry()
        try:
            output, errors = process.communicate(timeout=WAIT)
        finally:
            process.kill()
    assert (output, process.returncode) == ("all of it\n", 0), errors
