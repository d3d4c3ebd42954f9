"""Calls in real Redis against a model of them, whatever the order in which clients, workers and fleets act.

No call is lost, none is answered twice, the first final state wins, and nothing stays behind.
"""

import os
import time
from collections import Counter
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from flyexecutor.call import Call, ClaimedCall, Outcome, Report
from flyexecutor.errors import RedisUnavailableError
from flyexecutor.lane import Lane
from flyexecutor.states import State
from flyexecutor.store.calls import Intake, Stay, Store
from tests.conftest import APP

LANES = {name: Lane(name, {}, (), 10, 1, 600.0, load_window=600.0) for name in ("lane", "larger")}
MACHINES = {"m1": "lane", "m2": "lane", "m3": "lane", "big": "larger"}
CLIENTS = ("c1", "c2")
CONCURRENCY = 2
FINISHED = (State.SUCCEEDED, State.FAILED, State.KILLED)
RESULT_TTL = 600
PREFIX = f"fly:{{{APP}}}:"
client, machine, number = st.sampled_from(CLIENTS), st.sampled_from(list(MACHINES)), st.integers(0, 1000)
a_call_is_there = precondition(lambda self: self.calls)
a_call_was_claimed = precondition(lambda self: self.claimed)


@dataclass
class Modelled:
    """What must be true of a call."""

    keep: bool
    retries: int
    watchers: set
    bigger: list = field(default_factory=list)  # lanes to which it may still go
    expires: bool = False
    lane: str = "lane"
    state: State = State.QUEUED
    attempt: int = 0
    losses: int = 0
    holder: str | None = None  # the machine that runs it, or will once its worker has read it
    kill: bool = False
    waits: bool = False  # for its retry
    overdue: bool = False  # it has expired, and nobody has noticed yet
    owed: Counter = field(default_factory=Counter)  # (client, state or kind of report): what clients must be told
    given: list = field(default_factory=list)  # payloads: whoever knows its key brings one
    progress: bool = False  # it has said how far it is: whoever comes with its key later is told, too

    def tell(self, what):
        self.owed.update((watcher, what) for watcher in self.watchers)

    def end(self, state):
        self.state, self.holder, self.waits, self.overdue = state, None, False, False
        self.tell(state)

    def queue_again(self, *, waits=False):
        if self.kill:
            self.end(State.KILLED)
        else:
            self.state, self.holder, self.waits = State.QUEUED, None, waits

    def outgrow(self):
        if self.kill or not self.bigger:
            self.end(State.KILLED if self.kill else State.LOST)
        else:
            self.lane = self.bigger.pop(0)
            self.tell("moved")
            self.queue_again()

    def lose(self, *, oom=False):
        """Its machine is gone."""
        if self.kill:
            self.queue_again()
        elif oom:
            self.outgrow()
        elif self.losses < self.retries:
            self.losses += 1
            self.queue_again()
        else:
            self.end(State.LOST)


class Calls(RuleBasedStateMachine):
    """Real Redis, and the model beside it."""

    store: Store
    redis: object
    outcomes: dict[str, object]  # client -> reader
    inboxes: dict[str, object]  # machine -> reader

    def __init__(self):
        super().__init__()
        self.redis.flushall()
        self.calls: dict[str, Modelled] = {}
        self.workers: set[str] = set()
        self.resting: set[str] = set()  # machines that have left to rest, and that nobody has been handed since
        self.handed: dict[str, str] = {}  # machine -> the bundle for which it is to be started
        self.places: list[str] = []  # a machine for each, who noted one last at the end
        self.unread: dict[str, list] = {name: [] for name in MACHINES}  # what was handed to it: entry, call and attempt
        self.entries: set[bytes] = set()  # of inboxes, that the model knows
        for reader in self.inboxes.values():
            reader.rewind()
        self.claimed: list[tuple[str, int, str]] = []  # every attempt that ever was, and its machine: some are late
        self.sent: dict[str, tuple] = {}  # client -> its last batch
        self.batches = self.payloads = 0

    # Clients

    @initialize(retries=st.integers(0, 1), bigger=st.sampled_from([(), ("larger",)]), claimed=st.integers(0, 3))
    def begin(self, retries, bigger, claimed):
        self.submit("c1", [True, False, True], retries, True, bigger, 200)
        self.claim("m1", claimed)

    @rule(
        client=client,
        keeps=st.lists(st.booleans(), min_size=1, max_size=3),
        retries=st.integers(0, 2),
        expires=st.booleans(),
        bigger=st.sampled_from([(), ("larger",), ("larger", "lane")]),
        size=st.sampled_from([0, 60, 200]),
    )
    def submit(self, client, keeps, retries, expires, bigger, size):
        batch = []
        for keep in keeps:
            call_id = f"call{len(self.calls)}"
            self.calls[call_id] = call = Modelled(keep, retries, {client}, list(bigger), expires)
            call.given.append(sealed := self.payload(size))
            more = {"expires": 1000.0 * expires, "expired": b"expired", "bigger": bigger}
            batch.append(Call(call_id, sealed, retries, keep, **more))
        self.send(client, batch)

    def payload(self, size):
        self.payloads += 1
        return bytes([self.payloads % 256]) * size

    @rule(client=client, key=st.sampled_from(["key1", "key2"]), size=st.sampled_from([60, 200, 300]))
    def submit_keyed(self, client, key, size):
        if key in self.calls:
            self.calls[key].owed[client, "progress"] += self.calls[key].progress
        if key not in self.calls:
            self.calls[key] = Modelled(True, 1, {client})
        elif self.calls[key].state.final:
            self.calls[key].owed[client, self.calls[key].state] += 1
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
        granted = self.store.enqueue(LANES["lane"], batch, client=client, result_ttl=RESULT_TTL, reservation=name)
        for machine, proof in granted.resting:
            assert proof == f"{MACHINES[machine].encode().hex()}"
            assert machine not in self.workers
            assert machine in self.resting or self.handed[machine] == name
            self.resting.discard(machine)
            self.handed[machine] = name

    @rule(client=client)
    def send_again_after_a_lost_answer(self, client):
        if client in self.sent:
            self.enqueue(client)

    @a_call_is_there
    @rule(client=client, which=number)
    def attach(self, client, which):
        call_id, call = self.pick(which)
        found = self.store.attach(call_id, client)
        if not self.known(call):
            assert found is None
        elif call.state.final:
            assert found.outcome.state is call.state
        else:
            assert (found.outcome, found.lane) == (None, call.lane)
            call.watchers.add(client)

    @a_call_is_there
    @rule(which=number)
    def cancel(self, which):
        call_id, call = self.pick(which)
        was_queued = call.state is State.QUEUED
        taken = self.store.cancel([call_id]) == [call_id]
        assert taken is (was_queued or (self.known(call) and call.state is State.CANCELLED))
        if was_queued:
            call.end(State.CANCELLED)

    @a_call_is_there
    @rule(which=number)
    def order_kill(self, which):
        call_id, call = self.pick(which)
        assert self.store.kill(call_id) == (call.state if self.known(call) else None)
        if call.state is State.QUEUED:
            call.end(State.CANCELLED)
        elif call.state is State.RUNNING:
            call.kill = True

    # Workers

    @rule(machine=machine, more=st.integers(0, 3), free=st.integers(0, CONCURRENCY))
    def claim(self, machine, more, free=0):
        if machine not in self.workers:
            with pytest.raises(RedisUnavailableError, match="buried"):
                self.store.claim(MACHINES[machine], machine, "iad", Intake(more, free, CONCURRENCY, ""))
            self.join(machine, first=False)
        intake = Intake(more, free, CONCURRENCY, self.inboxes[machine].read_to)
        self.note_served(machine, intake, self.store.claim(MACHINES[machine], machine, "iad", intake))

    def note_served(self, machine, intake, told):
        """It has what it took, and notes the places that it has beyond that."""
        self.inboxes[machine].note_removed()
        unread, lane = len(self.unread[machine]), MACHINES[machine]
        self.note_expired(lane)
        expected = min(max(0, max(intake.more, intake.free) - unread), len(self.waiting(lane)))
        for one in told.calls:
            call = self.begin_on(machine, one.id)
            assert (one.attempt, one.sealed in call.given) == (call.attempt, True)
            self.claimed.append((one.id, one.attempt, machine))
        assert len(told.calls) <= expected  # some may be overdue, and nobody has met them yet
        assert len(told.calls) == expected or all(call.overdue for call in self.waiting(lane))
        places = max(0, intake.free - unread - len(told.calls))
        assert told.to_come == unread + places
        self.places = [one for one in self.places if one != machine] + [machine] * places

    def hear_inboxes(self):
        """What was handed out since went to those who had noted a place last."""
        handed = Counter()
        for machine in MACHINES:
            for entry, fields in self.store._redis.xrange(f"{PREFIX}inbox:{machine}"):
                if b"call" in fields and entry not in self.entries:
                    self.entries.add(entry)
                    call_id, attempt, *_ = fields[b"call"].decode().split()
                    assert self.begin_on(machine, call_id).attempt == int(attempt)
                    self.unread[machine].append((entry, (call_id, int(attempt))))
                    handed[machine] += 1
        for lane in LANES:
            there = [n for n, machine in enumerate(self.places) if MACHINES[machine] == lane]
            taken = there[len(there) - sum(n for machine, n in handed.items() if MACHINES[machine] == lane) :]
            assert Counter(self.places[n] for n in taken) == Counter(
                {machine: n for machine, n in handed.items() if MACHINES[machine] == lane}
            )
            self.places = [machine for n, machine in enumerate(self.places) if n not in taken]
            self.note_expired(lane)
            assert len(there) == len(taken) or not self.waiting(lane)

    def begin_on(self, machine, call_id):
        call = self.calls[call_id]
        assert (call.state, call.holder, call.lane) == (State.QUEUED, None, MACHINES[machine])
        assert (call.waits, call.overdue) == (False, False)
        call.state, call.holder, call.expires = State.RUNNING, machine, False
        call.attempt += 1
        return call

    @rule(machine=machine)
    def read(self, machine):
        """What was handed to it; it may have been buried meanwhile."""
        self.inboxes[machine].ask(0.001)
        told = [(one.id, one.attempt) for one in self.inboxes[machine].receive({}).calls]
        assert told == [handed for _, handed in self.unread[machine]]
        self.claimed += [(*handed, machine) for handed in told]
        self.unread[machine] = []

    def read_in_time(self):
        """Nobody hangs here, however slow this computer is: see test_places.py for who does."""
        now = time.time()
        for machine in MACHINES:
            oldest = self.store._redis.xrange(f"{PREFIX}inbox:{machine}", count=1)
            if any(now - int(entry.split(b"-")[0]) / 1000 > 2.0 for entry, _ in oldest):
                self.read(machine)
                self.read(machine)  # which removes it

    def note_expired(self, lane):
        """A claim may have met calls that are overdue."""
        for call_id, call in self.calls.items():
            if call.overdue and call.lane == lane and ((info := self.store.info(call_id)) is None or info.state.final):
                call.end(State.FAILED)

    @a_call_was_claimed
    @rule(
        which=number,
        state=st.sampled_from(FINISHED),
        size=st.sampled_from([1, 200]),
        more=st.integers(0, 2),
        free=st.integers(0, CONCURRENCY),
    )
    def finish(self, which, state, size, more, free):
        call_id, attempt, machine, call = self.pick_attempt(which)
        outcome = Outcome(call_id, attempt, state, machine, "iad", bytes([attempt]) * size)
        intake = Intake(more, free, CONCURRENCY, self.inboxes[machine].read_to)
        told = self.store.finish(MACHINES[machine], machine, "iad", [outcome, outcome], intake)
        if self.current(call, attempt):
            call.end(state)
        if machine in self.workers:
            self.note_served(machine, intake, told)
        else:
            assert (told.calls, told.to_come) == ([], 0)

    @a_call_was_claimed
    @rule(which=number, kind=st.sampled_from([Report.PROGRESS, Report.ITEM]))
    def report(self, which, kind):
        call_id, attempt, _, call = self.pick_attempt(which)
        self.store.report([Report(call_id, attempt, kind, 0, b"half")])
        if self.current(call, attempt):
            call.tell(kind)
            call.progress = call.progress or kind == "progress"

    @a_call_was_claimed
    @rule(which=number)
    def hand_back(self, which):
        call_id, attempt, machine, call = self.pick_attempt(which)
        self.store.hand_back(MACHINES[machine], machine, [ClaimedCall(call_id, attempt, b"")])
        if self.current(call, attempt):
            call.queue_again()

    @rule(machine=machine)
    def take_nothing_more(self, machine):
        """What it has not read is handed back, and nothing is handed to it."""
        self.store.hand_back(MACHINES[machine], machine, [], stops=True, read_to=self.inboxes[machine].read_to)
        self.places = [one for one in self.places if one != machine]
        for _, (call_id, attempt) in self.unread[machine]:
            if self.current(self.calls[call_id], attempt):
                self.calls[call_id].queue_again()
        self.unread[machine] = []
        self.inboxes[machine].note_removed()

    @a_call_was_claimed
    @rule(which=number, later=st.booleans())
    def retry(self, which, later):
        call_id, attempt, machine, call = self.pick_attempt(which)
        self.store.retry(MACHINES[machine], ClaimedCall(call_id, attempt, b""), 10_000.0 * later)
        if self.current(call, attempt):
            call.queue_again(waits=later)

    @a_call_was_claimed
    @rule(which=number)
    def outgrow(self, which):
        call_id, attempt, machine, call = self.pick_attempt(which)
        one = ClaimedCall(call_id, attempt, b"")
        self.store.outgrow(MACHINES[machine], machine, "iad", one, "too large", b"")
        if self.current(call, attempt):
            call.outgrow()

    @rule(machine=machine)
    def restart(self, machine):
        self.join(machine, first=True)

    def join(self, machine, *, first, keep=()):
        self.store.join(MACHINES[machine], machine, first=first, held=[call_id for call_id, _ in keep])
        self.workers.add(machine)
        self.handed.pop(machine, None)
        self.forget(machine)
        for call_id, call in self.held_by(machine):
            if first:
                call.lose()
            elif (call_id, call) not in keep:
                call.queue_again()

    def forget(self, machine):
        """It has no places, and its inbox is empty."""
        self.places = [one for one in self.places if one != machine]
        self.unread[machine] = []
        self.inboxes[machine].rewind()

    @rule(machine=machine, other=machine)
    def restart_while_another_takes_over(self, machine, other):
        self.claim(machine, 4)
        self.restart(machine)
        self.hear_inboxes()
        self.claim(other, 4)

    @rule(machine=machine, split=number)
    def join_again_after_a_cut_connection(self, machine, split):
        unread = {call_id for _, (call_id, _) in self.unread[machine]}
        held = [(call_id, call) for call_id, call in self.held_by(machine) if call_id not in unread]
        self.join(machine, first=False, keep=held[: split % (len(held) + 1)])

    @rule(machine=machine)
    def resume(self, machine):
        """A suspended machine is started, or nobody has asked for that."""
        if machine not in self.workers:
            started = self.store.join_if_started(MACHINES[machine], machine)
            assert started is (machine in self.handed)
            if started:
                self.handed.pop(machine)
                self.workers.add(machine)
                self.forget(machine)

    @rule(machine=machine, must=st.booleans(), reason=st.sampled_from(["", "its runners do not start"]))
    def leave(self, machine, must, reason):
        self.read_in_time()
        read_to = self.inboxes[machine].read_to
        proof = "" if must else MACHINES[machine].encode().hex()
        stays = self.store.leave(MACHINES[machine], machine, must=must, reason=reason, read_to=read_to, proof=proof)
        self.places = [one for one in self.places if one != machine]
        if self.unread[machine] and not must:
            assert stays == Stay(0.0, "needed")
            self.inboxes[machine].note_removed()
            return
        for _, call in self.held_by(machine):
            call.lose() if reason else call.queue_again()
        self.hear_inboxes()
        if must:
            assert stays is None
        else:
            assert (stays == Stay(0.0, "needed")) is bool(self.waiting(MACHINES[machine]))
        if stays is None:
            self.resting |= {machine} if proof else set()
            self.workers.discard(machine)
            self.forget(machine)

    # A fleet, and time

    @rule()
    def look(self):
        """A fleet looks."""
        self.read_in_time()
        for name in MACHINES:
            assert (name in self.store.look(LANES[MACHINES[name]], "look").workers) is (name in self.workers)

    @rule(machine=machine, stale=st.booleans(), oom=st.booleans())
    def bury(self, machine, stale, oom):
        self.look()
        lane = LANES[MACHINES[machine]]
        joined = "1" if stale else self.store.look(lane, "look").workers.get(machine, "0")
        gone = machine in self.workers and not stale
        held = self.held_by(machine) if gone else []
        assert self.store.bury(lane, machine, joined, "gone", oom=oom) == (len(held) if gone else -1)
        if gone:
            self.forget(machine)
            self.workers.discard(machine)
        for _, call in held:
            call.lose(oom=oom)

    @a_call_is_there
    @rule(which=number, lane=st.sampled_from(list(LANES)))
    def no_machine_could_be_had(self, which, lane):
        call_id, call = self.pick(which)
        self.store.fail(lane, [(call_id, b"sealed")])
        if call.state is State.QUEUED and call.lane == lane:
            call.end(State.FAILED)

    @rule()
    def time_passes(self):
        for lane in LANES:
            for member in self.redis.zrange(f"{PREFIX}due:{lane}", 0, -1):
                self.redis.zadd(f"{PREFIX}due:{lane}", {member: 1})
            assert self.store.tend_due(lane) is None
        for call in self.calls.values():
            if call.state is State.QUEUED and call.expires:
                call.end(State.FAILED)
            call.waits = False

    @rule()
    def time_passes_and_nobody_tends_what_is_due(self):
        for call_id, call in self.calls.items():
            if call.state is State.QUEUED and call.expires:
                self.redis.hset(f"{PREFIX}call:{call_id}", "expires", 1)
                call.overdue = True

    # What must be true

    def pick(self, which):
        return list(self.calls.items())[which % len(self.calls)]

    def pick_attempt(self, which):
        late = [one for one in self.claimed if one[1] < self.calls[one[0]].attempt]
        among = late if late and which % 2 else self.claimed  # or it would be rare
        call_id, attempt, machine = among[which // 2 % len(among)]
        return call_id, attempt, machine, self.calls[call_id]

    @staticmethod
    def current(call, attempt):
        return call.state is State.RUNNING and call.attempt == attempt

    @staticmethod
    def known(call):
        return call.keep or not call.state.final

    def held_by(self, machine):
        return [(call_id, call) for call_id, call in self.calls.items() if call.holder == machine]

    def queued(self, lane):
        return [call for call in self.calls.values() if call.state is State.QUEUED and call.lane == lane]

    def waiting(self, lane):
        return [call for call in self.queued(lane) if not call.waits and call.holder is None]

    @invariant()
    def redis_agrees_with_the_model(self):
        self.hear_inboxes()
        states = self.redis.pipeline(transaction=False)
        for call_id in self.calls:
            states.hmget(f"{PREFIX}call:{call_id}", "state", "attempt", "lane", "call", "expired")
        for (call_id, call), (state, attempt, lane, given, expired) in zip(
            self.calls.items(), states.execute(), strict=True
        ):
            if not self.known(call):
                assert state is None, call_id
                continue
            # A call that never ran ends with attempt 0 in its outcome: it has none.
            assert (state, lane) == (call.state, call.lane), call_id
            assert int(attempt) in {call.attempt, 0}, call_id
            if call.state.final:
                assert (given, expired) == ("", None), call_id
        for lane in LANES:
            meter = self.store.meter(lane)
            running = sum(call.holder is not None and call.lane == lane for call in self.calls.values())
            assert (meter.queued, meter.running) == (len(self.waiting(lane)), running)

    @rule()
    def every_key_ends_by_itself(self):
        self.check_lives()

    def check_lives(self):
        """Every key ends by itself, a call that has ended with its outcome; answers the seconds left to each."""
        keys = list(self.redis.scan_iter(count=1000))
        pipe = self.redis.pipeline(transaction=False)
        for key in keys:
            pipe.ttl(key)
        left = {key.removeprefix(PREFIX): ttl for key, ttl in zip(keys, pipe.execute(), strict=True)}
        assert {key for key, ttl in left.items() if ttl <= 0} == set()
        ended = {f"call:{call_id}" for call_id, call in self.calls.items() if call.state.final}
        assert {key for key in ended if left.get(key, 0) > RESULT_TTL} == set()
        return left

    def teardown(self):
        self.time_passes()
        self.look()
        self.hear_inboxes()
        for name in MACHINES:
            self.read(name)
            self.claim(name, 1000)
        for call_id, call in self.calls.items():
            if call.state is State.RUNNING:
                outcome = Outcome(call_id, call.attempt, State.SUCCEEDED, call.holder, "iad", b"")
                self.store.finish(call.lane, call.holder, "iad", [outcome], Intake(0, 0, CONCURRENCY, ""))
                call.end(State.SUCCEEDED)
        for name in CLIENTS:
            got = Counter(self.read_all(name))
            owed = Counter()
            for call_id, call in self.calls.items():
                owed.update({(call_id, what): n for (who, what), n in call.owed.items() if who == name})
            assert got == owed
        self.check_what_is_left()

    def read_all(self, name):
        reader = self.outcomes[name]
        reader._last = b"0-0"
        for told in reader.read(1.0) if self.redis.exists(f"{PREFIX}outcomes:{name}") else []:
            call = self.calls[told.id]
            if isinstance(told, Report):
                yield told.id, told.kind
                continue
            assert told.state is call.state
            if told.state in (State.SUCCEEDED, State.FAILED) and told.attempt:
                assert set(told.sealed) <= {told.attempt}
            if not call.keep and len(told.sealed) > 64:
                self.store.drop_outcome(told)  # as the watcher does
            yield told.id, told.state

    def check_what_is_left(self):
        left = self.check_lives()
        kept = {f"call:{call_id}" for call_id, call in self.calls.items() if call.keep}
        assert {key for key in left if key.startswith("call:")} == kept
        for piece in [key for key in left if key.startswith("piece:")]:
            call_id, attempt = piece.split(":")[1].rsplit(".", 1)
            call = self.calls[call_id]  # an outcome: what calls were given is gone
            if call.keep:
                assert (int(attempt), call.state.final) == (call.attempt, True)
            else:  # an attempt that came late
                assert left[piece] <= RESULT_TTL
        others = {key.split(":")[0] for key in left} - {"call", "piece"}
        base_line = {
            "workers",
            "places",
            "resting",
            "claims",
            "inbox",
            "starts",
            "sent",
            "outcomes",
            "load",
            "awake",
            "meter",
            "lanes",
        }
        assert others <= base_line
        for lane in LANES:
            assert self.redis.hkeys(self.store._key("claims", lane)) in ([], [""])


@pytest.mark.timeout(300)
def test_no_call_is_lost_or_answered_twice_whatever_happens_in_which_order(store, raw_redis, monkeypatch):
    monkeypatch.setattr("flyexecutor.store.records.INLINE_BYTES", 64)
    monkeypatch.setattr("flyexecutor.store.records.PIECE_BYTES", 128)
    Calls.store, Calls.redis = store, raw_redis
    Calls.outcomes = {name: store.outcomes(name) for name in CLIENTS}
    Calls.inboxes = {name: store.inbox(name) for name in MACHINES}
    run_model(Calls)
    for reader in (*Calls.outcomes.values(), *Calls.inboxes.values()):
        reader.close()


def run_model(model):
    """MODEL_EXAMPLES: fewer, and always the same, for whoever tries many changes of a script."""
    few = os.environ.get("MODEL_EXAMPLES")
    run_state_machine_as_test(
        model,
        settings=settings(
            max_examples=int(few or 60),
            stateful_step_count=40,
            deadline=None,
            print_blob=True,
            derandomize=bool(few),
            phases=[Phase.generate] if few else list(Phase),
            report_multiple_bugs=False,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
