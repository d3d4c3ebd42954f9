"""A user of Redis with the rights of docs/redis.acl: calls of every kind run, and nothing else is allowed."""

import hashlib
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import redis

from flyexecutor import FlyMachineExecutor, RedisUnavailableError, Retry
from tests import tasks

WAIT = 60.0
RIGHTS = Path(__file__).parents[2] / "docs" / "redis.acl"
PASSWORD = "of-the-user-with-few-rights"
# redis-py tells what it is, and does without the answer.
NOT_NEEDED = {"client", "client|setinfo"}


@pytest.fixture
def admin(local_fly):
    """Another user than ours, who sees what was refused."""
    with redis.Redis.from_url(local_fly.redis_url, decode_responses=True) as client:
        yield client


@pytest.fixture
def address(admin, local_fly):
    """The address of Redis for the user of the file."""
    hashed = hashlib.sha256(PASSWORD.encode()).hexdigest()
    line = RIGHTS.read_text().replace("PASSWORD_SHA256", hashed).replace("my-tasks", local_fly.app)
    _, name, *rules = line.split()
    admin.execute_command("ACL", "SETUSER", name, "reset", *rules)
    admin.execute_command("ACL", "LOG", "RESET")
    server = urlsplit(local_fly.redis_url)
    yield server._replace(netloc=f"{name}:{PASSWORD}@{server.hostname}:{server.port}").geturl()
    admin.execute_command("ACL", "DELUSER", name)


@pytest.fixture
def refused(admin):
    """What Redis has refused so far, of what is needed."""

    def ask():
        entries = [
            entry if isinstance(entry, dict) else dict(zip(entry[::2], entry[1::2], strict=True))
            for entry in admin.execute_command("ACL", "LOG")
        ]
        return {entry["object"] for entry in entries} - NOT_NEEDED

    return ask


@pytest.fixture
def settings(local_fly, address, monkeypatch):
    """What the environment of a process with that address says."""
    for name, value in {**local_fly.environ(), "REDIS_URL": address}.items():
        monkeypatch.setenv(name, value)


def test_calls_of_every_kind_run_with_these_rights(settings, refused, until, request):
    env, large = {"TEST": request.node.nodeid}, b"x" * 2_000_000
    with FlyMachineExecutor(max_workers=2, idle_timeout=1.0, env=env) as executor:
        executor.prepare(1)
        assert len(executor.submit(bytes, 9_000_000).result(WAIT)) == 9_000_000, "in pieces"
        assert list(executor.map(len, [large] * 3)) == [len(large)] * 3, "shared"
        assert list(executor.stream(range, 3)) == [0, 1, 2]
        batch = executor.submit_batch(abs, range(-3, 0))
        assert list(executor.batch(batch.id).results(WAIT)) == [3, 2, 1]
        assert executor.future(batch.futures[0].id).result(WAIT) == 3
        assert set(batch.counts()) == {"SUCCEEDED"}
        with pytest.raises(ZeroDivisionError):
            executor.with_options(retries=Retry(attempts=2, wait=0.1)).submit(divmod, 1, 0).result(WAIT)
        assert executor.with_options(key="once").submit(abs, -1).result(WAIT) == 1
        running = executor.submit(time.sleep, WAIT)
        until(running.running)
        assert executor.with_options(expires=WAIT).submit(abs, -1).result(WAIT) == 1
        assert running.kill() == "killed"
        executor.submit(tasks.increment, 1).cancel()
        executor.schedule(abs, -1, every="daily", name="with-few-rights")
        executor.unschedule("with-few-rights")
        assert executor.stats()
        assert executor.machines()
        executor.set_limits(max_workers=3)
        executor.reap(older_than=0)
    assert refused() == set()


@pytest.mark.parametrize("command", ["doctor --no-call", "ps", "schedules", "reap --dry-run"])
def test_the_command_works_with_these_rights(command, settings, refused):
    program = [sys.executable, "-m", "flyexecutor.cli", *command.split()]
    ran = subprocess.run(program, capture_output=True, text=True, check=False, timeout=WAIT)
    assert (ran.returncode, refused()) == (0, set()), ran.stdout + ran.stderr


@pytest.mark.parametrize(
    "command",
    [
        "FLUSHALL",
        "KEYS *",
        "CONFIG GET *",
        "ACL LIST",
        "MONITOR",
        "SCRIPT FLUSH",
        "REPLICAOF 127.0.0.1 1",
        "RENAME fly:{APP}:lanes fly:{APP}:other",
        "GET fly:{another-app}:creates",
        "SET elsewhere x",
        "EVAL return(redis.call('GET','elsewhere')) 0",
        "EVAL return(redis.call('FLUSHALL')) 0",
    ],
)
def test_nothing_else_is_allowed(command, address, local_fly, refused):
    with redis.Redis.from_url(address) as client, pytest.raises(redis.ResponseError):
        client.execute_command(*command.replace("APP", local_fly.app).split())
    assert len(refused()) == 1


def test_a_command_that_is_not_allowed_is_told(settings, admin):
    admin.execute_command("ACL", "SETUSER", "flyexecutor", "-zpopmax")
    with FlyMachineExecutor(max_workers=1) as executor:
        error = executor.submit(abs, -1).exception(WAIT)
    assert isinstance(error, RedisUnavailableError)
    assert "zpopmax" in str(error) or "can't run this command" in str(error)  # as Redis 6.2 has it
    assert "check its limits and its ACL" in str(error)
