"""Somebody who can write to Redis and has no key: he replays, moves and damages what lies there, in whatever order.

The claim of docs/security.md: no function runs where, when or oftener than it says, no future gets a value that its
call did not return, and none hangs once what he holds up has expired.
"""

import contextlib
import time
from dataclasses import replace

import pytest
import redis
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from flyexecutor.call import Call
from flyexecutor.client.future import FlyFuture
from flyexecutor.client.watcher import Watcher
from flyexecutor.errors import PayloadError, RedisUnavailableError
from flyexecutor.lane import Lane
from flyexecutor.payload import pickles
from flyexecutor.payload.trust import Trust
from flyexecutor.states import State
from flyexecutor.store.calls import Intake
from flyexecutor.terms import UNREAD, answer_to, new_terms
from flyexecutor.worker.admission import Admission
from flyexecutor.worker.outcomes import Outcomes
from flyexecutor.worker.pipe import RAISED, RETURNED, Message
from flyexecutor.worker.runner_process import Answer
from tests.conftest import APP
from tests.store.test_call_machine import run_model

TRUST = Trust(b"k" * 32, APP)
LANES = {name: Lane(name, {}, (), 10, 1, 600.0, load_window=600.0) for name in ("lane", "other")}
MACHINES = {"m1": "lane", "m2": "lane", "m3": "other"}
PREFIX = f"fly:{{{APP}}}:"
DAY = 86400.0
which, machine, lane = st.integers(0, 1000), st.sampled_from(list(MACHINES)), st.sampled_from(list(LANES))
WORDS = {
    "state": list(State),
    "attempt": [0, 1, 2],
    "losses": [0, 5],
    "retries": [0, 100],
    "raised": [0, 1],
    "keep": [0, 1],
    "bigger": ["other", "other lane"],
    "lane": list(LANES),
    "kill": [1],
}


class Machine:
    """One life of a machine: what a worker does with its calls, without processes."""

    def __init__(self, name):
        self.name, self.lane = name, MACHINES[name]
        self.admission = Admission(self.lane)
        self.tell = Outcomes(TRUST, name, "iad")
        self.outcomes = []
        self.ended = set()  # nonces of calls that have ended here, as Redis says


class Intruded(RuleBasedStateMachine):
    """Real Redis, real watchers and the worker's rules; the calls return the nonces of their submits."""

    def __init__(self):
        super().__init__()
        self.redis.flushall()
        for name in LANES:
            self.store.tend_due(name)  # makes the queue
        for watcher in self.watchers:
            watcher._pending.clear()
            watcher._reader.rewind()
        self.futures = []  # with the nonces that may answer each
        self.submits = {}  # nonce -> its id and terms
        self.ran = set()  # nonces
        self.machines = {name: Machine(name) for name in MACHINES}
        self.copies = []  # records
        self.told = []  # entries of the streams of outcomes
        self.batches = 0
        for name in MACHINES:
            self.restart(name)

    # Clients

    @initialize(number=st.integers(1, 3))
    def begin(self, number):
        for _ in range(number):
            self.submit(0, "", True, 0, 0.0)
        self.copy(0)

    @rule(
        client=st.integers(0, 1),
        key=st.sampled_from(["", "", "", "k"]),
        keep=st.booleans(),
        retries=st.integers(0, 1),
        age=st.sampled_from([0.0, 0.0, 0.0, 8 * DAY]),
    )
    def submit(self, client, key, keep, retries, age):
        call_id = TRUST.new_call_id(key or None)
        watcher = self.watchers[client]
        if call_id in watcher._pending:
            return  # a client has one future for an id
        terms = new_terms(["lane"], result_ttl=60.0, retries=retries)
        terms = terms._replace(made_at=terms.made_at - age)
        self.submits[terms.nonce] = (call_id, terms)
        self.expect(watcher, call_id, keep or bool(key), b"" if key else terms.nonce)
        sealed = TRUST.seal_call(call_id, terms, terms.nonce)
        call = Call(call_id, sealed, retries, keep or bool(key), keyed=bool(key), nonce=terms.nonce)
        self.batches += 1
        with contextlib.suppress(RedisUnavailableError):
            self.store.enqueue(
                LANES["lane"], [call], client=watcher._client, result_ttl=60.0, reservation=f"r.{self.batches}"
            )

    def expect(self, watcher, call_id, keep, nonce=b"", *, attached=False):
        future = FlyFuture(call_id, None, keep=keep, attached=attached, nonce=nonce)
        self.futures.append(future)
        watcher.expect(future)

    @rule(client=st.integers(0, 1), n=which)
    def attach(self, client, n):
        call_id, _ = self.pick(list(self.submits.values()), n)
        watcher = self.watchers[client]
        if call_id not in watcher._pending:
            self.expect(watcher, call_id, True, attached=True)
            with contextlib.suppress(RedisUnavailableError):
                watcher._look_up(call_id)

    @rule(client=st.integers(0, 1))
    def hear(self, client):
        self.told += [fields for _, fields in self.redis.xrange(self.stream(client))]
        with contextlib.suppress(RedisUnavailableError):
            self.watchers[client]._read(0)

    def stream(self, client):
        return f"{PREFIX}outcomes:{self.watchers[client]._client}"

    # Workers

    @rule(name=machine, limit=st.integers(1, 3))
    def claim(self, name, limit):
        one = self.machines[name]
        try:
            claimed = self.store.claim(one.lane, name, "iad", Intake(limit, 0, 1, "")).calls
        except RedisUnavailableError:  # buried, or it has met a damaged record
            self.store.join(one.lane, name, first=False, held=[outcome.id for outcome in one.outcomes])
            return
        for unread in claimed:
            terms = TRUST.unverified_terms(unread.sealed)
            call = replace(unread, terms=terms) if terms else unread  # as the worker's loop does
            refusal = one.admission.refusal(call)
            one.outcomes.append(one.tell.refused(call, refusal) if refusal else self.run(one, call))

    def run(self, one, call):
        """What a runner does."""
        try:
            opened = TRUST.open_call(call.id, call.sealed)
        except PayloadError as exc:
            dumped, terms, kind = pickles.dump_error(exc), answer_to(UNREAD, State.FAILED), RAISED
        else:
            nonce = bytes(opened.body)
            submitted_id, submitted = self.submits[nonce]
            assert (call.id, opened.terms) == (submitted_id, submitted)  # nothing else was ever sealed
            assert one.lane in submitted.lanes
            assert time.time() - submitted.made_at < 7.1 * DAY
            assert call.losses <= submitted.retries
            assert nonce not in one.ended
            self.ran.add(nonce)
            dumped, terms, kind = pickles.dump_value(nonce), answer_to(opened.terms, State.SUCCEEDED), RETURNED
        sealed = TRUST.seal_outcome(call.id, call.attempt, terms, dumped.body, dumped.encoding)
        return one.tell.answered(Answer(call, Message(kind, call.id, call.attempt, body=sealed), b""))

    @rule(name=machine)
    def finish(self, name):
        one = self.machines[name]
        if not one.outcomes:
            return
        try:
            late = self.store.finish(one.lane, name, "iad", one.outcomes, Intake(0, 0, 1, "")).late
        except RedisUnavailableError:
            return  # it keeps them
        one.admission.note_ended(
            outcome.nonce for n, outcome in enumerate(one.outcomes) if n not in late and outcome.nonce
        )
        for outcome in one.outcomes:
            if self.redis.hget(f"{PREFIX}call:{outcome.id}", "state") not in {b"QUEUED", b"RUNNING"}:
                one.ended.add(outcome.nonce)
        one.outcomes = []

    @rule(name=machine)
    def restart(self, name):
        """It forgets what it knew: so what it ended may run here once more, if somebody has kept it."""
        self.machines[name] = Machine(name)
        with contextlib.suppress(RedisUnavailableError):
            self.store.join(MACHINES[name], name, first=True)

    # The intruder

    @rule(n=which)
    def copy(self, n):
        for key in self.redis.keys(f"{PREFIX}call:*"):
            self.copies.append((key, self.redis.hgetall(key)))

    @precondition(lambda self: self.copies)
    @rule(n=which, other=which, where=lane, attempt=st.integers(0, 2), elsewhere=st.booleans())
    def replay_a_call(self, n, other, where, attempt, elsewhere):
        key, record = self.pick(self.copies, n)
        if elsewhere:
            key, _ = self.pick(self.copies, other)
        self.redis.zadd(f"{PREFIX}queue:{where}", {key.rpartition(b":")[2]: attempt})
        again = {b"state": "QUEUED", b"lane": where, b"attempt": attempt}
        self.redis.delete(key)
        self.redis.hset(key, mapping={**record, **again})

    @precondition(lambda self: self.copies)
    @rule(n=which, other=which, field=st.sampled_from([b"call", b"outcome"]))
    def move_a_payload(self, n, other, field):
        key, _ = self.pick(self.copies, n)
        _, record = self.pick(self.copies, other)
        if field in record and self.redis.exists(key):
            self.redis.hset(key, field, record[field])

    @precondition(lambda self: self.told)
    @rule(
        n=which,
        client=st.integers(0, 1),
        state=st.sampled_from(list(State)),
        attempt=st.integers(0, 2),
        own=st.booleans(),
    )
    def replay_an_outcome(self, n, client, state, attempt, own):
        fields = dict(self.pick(self.told, n))
        call_id, *words = fields.get(b"head", b"c QUEUED 0 - - - 0 0 0").decode().split()
        if not own:
            call_id, _ = self.pick(list(self.submits.values()), n)
            words[:2] = [state.value, str(attempt)]
        fields[b"head"] = " ".join([call_id, *words])
        self.redis.xadd(self.stream(client), fields)

    @precondition(lambda self: self.copies)
    @rule(n=which, word=st.sampled_from(list(WORDS)), value=which)
    def change_a_word(self, n, word, value):
        key, _ = self.pick(self.copies, n)
        if self.redis.exists(key):
            self.redis.hset(key, word, self.pick(WORDS[word], value))

    @precondition(lambda self: self.copies)
    @rule(n=which, field=st.sampled_from(["call", "outcome"]), at=which)
    def damage(self, n, field, at):
        key, _ = self.pick(self.copies, n)
        body = bytearray(self.redis.hget(key, field) or b"")
        if body:
            body[at % len(body)] ^= 1
            self.redis.hset(key, field, bytes(body))

    @precondition(lambda self: self.copies)
    @rule(n=which)
    def delete(self, n):
        self.redis.delete(self.pick(self.copies, n)[0])

    # What must be true

    @staticmethod
    def pick(among, n):
        return among[n % len(among)]

    def teardown(self):
        for name in MACHINES:
            self.restart(name)
            self.claim(name, 100)
            self.finish(name)
        for client in (0, 1):
            self.hear(client)
        for key in self.redis.keys(f"{PREFIX}call:*"):
            self.redis.delete(key)  # seven days pass
        for watcher in self.watchers:
            watcher._check()
        for future in self.futures:
            assert future.done()
            if not future.cancelled() and future.exception() is None:
                assert future.result() in self.ran
                assert self.submits[future.result()][0] == future.id
                assert future.nonce in {b"", future.result()}
                assert future.state() is State.SUCCEEDED


@pytest.mark.timeout(300)
def test_whoever_can_write_to_redis_gives_no_value_and_runs_nothing_where_it_does_not_belong(store, redis_url):
    nothing = {"unsent": lambda _: False, "moved": lambda _: None, "same": lambda *_: None, "waiting": lambda *_: None}
    watchers = [Watcher(store, TRUST, client=name, result_ttl=60.0, **nothing) for name in ("c1", "c2")]
    with redis.Redis.from_url(redis_url) as client:
        Intruded.store, Intruded.redis, Intruded.watchers = store, client, watchers
        run_model(Intruded)
    for watcher in watchers:
        watcher.close()
