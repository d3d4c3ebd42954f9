"""Calls in real Redis against a model of them, whatever the order in which clients, workers and fleets act.

No call is lost, none is answered twice, the first final state wins, and nothing stays behind.
"""

from collections import Counter
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from flyexecutor.call import Call, ClaimedCall, Outcome
from flyexecutor.errors import RedisUnavailableError
from flyexecutor.lane import Lane
from flyexecutor.states import State
from flyexecutor.store import Stay, Store
from tests.conftest import APP

LANE = Lane("lane", {}, (), 10, 1, 60.0)
CLIENTS, MACHINES = ("c1", "c2"), ("m1", "m2", "m3")
FINISHED = (State.SUCCEEDED, State.FAILED, State.KILLED)
client, machine, number = st.sampled_from(CLIENTS), st.sampled_from(MACHINES), st.integers(0, 1000)


@dataclass
class Modelled:
    """What must be true of a call."""

    keep: bool
    retries: int
    state: State = State.QUEUED
    attempt: int = 0
    losses: int = 0
    holder: str | None = None
    kill: bool = False
    waits: bool = False  # for its retry
    expires: bool = False
    owed: Counter = field(default_factory=Counter)  # client -> outcomes that it must get
    watchers: set = field(default_factory=set)
    given: list = field(default_factory=list)  # payloads: whoever knows its key brings one

    def end(self, state):
        self.state, self.holder, self.waits = state, None, False
        self.owed.update(self.watchers)

    def queue_again(self, *, waits=False):
        if self.kill:
            self.end(State.KILLED)
        else:
            self.state, self.holder, self.waits = State.QUEUED, None, waits

    def lose(self):
        if self.kill:
            self.end(State.KILLED)
        elif self.losses < self.retries:
            self.losses += 1
            self.queue_again()
        else:
            self.end(State.LOST)


class Calls(RuleBasedStateMachine):
    """Real Redis, and the model beside it."""

    store: Store
    redis: object
    readers: dict[str, object]

    def __init__(self):
        super().__init__()
        self.redis.flushall()
        self.store.tend_due("lane")  # makes the queue
        self.calls: dict[str, Modelled] = {}
        self.claimed: list[tuple[str, int]] = []  # every attempt that ever was: some are late
        self.sent: dict[str, tuple] = {}  # client -> its last batch
        self.batches = self.payloads = 0

    # Clients

    @rule(
        client=client,
        keeps=st.lists(st.booleans(), min_size=1, max_size=3),
        retries=st.integers(0, 2),
        expires=st.booleans(),
        size=st.sampled_from([0, 60, 200]),
    )
    def submit(self, client, keeps, retries, expires, size):
        batch = []
        for keep in keeps:
            call_id = f"call{len(self.calls)}"
            self.calls[call_id] = Modelled(keep, retries, expires=expires, watchers={client})
            self.calls[call_id].given.append(sealed := self.payload(size))
            batch.append(Call(call_id, sealed, retries, keep, expires=1000.0 * expires, expired=b"expired"))
        self.send(client, batch)

    def payload(self, size):
        self.payloads += 1
        return bytes([self.payloads % 256]) * size

    @rule(client=client, key=st.sampled_from(["key1", "key2"]), size=st.sampled_from([60, 200, 300]))
    def submit_keyed(self, client, key, size):
        if key not in self.calls:
            self.calls[key] = Modelled(True, 1, watchers={client})
        elif self.calls[key].state.final:
            self.calls[key].owed[client] += 1
        else:
            self.calls[key].watchers.add(client)
        self.calls[key].given.append(sealed := self.payload(size))
        self.send(client, [Call(key, sealed, 1, keyed=True)])

    def send(self, client, batch):
        self.batches += 1
        self.sent[client] = (batch, f"{client}.{self.batches}")
        self.enqueue(client)

    def enqueue(self, client):
        batch, name = self.sent[client]
        self.store.enqueue(LANE, batch, client=client, result_ttl=600.0, reservation=name)

    @rule(client=client)
    def send_again_after_a_lost_answer(self, client):
        if client in self.sent:
            self.enqueue(client)

    @rule(client=client, which=number)
    def attach(self, client, which):
        call_id, call = self.pick(which)
        found = self.store.attach(call_id, client) if call else None
        if call is None or (call.state.final and not call.keep):
            assert found is None
        elif call.state.final:
            assert found.outcome.state is call.state
        else:
            assert found.outcome is None
            call.watchers.add(client)

    @rule(which=number)
    def cancel(self, which):
        call_id, call = self.pick(which)
        if call is None:
            return
        was_queued = call.state is State.QUEUED
        known = call.keep or not call.state.final
        taken = self.store.cancel([call_id]) == [call_id]
        assert taken is (was_queued or (known and call.state is State.CANCELLED))
        if was_queued:
            call.end(State.CANCELLED)

    @rule(which=number)
    def order_kill(self, which):
        call_id, call = self.pick(which)
        if call is None:
            return
        known = call.keep or not call.state.final
        assert self.store.kill(call_id) == (call.state if known else None)
        if call.state is State.QUEUED:
            call.end(State.CANCELLED)
        elif call.state is State.RUNNING:
            call.kill = True

    # Workers

    @rule(machine=machine, limit=st.integers(1, 4))
    def claim(self, machine, limit):
        if not self.store.is_worker("lane", machine):
            with pytest.raises(RedisUnavailableError, match="buried"):
                self.store.claim("lane", machine, "iad", [], limit)
            self.store.join("lane", machine, first=False, held=[call_id for call_id, _ in self.held_by(machine)])
        self.note_claimed(machine, self.store.claim("lane", machine, "iad", [], limit))

    def note_claimed(self, machine, claimed):
        for one in claimed:
            call = self.calls[one.id]
            assert call.state is State.QUEUED
            assert not call.waits
            call.state, call.holder, call.expires = State.RUNNING, machine, False
            call.attempt += 1
            assert one.attempt == call.attempt
            assert one.sealed in call.given
            self.claimed.append((one.id, one.attempt))

    @rule(
        machine=machine,
        which=number,
        state=st.sampled_from(FINISHED),
        size=st.sampled_from([1, 200]),
        more=st.integers(0, 2),
    )
    def finish(self, machine, which, state, size, more):
        call_id, attempt, call = self.pick_attempt(which)
        if call is None:
            return
        outcome = Outcome(call_id, attempt, state, machine, "iad", bytes([attempt]) * size)
        claimed = self.store.finish("lane", machine, "iad", [outcome, outcome], more, concurrency=1).calls
        if self.current(call, attempt):
            call.end(state)
        self.note_claimed(machine, claimed)

    @rule(which=number)
    def hand_back(self, which):
        call_id, attempt, call = self.pick_attempt(which)
        if call:
            self.store.hand_back("lane", [ClaimedCall(call_id, attempt, b"")])
            if self.current(call, attempt):
                call.queue_again()

    @rule(which=number, later=st.booleans())
    def retry(self, which, later):
        call_id, attempt, call = self.pick_attempt(which)
        if call:
            self.store.retry("lane", ClaimedCall(call_id, attempt, b""), 10_000.0 * later)
            if self.current(call, attempt):
                call.queue_again(waits=later)

    @rule(which=number)
    def outgrow(self, which):
        call_id, attempt, call = self.pick_attempt(which)
        if call:
            self.store.outgrow("lane", "m1", "iad", ClaimedCall(call_id, attempt, b""), "too large", b"")
            if self.current(call, attempt):
                call.end(State.KILLED if call.kill else State.LOST)

    @rule(machine=machine)
    def restart(self, machine):
        self.store.join("lane", machine, first=True)
        for _, call in self.held_by(machine):
            call.lose()

    @rule(machine=machine, other=machine)
    def restart_while_another_takes_over(self, machine, other):
        self.claim(machine, 4)
        self.restart(machine)
        self.claim(other, 4)

    @rule(machine=machine, split=number)
    def join_again_after_a_cut_connection(self, machine, split):
        held = self.held_by(machine)
        keep = held[: split % (len(held) + 1)]
        self.store.join("lane", machine, first=False, held=[call_id for call_id, _ in keep])
        for _, call in held[len(keep) :]:
            call.queue_again()

    @rule(machine=machine, must=st.booleans())
    def leave(self, machine, must):
        stays = self.store.leave("lane", machine, must=must)
        for _, call in self.held_by(machine):
            call.queue_again()
        queued = any(call.state is State.QUEUED and not call.waits for call in self.calls.values())
        assert stays is None if must else (stays == Stay(0.0, "needed")) is queued

    # A fleet, and time

    @rule(machine=machine, stale=st.booleans())
    def bury(self, machine, stale):
        joined = self.store.look(LANE, "look").workers.get(machine)
        if joined is not None:
            self.store.bury(LANE, machine, "1" if stale else joined, "gone", oom=False)
            if not stale:
                for _, call in self.held_by(machine):
                    call.lose()

    @rule(which=number)
    def no_machine_could_be_had(self, which):
        call_id, call = self.pick(which)
        if call:
            self.store.fail("lane", [(call_id, b"sealed")])
            if call.state is State.QUEUED:
                call.end(State.FAILED)

    @rule()
    def time_passes(self):
        due = f"fly:{{{APP}}}:due:lane"
        for member in self.redis.zrange(due, 0, -1):
            self.redis.zadd(due, {member: 1})
        self.store.tend_due("lane")
        for call in self.calls.values():
            if call.state is State.QUEUED and call.expires:
                call.end(State.FAILED)
            call.waits = False

    # What must be true

    def pick(self, which):
        names = list(self.calls)
        return (names[which % len(names)], self.calls[names[which % len(names)]]) if names else (None, None)

    def pick_attempt(self, which):
        if not self.claimed:
            return None, None, None
        late = [(call_id, attempt) for call_id, attempt in self.claimed if attempt < self.calls[call_id].attempt]
        among = late if late and which % 2 else self.claimed  # or it would be rare
        call_id, attempt = among[which // 2 % len(among)]
        return call_id, attempt, self.calls[call_id]

    @staticmethod
    def current(call, attempt):
        return call.state is State.RUNNING and call.attempt == attempt

    def held_by(self, machine):
        return [(call_id, call) for call_id, call in self.calls.items() if call.holder == machine]

    @invariant()
    def redis_agrees_with_the_model(self):
        for call_id, call in self.calls.items():
            info = self.store.info(call_id)
            if call.state.final and not call.keep:
                assert info is None
            else:
                # A call that never ran ends with attempt 0 in its outcome: it has none.
                assert info.state is call.state, call_id
                assert info.attempt in {call.attempt, 0}, call_id
        queued = [fields["id"] for _, fields in self.redis.xrange(f"fly:{{{APP}}}:queue:lane")]
        assert Counter(queued) == Counter(
            call_id for call_id, call in self.calls.items() if not call.state.final and not call.waits
        )

    def teardown(self):
        self.time_passes()
        self.claim("m1", 1000)
        for call_id, call in self.calls.items():
            if call.state is State.RUNNING:
                outcome = Outcome(call_id, call.attempt, State.SUCCEEDED, "m1", "iad", b"")
                self.store.finish("lane", "m1", "iad", [outcome], 0, concurrency=1)
                call.end(State.SUCCEEDED)
        for name in CLIENTS:
            got = Counter()
            for outcome in self.read_all(name):
                assert outcome.state is self.calls[outcome.id].state
                if outcome.state in (State.SUCCEEDED, State.FAILED) and outcome.attempt:
                    assert set(outcome.sealed) <= {outcome.attempt}
                got[outcome.id] += 1
            assert got == {call_id: call.owed[name] for call_id, call in self.calls.items() if call.owed[name]}
        self.check_what_is_left()

    def read_all(self, name):
        reader = self.readers[name]
        reader._last = b"0-0"
        told = []
        while news := list(reader.read(0.001)):
            told += news
        for outcome in told:
            if not self.calls[outcome.id].keep and len(outcome.sealed) > 64:
                self.store.drop_outcome(outcome)  # as the watcher does
        return told

    def check_what_is_left(self):
        prefix = f"fly:{{{APP}}}:"
        left = {key.removeprefix(prefix) for key in self.redis.scan_iter(count=1000)}
        assert {key for key in left if self.redis.ttl(prefix + key) <= 0} == set()
        kept = {f"call:{call_id}" for call_id, call in self.calls.items() if call.keep}
        assert {key for key in left if key.startswith("call:")} == kept
        for chunk in [key for key in left if key.startswith("chunk:")]:
            call_id, attempt = chunk.split(":")[1].rsplit(".", 1)
            call = self.calls[call_id]  # an outcome: what calls were given is gone
            if call.keep:
                assert (int(attempt), call.state.final) == (call.attempt, True)
            else:  # an attempt that came late
                assert self.redis.ttl(prefix + chunk) <= 86400
        others = {key.split(":")[0] for key in left} - {"call", "chunk"}
        base_line = {"queue", "workers", "starts", "orders", "sent", "outcomes", "load", "awake", "meter", "lanes"}
        assert others <= base_line
        if "queue:lane" in left:
            assert self.redis.xlen(f"{prefix}queue:lane") == 0
            assert self.redis.xpending(f"{prefix}queue:lane", "workers")["pending"] == 0


@pytest.mark.timeout(300)
def test_no_call_is_lost_or_answered_twice_whatever_happens_in_which_order(store, raw_redis, monkeypatch):
    monkeypatch.setattr("flyexecutor.records.INLINE_BYTES", 64)
    monkeypatch.setattr("flyexecutor.records.CHUNK_BYTES", 128)
    Calls.store, Calls.redis = store, raw_redis
    Calls.readers = {name: store.outcomes(name) for name in CLIENTS}
    run_state_machine_as_test(
        Calls,
        settings=settings(
            max_examples=60,
            stateful_step_count=40,
            deadline=None,
            print_blob=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
