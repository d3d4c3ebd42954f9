"""Making calls, with a client that only records them."""

import threading
from types import SimpleNamespace

import pytest

from flyexecutor import NotStartedError, Retry
from flyexecutor.client.caller import Caller
from flyexecutor.client.fanout import Sizes
from flyexecutor.client.future import FlyFuture
from flyexecutor.lane import Lane
from flyexecutor.options import Options
from flyexecutor.payload import pickles
from flyexecutor.payload.trust import Encoding, Trust
from flyexecutor.states import State
from flyexecutor.terms import NONCE_BYTES, UNFINISHED_TTL

TRUST = Trust(b"k" * 32, "app")


class RecordedClient:
    result_ttl = 60.0

    def __init__(self):
        self.sent, self.refused = [], None
        self.fleets = SimpleNamespace(know=None)
        self.batch = None

    def refuse_if_closed(self):
        if self.refused:
            raise self.refused

    def send(self, call, lane, *, take=None):
        self.sent.append((call, lane.name, take))
        return FlyFuture(call.id, None, keep=call.keep, attached=False, name=call.name)

    def failed(self, call_id, name, exc):
        future = FlyFuture(call_id, None, keep=True, attached=False, name=name)
        future.set_exception(exc)
        return future

    def cancel_all(self, futures):
        list(futures)

    def drop_part(self, part):
        raise AssertionError(part)


class Lanes:
    lane = Lane("lane", {}, (), 1, 1, 60.0)

    def __init__(self, know):
        self.know = know

    def larger(self, know):
        assert know is self.know
        return ["large", "larger"]


@pytest.fixture
def client():
    return RecordedClient()


@pytest.fixture
def make(client):
    def make(**options):
        retry = options.pop("retry", Retry())
        return Caller(client, TRUST, Lanes(client.fleets.know), Options(retry, **options), None)

    return make


def opened(call):
    return TRUST.open_call(call.id, call.sealed)


def test_a_call_is_sealed_with_what_it_is_and_on_which_terms(client, make):
    future = make(timeout=5.0, retry=Retry(lost=3)).submit(divmod, (7, 2), {})
    ((call, lane, take),) = client.sent
    terms, encoding, body = opened(call)
    invocation = pickles.load_call(encoding, body)
    assert (invocation.fn, invocation.args, invocation.kwargs) == (divmod, (7, 2), {})
    assert (terms.lanes, terms.retries, terms.timeout, terms.expires, terms.result_ttl) == (["lane"], 3, 5.0, 0.0, 60.0)
    assert (future.id, future.name, lane, take) == (call.id, "divmod", "lane", None)
    assert (call.retries, call.keep, call.keyed, call.pointers, call.bigger, call.expired) == (
        3,
        True,
        False,
        (),
        (),
        b"",
    )
    assert TRUST.knows(call.id)


def test_each_submit_has_a_nonce_of_its_own_with_a_key_too(client, make):
    for caller in (make(), make(key="once")):
        caller.submit(abs, (1,), {})
        caller.submit(abs, (1,), {})
    calls = [call for call, *_ in client.sent]
    assert len({call.nonce for call in calls}) == 4
    assert {len(call.nonce) for call in calls} == {NONCE_BYTES}
    assert [opened(call).terms.nonce for call in calls] == [call.nonce for call in calls]
    assert [call.keyed for call in calls] == [False, False, True, True]
    assert [call.id for call in calls[2:]] == [TRUST.new_call_id("once")] * 2


def test_a_call_that_may_go_to_larger_machines_is_sealed_for_those_too(client, make):
    make(retry=Retry(on_oom="bigger")).submit(abs, (1,), {})
    ((call, *_),) = client.sent
    assert (call.bigger, opened(call).terms.lanes) == (["large", "larger"], ["lane", "large", "larger"])


def test_a_call_that_expires_travels_with_the_outcome_for_that(client, make, monkeypatch):
    monkeypatch.setattr("flyexecutor.terms.time.time", lambda: 1000.0)
    make(expires=2.5).submit(abs, (1,), {})
    ((call, *_),) = client.sent
    outcome = TRUST.open_outcome(call.id, 0, call.expired)
    error = pickles.load_outcome(outcome.encoding, outcome.body).exception
    assert isinstance(error, NotStartedError)
    assert f"no worker began the call {call.id} (abs) within 2.5 s" in str(error)
    assert (outcome.encoding, outcome.terms.state, outcome.terms.nonce) == (Encoding.TEXT, State.FAILED, call.nonce)
    assert outcome.terms.kept_until == 1000.0 + UNFINISHED_TTL + 60.0
    assert (call.expires, opened(call).terms.expires) == (2.5, 2.5)


def test_what_can_not_be_pickled_or_is_too_large_is_the_exception_of_its_future_and_not_sent(client, make):
    assert isinstance(make().submit(abs, (threading.Lock(),), {}).exception(0), TypeError)
    large = make(max_payload=100, name="large").submit(abs, (bytes(200),), {})
    assert str(large.exception(0)).startswith("the call with its arguments is ")
    assert (large.name, client.sent) == ("large", [])


@pytest.mark.parametrize("way", ["submit", "fan_out", "stream", "submit_batch"])
def test_after_the_end_nothing_is_pickled(client, make, way):
    class Unpickled:
        def __reduce__(self):
            raise AssertionError("it is pickled")

    client.refused = RuntimeError("after shutdown")
    caller, given = make(), Unpickled()
    asks = {
        "submit": lambda: caller.submit(abs, (given,), {}),
        "fan_out": lambda: caller.fan_out(abs, iter([(given,)]), Sizes.read(1, None, None), False),
        "stream": lambda: caller.stream(abs, (given,), {}),
        "submit_batch": lambda: caller.submit_batch(abs, [[given]]),
    }
    with pytest.raises(RuntimeError, match="after shutdown"):
        asks[way]()


def test_what_is_no_function_is_refused_in_each_way(make):
    caller = make()
    with pytest.raises(TypeError, match="give submit the function and its arguments apart"):
        caller.submit(5, (), {})
    for ask in (
        lambda: caller.fan_out(5, iter([]), Sizes.read(1, None, None), False),
        lambda: caller.stream(5, (), {}),
        lambda: caller.submit_batch(5, []),
    ):
        with pytest.raises(TypeError, match="5 is not callable: give the function first"):
            ask()
    with pytest.raises(ValueError, match="key='once' names one call with one outcome"):
        make(key="once").stream(abs, (), {})


def test_items_of_a_fan_out_are_kept_nowhere_and_have_the_name_of_its_function(client, make):
    fan_out = make().fan_out(abs, iter([(1,), (2,), (3,)]), Sizes.read(2, None, None), False)
    assert [(call.keep, call.name) for call, *_ in client.sent] == [(False, "abs")] * 2
    fan_out.ordered()


def test_a_stream_takes_the_items_of_its_call_and_ends_with_it(client, make):
    stream = make().stream(iter, ([1],), {})
    ((call, _, take),) = client.sent
    assert (take, call.keep, stream.future.id) == (stream.take, False, call.id)
    assert pickles.load_call(*opened(call)[1:]).manner.streams
    stream.future.set_result(0)
    assert list(stream) == []


def test_a_batch_is_submitted_under_its_ids_or_not_at_all(client, make):
    batch = make(name="all").submit_batch(divmod, [[7, 8], [2, 3]])
    assert [call.id for call, *_ in client.sent] == TRUST.calls_of_batch(batch.id)
    assert [pickles.load_call(*opened(call)[1:]).args for call, *_ in client.sent] == [(7, 2), (8, 3)]
    assert {(call.name, call.keep) for call, *_ in client.sent} == {("all", True)}

    def items():
        yield 1
        raise OSError("no more")

    client.sent.clear()
    with pytest.raises(OSError, match="no more"):
        make().submit_batch(abs, [items()])
    assert client.sent == []
