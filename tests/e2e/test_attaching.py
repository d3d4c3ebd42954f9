"""Several ask for one call: by its id or its key, at the same moment, while Redis is away, or after it was given up."""

import concurrent.futures
import contextlib
import os
import select
import socket
import socketserver
import threading
import time

import pytest
import redis

from flyexecutor import ExpiredCallError, FlyExecutorError, FlyFuture, RedisUnavailableError
from tests import tasks

WAIT = 30.0


@pytest.fixture
def gate(tmp_path):
    return tasks.Gate.make(tmp_path)


class Door(socketserver.ThreadingTCPServer):
    """A port that nobody answers until it is opened; then it leads to Redis."""

    daemon_threads = False

    def __init__(self, target):
        super().__init__(("127.0.0.1", 0), None, bind_and_activate=False)
        self.target = target
        self.server_bind()
        self._thread = threading.Thread(target=self.serve_forever, args=(0.01,))

    def open(self):
        self.server_activate()
        self._thread.start()

    def finish_request(self, request, client_address):
        with socket.create_connection(self.target) as redis_side:
            ends = {request: redis_side, redis_side: request}
            with contextlib.suppress(OSError):
                while True:
                    for ready in select.select(list(ends), [], [])[0]:
                        if not (data := ready.recv(65536)):
                            return
                        ends[ready].sendall(data)

    def close(self):
        if self._thread.ident:
            self.shutdown()
            self._thread.join()
        self.server_close()


@pytest.fixture
def door(local_fly):
    with redis.Redis.from_url(local_fly.redis_url) as client:
        told = client.connection_pool.connection_kwargs
    door = Door((told["host"], told["port"]))
    yield door
    door.close()


@pytest.fixture
def behind_door(make_executor, local_fly, door, monkeypatch):
    """An executor that can't reach Redis until the door is opened, and soon gives up a call that it can't store."""
    monkeypatch.setattr("flyexecutor.client.outbox.FIRST_CONTACT", 0.1)
    port = local_fly.redis_url.rpartition(":")[2].partition("/")[0]
    executor = make_executor(redis_url=local_fly.redis_url.replace(f":{port}", f":{door.server_address[1]}"))
    yield executor
    executor.shutdown(wait=False, cancel_futures=True)
    executor._client.close()  # before the door: its threads end at the connections


def at_once(number, ask):
    """What so many threads get that ask at the same moment; an exception is its thread's answer."""
    barrier = threading.Barrier(number)

    def wait_and_ask():
        barrier.wait(WAIT)
        try:
            return ask()
        except FlyExecutorError as exc:
            return exc

    with concurrent.futures.ThreadPoolExecutor(number) as pool:
        return [asked.result(WAIT) for asked in [pool.submit(wait_and_ask) for _ in range(number)]]


@pytest.fixture
def slow_births(monkeypatch):
    """Making a future takes so long that the other threads look for it meanwhile."""

    class SlowlyMade(FlyFuture):
        def __init__(self, *args, **kwargs):
            time.sleep(0.05)
            super().__init__(*args, **kwargs)

    monkeypatch.setattr("flyexecutor.client.client.FlyFuture", SlowlyMade)


def under_way(executor):
    watcher = executor._client._watcher
    return len(watcher._pending), watcher._submitted


class HeldAttach:
    """Redis's answer to an attach comes when it is let go, or it fails then."""

    def __init__(self, executor, monkeypatch):
        self.asked, self._go = threading.Event(), threading.Event()
        self._ask = executor._client.store.attach
        self.error = None
        self.times = 0
        monkeypatch.setattr(executor._client.store, "attach", self)

    def __call__(self, call_id, client):
        self.times += 1
        self.asked.set()
        assert self._go.wait(WAIT)
        if self.error:
            raise self.error
        return self._ask(call_id, client)

    def let_go(self, error=None):
        self.error = error
        self._go.set()


@pytest.fixture
def hold_attach(monkeypatch):
    return lambda executor: HeldAttach(executor, monkeypatch)


def in_thread(ask):
    """The future of what is asked in a thread."""
    asked = concurrent.futures.Future()

    def run():
        try:
            asked.set_result(ask())
        except BaseException as exc:  # noqa: BLE001 - it is told
            asked.set_exception(exc)

    threading.Thread(target=run, daemon=True).start()
    return asked


def test_threads_that_attach_to_one_call_at_the_same_moment_get_one_future_that_ends(slow_births, make_executor, gate):
    asked, other = make_executor(max_workers=1), make_executor()
    submitted = asked.submit(gate.enter)
    asked.flush(WAIT)
    futures = at_once(200, lambda: other.future(submitted.id))
    gate.wait_for_entry()
    gate.open()
    assert submitted.result(WAIT)
    assert len(concurrent.futures.wait(futures, WAIT).done) == len(set(futures)) == 1
    assert under_way(other) == (0, 0)


def test_threads_that_submit_with_one_key_at_the_same_moment_get_one_future_that_ends(
    slow_births, make_executor, tmp_path
):
    executor = make_executor(max_workers=1)
    keyed = executor.with_options(key="x" + os.urandom(4).hex())
    futures = at_once(66, lambda: keyed.submit(tasks.append_line, tmp_path / "ran", "x"))
    assert len(concurrent.futures.wait(futures, WAIT).done) == len(set(futures)) == 1
    assert (tmp_path / "ran").read_text() == "x\n"
    assert under_way(executor) == (0, 0)


def test_threads_that_attach_and_submit_with_the_key_of_a_call_all_get_its_result(slow_births, make_executor):
    key = "x" + os.urandom(4).hex()
    first = make_executor(max_workers=1).with_options(key=key).submit(tasks.increment, 1)
    assert first.result(WAIT) == 2
    executor = make_executor(max_workers=1)
    keyed = executor.with_options(key=key)
    asks = [lambda: executor.future(first.id), lambda: keyed.submit(tasks.increment, 5)] * 50

    def ask():
        return asks.pop()()

    futures = at_once(100, ask)
    assert [future.result(WAIT) for future in futures] == [2] * 100
    assert under_way(executor) == (0, 0)


def test_an_attach_that_failed_is_tried_again_even_by_who_handles_its_error(make_executor, behind_door, door):
    submitted = make_executor().submit(tasks.increment, 1)
    assert submitted.result(WAIT) == 2
    with pytest.raises(RedisUnavailableError) as told:
        behind_door.future(submitted.id)
    with pytest.raises(RedisUnavailableError):
        behind_door.future(submitted.id)
    door.open()
    assert behind_door.future(submitted.id).result(WAIT) == 2  # while the error, and what it holds, is alive
    assert told.value.__traceback__
    assert under_way(behind_door) == (0, 0)


def test_an_attach_that_fails_fails_for_all_who_wait_for_it(make_executor, hold_attach):
    executor = make_executor()
    call_id = executor._trust.new_call_id()
    held = hold_attach(executor)
    first = in_thread(lambda: executor.future(call_id))
    assert held.asked.wait(WAIT)
    others = [in_thread(lambda: executor.future(call_id)) for _ in range(5)]
    held.let_go(error := RedisUnavailableError("away"))
    assert [one.exception(WAIT) for one in [first, *others]] == [error] * 6
    assert (under_way(executor), executor._client.attaching._flights) == ((0, 0), {})


def test_an_attach_that_is_interrupted_is_taken_over_by_who_waits_for_it(make_executor, hold_attach):
    executor = make_executor()
    submitted = make_executor().submit(tasks.increment, 1)
    assert submitted.result(WAIT) == 2
    held = hold_attach(executor)
    first = in_thread(lambda: executor.future(submitted.id))
    assert held.asked.wait(WAIT)
    other = in_thread(lambda: executor.future(submitted.id))
    executor._client.store.attach = held._ask  # for whoever asks next
    held.let_go(KeyboardInterrupt())
    assert isinstance(first.exception(WAIT), KeyboardInterrupt)
    assert other.result(WAIT).result(WAIT) == 2


@pytest.mark.parametrize("error", [RedisUnavailableError("away"), None], ids=["fails", "finds nothing"])
def test_a_keyed_submit_meanwhile_is_not_hurt_by_an_attach_that(make_executor, hold_attach, error):
    executor = make_executor(max_workers=1)
    key = "x" + os.urandom(4).hex()
    call_id = executor._trust.new_call_id(key)
    held = hold_attach(executor)
    attach = in_thread(lambda: executor.future(call_id))
    assert held.asked.wait(WAIT)
    submitted = executor.with_options(key=key).submit(tasks.increment, 1)
    if error is None:
        assert submitted.result(WAIT) == 2
    held.let_go(error)
    assert attach.result(WAIT) is submitted
    assert submitted.result(WAIT) == 2
    assert under_way(executor) == (0, 0)


def test_a_shutdown_does_not_wait_for_ever_for_an_attach_that_fails(make_executor, hold_attach):
    executor = make_executor()
    held = hold_attach(executor)
    attach = in_thread(lambda: executor.future(executor._trust.new_call_id()))
    assert held.asked.wait(WAIT)
    shutdown = in_thread(executor.shutdown)
    while not executor._client.closed:
        pass
    held.let_go(RedisUnavailableError("away"))
    assert isinstance(attach.exception(WAIT), RedisUnavailableError)
    assert shutdown.result(WAIT) is None


def test_the_future_of_a_call_that_is_attached_to_after_the_shutdown_ends(make_executor, gate):
    asked, other = make_executor(max_workers=1), make_executor()
    submitted = asked.submit(gate.enter)
    gate.wait_for_entry()
    other.shutdown()
    with pytest.raises(FlyExecutorError, match="was shut down before this call ended"):
        other.future(submitted.id).result(WAIT)
    gate.open()
    assert submitted.result(WAIT)
    assert other.future(submitted.id).result(WAIT)  # ended: nothing to wait for


def test_a_keyed_call_that_could_not_be_stored_runs_when_it_is_submitted_again(behind_door, door):
    keyed = behind_door.with_options(key="x" + os.urandom(4).hex())
    failed = keyed.submit(tasks.increment, 1)
    assert isinstance(failed.exception(WAIT), RedisUnavailableError)
    door.open()
    with pytest.raises(ExpiredCallError):
        behind_door.future(failed.id)
    again = keyed.submit(tasks.increment, 1)
    assert (again.result(WAIT), again.id) == (2, failed.id)
    assert isinstance(failed.exception(), RedisUnavailableError)
    assert under_way(behind_door) == (0, 0)


def test_a_keyed_call_that_was_taken_back_before_it_was_stored_runs_when_it_is_submitted_again(
    behind_door, door, monkeypatch
):
    monkeypatch.setattr("flyexecutor.client.outbox.FIRST_CONTACT", WAIT)
    keyed = behind_door.with_options(key="x" + os.urandom(4).hex())
    first = behind_door.submit(tasks.increment, 0)  # the outbox tries to send this
    while not behind_door._client._outbox._sending:
        pass
    taken = keyed.submit(tasks.increment, 1)
    assert taken.cancel()
    again = keyed.submit(tasks.increment, 1)
    assert again is not taken
    assert keyed.submit(tasks.increment, 1) is again
    door.open()
    assert (first.result(WAIT), again.result(WAIT), taken.cancelled()) == (1, 2, True)


def test_the_id_of_a_call_that_can_not_be_pickled_answers_its_error_and_its_key_stays_free(make_executor):
    executor = make_executor(max_workers=1)
    keyed = executor.with_options(key="x" + os.urandom(4).hex())
    failed = keyed.submit(tasks.echo, threading.Lock())
    assert executor.future(failed.id) is failed
    good = keyed.submit(tasks.echo, 5)
    assert good.result(WAIT) == 5
    assert isinstance(keyed.submit(tasks.echo, threading.Lock()).exception(), TypeError)
    assert executor.future(good.id) is good


def test_an_attach_that_is_interrupted_before_it_asks_leaves_none_that_others_wait_for(make_executor, monkeypatch):
    executor = make_executor(max_workers=1)
    future = executor.submit(tasks.increment, 1)
    assert future.result(WAIT) == 2
    call_id = future.id

    def interrupted(_future):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(executor._client._watcher, "expect", interrupted)
        executor._client._futures.clear()
        with pytest.raises(KeyboardInterrupt):
            executor.future(call_id)
    assert executor._client.attaching._flights == {}
    assert executor.future(call_id).result(WAIT) == 2
