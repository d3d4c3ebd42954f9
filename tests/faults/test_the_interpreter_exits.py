"""Interpreter exits with futures pending: `with` waits; a plain exit stores what was submitted, and does not hang."""

import os
import subprocess
import sys

from tests import tasks

WAIT = 30.0


def run(script, local_fly):
    environ = {**os.environ, **local_fly.environ(), "PYTHONPATH": os.getcwd()}
    return subprocess.run(
        [sys.executable, "-c", script], env=environ, capture_output=True, text=True, timeout=WAIT, check=True
    )


def test_a_plain_exit_first_stores_what_was_submitted(local_fly, executor):
    ran = run(
        "from flyexecutor import FlyMachineExecutor\nfrom tests import tasks\n"
        "ex = FlyMachineExecutor(max_workers=1, idle_timeout=1.0)\n"
        "print(*[ex.submit(tasks.increment, n).id for n in range(500)])\n",
        local_fly,
    )
    assert [executor.future(call_id).result(WAIT) for call_id in ran.stdout.split()] == list(range(1, 501))


def test_a_plain_exit_does_not_wait_for_what_runs(local_fly, executor, tmp_path):
    gate = tasks.Gate.make(tmp_path)
    ran = run(
        "import pathlib\nfrom flyexecutor import FlyMachineExecutor\nfrom tests import tasks\n"
        "ex = FlyMachineExecutor(max_workers=1, idle_timeout=1.0)\n"
        f"future = ex.submit(tasks.Gate(pathlib.Path({str(tmp_path)!r})).enter)\n"
        "ex.flush(20)\nprint(future.id)\n",
        local_fly,
    )
    gate.wait_for_entry()  # the process has ended, and the call is at its gate
    gate.open()
    assert executor.future(ran.stdout.strip()).result(WAIT)


def test_a_plain_exit_asks_for_the_machines_that_its_calls_need(local_fly, tmp_path):
    gate = tasks.Gate.make(tmp_path)
    ran = run(
        "import pathlib\nfrom flyexecutor import FlyMachineExecutor\nfrom tests import tasks\n"
        f"ex = FlyMachineExecutor(max_workers=1, idle_timeout=1.0, env={{'TEST': {str(tmp_path)!r}}})\n"
        f"ex.submit(tasks.Gate(pathlib.Path({str(tmp_path)!r})).enter)\n",
        local_fly,
    )
    assert "Traceback" not in ran.stderr  # from Python 3.12 on no thread starts any longer
    gate.wait_for_entry()  # nobody else started it
    gate.open()


def test_a_with_block_waits_for_what_was_submitted(local_fly, tmp_path):
    ran = run(
        "import pathlib\nfrom flyexecutor import FlyMachineExecutor\nfrom tests import tasks\n"
        "with FlyMachineExecutor(max_workers=1, idle_timeout=1.0) as ex:\n"
        f"    future = ex.submit(tasks.append_line, pathlib.Path({str(tmp_path / 'ran')!r}), 'x')\n"
        "print(future.done())\n",
        local_fly,
    )
    assert (ran.stdout, (tmp_path / "ran").read_text()) == ("True\n", "x\n")
