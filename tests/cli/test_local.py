"""`flyexecutor local`: a fixed address if asked for, an environment file for others, and its end."""

import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import uuid
from contextlib import contextmanager

import psutil
import pytest

from flyexecutor import FlyMachineExecutor, LocalFly
from tests.e2e.test_lifecycle import wait_for_end

WAIT = 30.0
COMMAND = [sys.executable, "-m", "flyexecutor.cli", "local", "--no-rate-limits"]
READ = """
import json, os
from flyexecutor import FlyMachineExecutor, LocalFly
with FlyMachineExecutor(max_workers=1) as ex:
    print(ex.submit(pow, 2, 5).result(30), os.environ["REDIS_URL"], os.environ["FLY_API_HOSTNAME"])
"""


@contextmanager
def running(*arguments, **environ):
    """The command, ready for others; what it has said is in `.said`."""
    with subprocess.Popen(
        [*COMMAND, *arguments], stderr=subprocess.PIPE, text=True, env={**os.environ, **environ}
    ) as process:
        process.said = process.stderr.readline()
        yield process
        process.kill()


def stop(process):
    process.send_signal(signal.SIGINT)
    process.said += process.communicate(timeout=WAIT)[1]
    assert (process.returncode, "Traceback" in process.said) == (0, False), process.said


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


def test_address_token_and_password_are_those_asked_for_and_stand_in_the_environment_file_alone(tmp_path):
    token, password, file = secrets.token_hex(8), secrets.token_hex(8), tmp_path / "fly.env"
    ports = [free_port(), free_port()]
    given = {"FLYEXECUTOR_LOCAL_TOKEN": token, "FLYEXECUTOR_LOCAL_PASSWORD": password}
    arguments = ["--port", str(ports[0]), "--redis-port", str(ports[1]), "--env-file", str(file)]
    for _ in range(2):
        with running(*arguments, **given) as process:
            assert file.stat().st_mode & 0o777 == 0o600
            comment, *lines = file.read_text().splitlines()
            assert comment.startswith("#")
            assert all(re.fullmatch(r"[A-Z_]+=[\w:/.@-]+", line) for line in lines)
            assert f"FLY_API_TOKEN={token}" in lines
            command = f'set -a; . {file}; set +a; exec {sys.executable} -c "$SCRIPT"'
            ran = subprocess.run(
                ["sh", "-c", command], env={**os.environ, "SCRIPT": READ}, capture_output=True, text=True, check=True
            )
            assert ran.stdout.split() == [
                "32", f"redis://:{password}@127.0.0.1:{ports[1]}/0", f"http://127.0.0.1:{ports[0]}"
            ]  # fmt: skip
            shown = str([p.cmdline() for p in [psutil.Process(process.pid)]])
            stop(process)
        assert not file.exists()
        assert token not in process.said + shown
        assert password not in process.said + shown


def test_a_file_of_somebody_else_s_is_neither_overwritten_nor_removed(tmp_path):
    file = tmp_path / ".env"
    file.write_text("SECRET_KEY=mine\n")
    ran = subprocess.run([*COMMAND, "--env-file", file], capture_output=True, text=True, timeout=WAIT, check=False)
    assert (ran.returncode, ran.stdout) == (1, "")
    assert f"{file} was not written by flyexecutor local: give another file" in ran.stderr
    assert file.read_text() == "SECRET_KEY=mine\n"


def test_an_environment_file_that_was_replaced_stays(tmp_path):
    file = tmp_path / "fly.env"
    with running("--env-file", str(file)) as process:
        file.unlink()
        file.write_text("SECRET_KEY=mine\n")
        stop(process)
    assert file.read_text() == "SECRET_KEY=mine\n"


def test_the_environment_file_of_another_that_runs_is_left_to_it_and_that_of_a_killed_one_is_replaced(tmp_path):
    file = tmp_path / "fly.env"
    with running("--env-file", str(file)) as first:
        written = file.read_text()
        ran = subprocess.run([*COMMAND, "--env-file", file], capture_output=True, text=True, timeout=WAIT, check=False)
        assert (ran.returncode, ran.stdout) == (1, "")
        assert f"{file} is that of another flyexecutor local, which still runs: give another file" in ran.stderr
        assert file.read_text() == written
        first.kill()
    assert file.read_text() == written
    with running("--env-file", str(file)) as second:
        assert file.read_text() != written
        stop(second)
    assert not file.exists()


def test_an_environment_file_that_can_not_be_written_is_told(tmp_path):
    file = tmp_path / "nowhere" / "fly.env"
    ran = subprocess.run([*COMMAND, "--env-file", file], capture_output=True, text=True, timeout=WAIT, check=False)
    assert (ran.returncode, ran.stdout) == (1, "")
    assert f"{file} can't be written: No such file or directory" in ran.stderr


@pytest.mark.parametrize("option", ["--port", "--redis-port"])
def test_what_is_no_port_is_wrong_usage(option):
    ran = subprocess.run([*COMMAND, option, "70000"], capture_output=True, text=True, timeout=WAIT, check=False)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert f"Invalid value for '{option}': 70000 is not in the range 0<=x<=65535" in ran.stderr


@pytest.mark.parametrize("variable", ["FLYEXECUTOR_LOCAL_TOKEN", "FLYEXECUTOR_LOCAL_PASSWORD"])
def test_a_token_or_password_that_can_not_be_used_is_told_and_not_shown(variable):
    environ = {**os.environ, variable: "p@ss word"}
    ran = subprocess.run(COMMAND, env=environ, capture_output=True, text=True, timeout=WAIT, check=False)
    assert (ran.returncode, ran.stdout) == (1, "")
    assert "that is given must be at least 8 letters, digits and . _ ~ -" in ran.stderr
    assert "p@ss" not in ran.stderr


def test_by_its_name_an_executor_finds_it_and_it_keeps_its_data(tmp_path):
    """Also the next time, though the first may not have ended yet: it outlives the command by some seconds."""
    name, folder = uuid.uuid4().hex, tmp_path / "data"
    ids = []
    for _ in range(2):
        with running("--name", name, "--keep", str(folder), "--env-file", str(tmp_path / "env")) as process:
            with FlyMachineExecutor(local=name, max_workers=1) as ex:
                assert ex._settings.redis_url in (tmp_path / "env").read_text()
                for call_id in ids:
                    assert ex.future(call_id).result(WAIT) == 32
                future = ex.submit(pow, 2, 5)
                assert future.result(WAIT) == 32
                ids.append(future.id)
            stop(process)
    with LocalFly(name=name) as fly:
        guard = psutil.Process(fly.pid)
        guard.terminate()  # instead of waiting for its end
        wait_for_end(guard)


def test_when_it_is_killed_the_command_ends_and_says_so(tmp_path):
    with running("--env-file", str(tmp_path / "env")) as process:
        (guard,) = psutil.Process(process.pid).children()
        (server,) = guard.children()
        server.kill()
        _, said = process.communicate(timeout=WAIT)
        assert process.returncode == 1
        assert "it has ended by itself, or was killed" in said
        wait_for_end(guard)
    assert not (tmp_path / "env").exists()
