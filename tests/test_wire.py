"""The faulty wire itself, against a real Redis."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from itertools import islice
from urllib.parse import urlsplit

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from flyexecutor import LocalFly
from tests.wire import Fault, Wire, detour, schedule

REFUSED = (redis.ConnectionError, redis.TimeoutError)


@pytest.fixture
def redis_port(local_fly: LocalFly) -> int:
    port = urlsplit(local_fly.redis_url).port
    assert port
    return port


@pytest.fixture
def wire(redis_port: int) -> Iterator[Wire]:
    with Wire("127.0.0.1", redis_port) as wire:
        yield wire


@pytest.fixture
def make_client(local_fly: LocalFly, wire: Wire) -> Iterator[Callable[[float], "redis.Redis"]]:
    """Clients whose connections are not mended in silence, by their patience."""
    with ExitStack() as stack:

        def make(timeout: float) -> "redis.Redis":
            never = Retry(NoBackoff(), 0)
            client = redis.Redis.from_url(wire.url(local_fly.redis_url), socket_timeout=timeout, retry=never)
            return stack.enter_context(client)

        yield make


@pytest.fixture
def client(make_client: Callable[[float], "redis.Redis"]) -> "redis.Redis":
    return make_client(20.0)


@pytest.fixture
def raw(wire: Wire) -> Iterator[socket.socket]:
    """A connection that is known to work."""
    with socket.create_connection(("127.0.0.1", wire.port), timeout=20.0) as raw:
        raw.sendall(b"PING\r\n")
        assert raw.recv(100).startswith(b"-NOAUTH")
        yield raw


def test_a_good_wire_changes_nothing(client, wire):
    large = bytes(range(256)) * 40_000
    client.set("wire", large)
    assert (client.getdel("wire") == large, wire.connections) == (True, 1)


def test_a_delay_holds_both_ways(client, wire):
    client.ping()
    wire.delay(0.1)
    began = time.monotonic()
    client.ping()
    assert time.monotonic() - began >= 0.2


def test_a_throttled_answer_comes_slowly_and_whole(client, wire):
    client.set("wire", b"x" * 20_000)
    wire.throttle(100_000)
    began = time.monotonic()
    assert len(client.getdel("wire")) == 20_000
    assert time.monotonic() - began >= 0.15


def test_an_answer_is_cut_in_its_middle(wire, raw):
    wire.cut_after(3)
    raw.sendall(b"PING\r\n")
    came = b""
    with suppress(ConnectionResetError):  # a RST takes what has not been read with it
        while piece := raw.recv(100):
            came += piece
    assert len(came) <= 3


def test_only_so_many_connections_are_cut(client, wire):
    client.ping()
    wire.cut_after(0, times=1)
    with pytest.raises(REFUSED):
        client.ping()
    assert client.ping()


def test_a_cut_ends_all_connections_and_the_next_one_is_good(client, wire, raw):
    wire.cut()
    with suppress(ConnectionResetError):
        assert raw.recv(100) == b""
    assert client.ping()


def test_new_connections_are_refused_until_it_heals(client, wire):
    wire.refuse()
    with pytest.raises(REFUSED):
        client.ping()
    wire.heal()
    assert client.ping()


def test_a_deaf_connection_stays_deaf_and_a_new_one_works(client, wire, raw):
    wire.deaf()
    wire.heal()
    raw.sendall(b"PING\r\n")
    assert client.ping()
    raw.settimeout(0.1)
    with pytest.raises(TimeoutError):
        raw.recv(100)


def test_new_connections_are_deaf_as_well_if_asked(client, make_client, wire):
    wire.deaf(new=True)
    with pytest.raises(redis.TimeoutError):
        make_client(0.1).ping()
    wire.deaf(False)
    assert client.ping()


def test_a_deaf_end_does_not_learn_that_the_other_has_closed():
    with socket.create_server(("127.0.0.1", 0)) as server, Wire(*server.getsockname()) as wire:
        near = socket.create_connection(("127.0.0.1", wire.port))
        far, _ = server.accept()
        with near, far:
            near.sendall(b"hello")
            assert far.recv(100) == b"hello"
            wire.deaf()
            near.close()
            far.settimeout(0.1)
            with pytest.raises(TimeoutError):
                far.recv(100)


def test_a_client_is_reset_whose_server_is_not_there(closed_port):
    address = "127.0.0.1"
    with (
        Wire(address, closed_port) as wire,
        pytest.raises(ConnectionResetError),
        socket.create_connection((address, wire.port), timeout=20.0) as alone,
    ):
        alone.recv(100)


def test_the_two_sides_of_a_server_have_wires_of_their_own(client, wire, redis_port):
    with Wire("127.0.0.1", redis_port) as own:
        own.refuse()
        with detour(wire, own), pytest.raises(REFUSED):
            client.ping()
        assert (own.accepted, client.ping()) == (1, True)


def test_misbehaviour_is_the_seeds_alone():
    def faults(seed: int) -> list[Fault]:
        return list(islice(schedule(seed, every=1.0, longest=2.0), 50))

    assert faults(1) == faults(1) != faults(2)


def test_what_has_misbehaved_is_good_again_when_it_has_healed(client, make_client, wire):
    impatient = make_client(0.1)
    wire.misbehave(every=0.001, longest=0.3)
    while wire.faults.total() < 3:
        with suppress(*REFUSED):
            impatient.ping()
    wire.heal()
    assert client.ping()


def test_closing_ends_every_connection_and_the_thread(client, wire):
    client.ping()
    wire.deaf()
    before = threading.active_count()
    other = Wire("127.0.0.1", 1)
    other.close()
    assert threading.active_count() == before
