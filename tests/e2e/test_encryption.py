"""With encrypt=True nothing that a call was given, or came to, can be read in Redis at any moment."""

import os
import socket
import threading
from urllib.parse import urlsplit

import pytest
import redis

from flyexecutor import PayloadError, SettingsError
from flyexecutor.payload import cipher
from flyexecutor.payload.trust import Trust
from flyexecutor.settings import read_settings
from tests import tasks

WAIT = 30.0
KINDS = ("argument", "result", "exception", "item", "shared", "large", "batch", "keyed", "scheduled")


def mark(kind):
    return f"a-mark-of-{kind}-only"


def say(kind):
    return mark(kind)  # the mark comes to be on the machine


def say_much(kind):
    return mark(kind).encode() + os.urandom(400_000)


def fail(kind):
    raise ValueError(mark(kind))


def yield_some(kind):
    yield mark(kind)


def length(text, _):
    return len(text)


@pytest.fixture
def wiretap(local_fly):
    """All that anybody has sent to Redis, and that scripts did there, until `hang_up`, which answers it."""
    address = urlsplit(local_fly.redis_url)
    heard = bytearray()
    with (
        socket.create_connection((address.hostname, address.port)) as tap,
        redis.Redis.from_url(local_fly.redis_url) as client,
    ):
        tap.sendall(f"AUTH {address.password}\r\nMONITOR\r\n".encode() if address.password else b"MONITOR\r\n")

        def listen():
            while b"hang up" not in heard and (more := tap.recv(1 << 20)):
                heard.extend(more)

        thread = threading.Thread(target=listen)
        thread.start()

        def hang_up():
            client.echo("hang up")
            thread.join()
            return bytes(heard)

        yield hang_up
        hang_up()


@pytest.mark.parametrize("encrypt", [False, True])
def test_what_calls_are_given_and_come_to_is_nowhere_in_redis(make_executor, wiretap, until, encrypt):
    executor = make_executor(encrypt=encrypt)
    assert executor.submit(len, mark("argument")).result(WAIT) == len(mark("argument"))
    assert executor.submit(say, "result").result(WAIT) == mark("result")
    with pytest.raises(ValueError, match=mark("exception")):
        executor.submit(fail, "exception").result(WAIT)
    assert list(executor.stream(yield_some, "item")) == [mark("item")]
    shared = os.urandom(200_000).hex() + mark("shared")
    assert list(executor.map(length, [shared] * 4, range(4), chunksize=2)) == [len(shared)] * 4
    assert executor.submit(say_much, "large").result(WAIT).startswith(mark("large").encode())
    assert list(executor.submit_batch(say, ["batch"]).results(WAIT)) == [mark("batch")]
    keyed = executor.with_options(key=f"once, {encrypt}").submit(say, "keyed")
    assert keyed.result(WAIT) == mark("keyed")
    assert make_executor(encrypt=encrypt).future(keyed.id).result(WAIT) == mark("keyed")
    schedule = executor.schedule(len, mark("scheduled"), every="monthly", name="s")
    (run,) = until(lambda: executor.schedules()[0].call_ids)
    assert executor.future(run).result(WAIT) == len(mark("scheduled"))
    executor.unschedule(schedule.name)
    heard = wiretap()
    found = {kind for kind in KINDS if mark(kind).encode() in heard}
    assert found == (set() if encrypt else set(KINDS))
    assert executor._settings.token.encode() not in heard
    assert executor._settings.key.hex().encode() not in heard


def test_who_does_not_encrypt_reads_what_others_have_encrypted_with_a_key_of_before(make_executor, monkeypatch):
    encrypted = make_executor(encrypt=True).submit(tasks.increment, 1)
    assert encrypted.result(WAIT) == 2
    assert make_executor().future(encrypted.id).result(WAIT) == 2
    old, new = b"o" * 32, b"n" * 32
    sealed = Trust(old, "app", encrypts=True).seal_part("id", b"body")
    assert bytes(Trust(new, "app", [old]).open_part("id", sealed).body) == b"body"
    assert sealed != Trust(old, "app", encrypts=True).seal_part("id", b"body")


def test_without_the_package_an_executor_that_encrypts_can_not_be_made(make_executor, monkeypatch):
    monkeypatch.setattr(cipher, "is_installed", lambda: False)
    told = r"^encrypt needs the package cryptography: pip install 'flyexecutor\[crypto\]' \(in the image"
    with pytest.raises(SettingsError, match=told):
        make_executor(encrypt=True)
    assert make_executor(encrypt=False).submit(tasks.increment, 1).result(WAIT) == 2


def test_a_client_without_the_package_is_told_what_it_lacks(make_executor, monkeypatch):
    encrypted = make_executor(encrypt=True).submit(tasks.increment, 1)
    assert encrypted.result(WAIT) == 2
    monkeypatch.setattr(cipher, "is_installed", lambda: False)
    with pytest.raises(PayloadError, match=r"is encrypted, .* pip install 'flyexecutor\[crypto\]'"):
        make_executor().future(encrypted.id).result(WAIT)


def test_a_call_on_an_image_without_the_package_fails_and_says_what_it_lacks(make_executor, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.util\n"
        "find_spec = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *more: None if name == 'cryptography' else find_spec(name, *more)\n"
    )
    path = os.pathsep.join((str(tmp_path), os.getcwd()))
    executor = make_executor(encrypt=True, env={"PYTHONPATH": path})
    with pytest.raises(PayloadError, match=r"is encrypted, .* pip install 'flyexecutor\[crypto\]'"):
        executor.submit(tasks.increment, 1).result(WAIT)


FULL = {"FLY_TASKS_APP": "a", "FLY_API_TOKEN": "t", "REDIS_URL": "redis://h", "FLY_IMAGE_REF": "i"}


@pytest.mark.parametrize(("told", "encrypts"), [("1", True), ("0", False), ("", False)])
def test_the_environment_says_whether_to_encrypt_unless_the_caller_does(told, encrypts):
    environ = {**FULL, "FLYEXECUTOR_ENCRYPT": told}
    assert read_settings(environ=environ).encrypt is encrypts
    assert read_settings(encrypt=not encrypts, environ=environ).encrypt is not encrypts
    with pytest.raises(SettingsError, match=r"^FLYEXECUTOR_ENCRYPT is 'yes': it must be 1, or 0$"):
        read_settings(environ={**FULL, "FLYEXECUTOR_ENCRYPT": "yes"})
    with pytest.raises(SettingsError, match=r"^encrypt is 1: it must be True or False$"):
        read_settings(encrypt=1, environ=FULL)
