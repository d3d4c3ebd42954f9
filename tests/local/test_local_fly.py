"""LocalFly as its owner sees it: what machines are given, what is secret, what stays behind, what is missing."""

import importlib.util
import os
import re
import resource
import socket
import sys

import psutil
import pytest
import redis

from flyexecutor.local import LocalError, LocalFly
from tests.local.conftest import Api


@pytest.fixture
def own_fly():
    with LocalFly(rate_limits=False, secrets={"API_KEY": "s3cret"}) as fly:
        yield fly


def test_a_machine_has_fly_s_variables_the_app_s_secrets_and_not_our_environment(own_fly, tmp_path, monkeypatch):
    api = Api(own_fly)
    machine = api.create(["sh", "-c", f"env > {tmp_path}/env"], env={"OWN": "1"})
    assert api.wait(machine, "stopped").ok
    env = dict(line.split("=", 1) for line in (tmp_path / "env").read_text().splitlines() if "=" in line)
    assert (env["API_KEY"], env["OWN"]) == ("s3cret", "1")
    assert (env["FLY_MACHINE_ID"], env["FLY_APP_NAME"]) == (machine["id"], own_fly.app)
    assert (env["FLY_REGION"], env["FLY_IMAGE_REF"]) == ("iad", own_fly.image)
    assert env["FLY_MACHINE_VERSION"] == machine["instance_id"]
    assert "PYTEST_CURRENT_TEST" in os.environ
    assert "PYTEST_CURRENT_TEST" not in env
    api.session.close()


def test_the_end_of_a_machine_takes_all_its_processes(own_fly, tmp_path):
    os.mkfifo(tmp_path / "pid")
    api = Api(own_fly)
    machine = api.create(["sh", "-c", f"sleep 600 & echo $! > {tmp_path}/pid; wait"])
    child = psutil.Process(int((tmp_path / "pid").read_text()))
    api("POST", f"/{machine['id']}/signal", signal="SIGKILL")
    assert api.wait(machine, "stopped").ok
    psutil.wait_procs([child], timeout=10)
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE
    api.session.close()


def test_redis_is_a_real_server_behind_a_password(own_fly):
    with redis.Redis.from_url(own_fly.redis_url) as client:
        assert client.info("server")["redis_version"]
    port = redis.connection.parse_url(own_fly.redis_url)["port"]
    with redis.Redis(port=port) as stranger, pytest.raises(redis.AuthenticationError):
        stranger.ping()


def test_token_and_password_are_neither_shown_nor_in_the_list_of_processes(own_fly):
    password = redis.connection.parse_url(own_fly.redis_url)["password"]
    guard = psutil.Process(own_fly.pid)
    shown = repr(own_fly) + str([p.cmdline() for p in [guard, *guard.children(recursive=True)]])
    assert password not in shown
    assert own_fly.token not in shown
    assert "s3cret" not in shown


def test_close_leaves_no_process_no_folder_and_no_port(tmp_path):
    fly = LocalFly()
    guard = psutil.Process(fly.pid)
    family = [guard, *guard.children(recursive=True)]
    folder = next(p.cwd() for p in family if "flyexecutor-local-" in p.cwd())
    port = int(fly.api_url.rsplit(":", 1)[1])
    fly.close()
    fly.close()
    assert [p for p in family if p.is_running() and p.status() != psutil.STATUS_ZOMBIE] == []
    assert not os.path.exists(folder)
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0


def test_close_leaves_no_machine_that_restarts_when_it_is_killed(tmp_path):
    marker = str(tmp_path)
    with LocalFly(image=0.0, rate_limits=False, show_output=False) as fly:
        api = Api(fly)
        command = ["sh", "-c", "sleep 600; :", marker]
        for machine in [api.create(command, restart={"policy": "always"}) for _ in range(8)]:
            assert api.wait(machine, "started").ok
    assert not [one for one in psutil.process_iter(["cmdline"]) if marker in (one.info["cmdline"] or ())]


def test_the_close_of_a_forked_child_ends_nothing(own_fly):
    child = os.fork()
    if child == 0:
        own_fly.close()
        os._exit(0)
    os.waitpid(child, 0)
    assert Api(own_fly)("GET").ok


def test_a_port_that_is_taken_is_told_in_one_sentence():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(LocalError, match=f"port {port} of 127.0.0.1 is taken: choose another"):
            LocalFly(port=port)
        with pytest.raises(LocalError, match=f"did not start on port {port}"):
            LocalFly(redis_port=port)


@pytest.mark.parametrize("option", ["port", "redis_port"])
@pytest.mark.parametrize("value", [-1, 65536, 70000, "x", 1.5, True])
def test_what_is_no_port_is_refused_and_no_other_is_taken_instead(option, value):
    with pytest.raises(LocalError, match=f"{option} is {value!r}: it must be a whole number from 0 to 65535"):
        LocalFly(**{option: value})


def test_machines_run_this_python_whatever_it_is_called(monkeypatch, tmp_path):
    """Python's own installer for macOS, and Debian, have a python3 and no python."""
    os.symlink(sys.executable, tmp_path / "python3")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python3"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with LocalFly(rate_limits=False) as fly:
        api = Api(fly)
        machine = api.create(["python", "-c", "raise SystemExit(3)"])
        assert api.wait(machine, "stopped").ok
        assert api.get(machine["id"])["events"][0]["request"]["exit_event"]["exit_code"] == 3
        api.session.close()


def test_machines_may_open_more_files_than_a_terminal_of_a_mac_allows(tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, limits[1]))
    try:
        fly = LocalFly(rate_limits=False)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    with fly:
        api = Api(fly)
        machine = api.create(["sh", "-c", f"ulimit -n > {tmp_path}/files"])
        assert api.wait(machine, "stopped").ok
        assert int((tmp_path / "files").read_text()) >= 4096  # a runner has 6, and a worker up to some hundred runners
        api.session.close()


@pytest.mark.parametrize("missing", ["flask", "psutil"])
def test_without_what_it_stands_on_it_says_what_to_install(monkeypatch, missing):
    find = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == missing else find(name))
    with pytest.raises(LocalError, match=rf"{missing}: pip install 'flyexecutor\[local\]'"):
        LocalFly()


def test_the_guard_itself_ends_without_an_error(own_fly):
    api = Api(own_fly)
    machine = api.create(["echo", "something"])
    assert api.wait(machine, "stopped").ok
    api.session.close()
    own_fly.close()
    assert own_fly._connection._guard.returncode == 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"port": "80"}, "port is '80': it must be a whole number from 0 to 65535"),
        ({"redis_port": 99999}, "redis_port is 99999: it must be a whole number"),
        ({"port": -1}, "port is -1"),
        ({"app": ""}, "app is '': it must be a name"),
        ({"token": b"geheim-geheim"}, "the token that is given must be at least 8 letters"),
        ({"password": 12345678}, "the password that is given must be at least 8 letters"),
        ({"secrets": "geheim"}, "secrets must be a dict of texts"),
        ({"secrets": {"A": b"geheim"}}, "secrets must be a dict of texts"),
        ({"secrets": {1: "geheim"}}, "secrets must be a dict of texts"),
        ({"secrets": {"A": "geheim\0"}}, "without NUL characters"),
        ({"speed": float("nan")}, "speed=nan must be above 0"),
        ({"image": float("inf")}, "none of image=inf"),
    ],
)
def test_an_option_that_can_not_be_is_told_before_anything_starts(options, said, monkeypatch):
    monkeypatch.setattr("subprocess.Popen", lambda *_, **__: pytest.fail("it was started"))
    with pytest.raises(LocalError, match=re.escape(said)) as told:
        LocalFly(**options)
    assert "geheim" not in str(told.value)


def test_a_current_folder_that_is_gone_is_told(tmp_path, monkeypatch):
    folder = tmp_path / "gone"
    folder.mkdir()
    monkeypatch.chdir(folder)
    folder.rmdir()
    with pytest.raises(LocalError, match="the current folder, in which machines run, has been removed"):
        LocalFly()
