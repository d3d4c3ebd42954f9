"""What is left behind: nothing, however the process that used an executor ends; and what a plain exit still does."""

import json
import os
import select
import signal
import subprocess
import sys

import psutil
import pytest
import redis

from flyexecutor import FlyMachineExecutor, LocalFly
from tests import tasks

WAIT = 30.0
OWNER = """
import json, sys
from flyexecutor import FlyMachineExecutor, LocalFly
from tests import tasks

fly = LocalFly()
ex = FlyMachineExecutor(local=fly, max_workers=1)
machine = ex.submit(tasks.machine_id).result(30)
print(json.dumps({"guard": fly.pid, "server": fly.server_pid, "id": ex.submit(tasks.increment, 1).id}), flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def owner():
    with subprocess.Popen(
        [sys.executable, "-c", OWNER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        yield process
        process.kill()


def wait_for_end(process, seconds=WAIT):
    """Until a process that is not our child has ended; the kernel tells."""
    try:
        handle = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return
    try:
        assert select.select([handle], [], [], seconds)[0], f"{process} is still there"
    finally:
        os.close(handle)


def family(guard):
    root = psutil.Process(guard)
    return [root, *root.children(recursive=True)]


@pytest.mark.parametrize("killed", ["owner", "guard", "server"])
def test_nothing_stays_behind_whichever_process_is_killed(owner, killed):
    told = json.loads(owner.stdout.readline())
    processes = family(told["guard"])
    assert len(processes) >= 5  # guard, server, Redis, worker, runner
    folders = {p.cwd() for p in processes if "flyexecutor-local-" in p.cwd()}
    assert len(folders) == 1
    os.kill(owner.pid if killed == "owner" else told[killed], signal.SIGKILL)
    for process in processes:
        wait_for_end(process)
    assert not os.path.exists(folders.pop())


def test_a_plain_exit_neither_hangs_nor_leaves_anything_behind(owner):
    told = json.loads(owner.stdout.readline())
    processes = family(told["guard"])
    output, errors = owner.communicate("exit\n", timeout=WAIT)
    assert (owner.returncode, output) == (0, "")
    assert "Traceback" not in errors
    for process in processes:
        wait_for_end(process)


def test_the_command_local_serves_an_executor_in_another_process_until_ctrl_c():
    command = [sys.executable, "-m", "flyexecutor.cli", "local", "--no-rate-limits"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        lines = [process.stdout.readline() for _ in range(5)]
        assert all(line.startswith("export ") for line in lines)
        environ = {**os.environ, **dict(line.removeprefix("export ").strip().split("=", 1) for line in lines)}
        script = (
            "from flyexecutor import FlyMachineExecutor\n"
            "with FlyMachineExecutor() as ex:\n    print(ex.submit(pow, 2, 5).result(30))\n"
        )
        ran = subprocess.run(
            [sys.executable, "-c", script], env=environ, capture_output=True, text=True, timeout=WAIT, check=False
        )
        process.send_signal(signal.SIGINT)
        assert process.wait(WAIT) == 0
        assert (ran.stdout, ran.returncode) == ("32\n", 0), ran.stderr
        assert "Traceback" not in process.stderr.read()


def test_nothing_is_sent_to_redis_while_nothing_is_pending():
    with (
        LocalFly(rate_limits=False) as fly,
        FlyMachineExecutor(local=fly, max_workers=1, idle_timeout=0.0) as executor,
        redis.Redis.from_url(fly.redis_url) as watched,
    ):
        assert executor.submit(tasks.increment, 1).result(WAIT) == 2
        while any(watched.hlen(key) for key in watched.keys("*:workers:*")):  # until the worker has left
            pass
        before = watched.info("stats")["total_commands_processed"]
        assert select.select([], [], [], 6.0) == ([], [], [])  # longer than the fleet's look, or anything that polls
        assert watched.info("stats")["total_commands_processed"] - before == 1  # our own question
