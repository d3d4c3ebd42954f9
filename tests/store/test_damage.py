"""Damage in Redis as the store meets it: keys of a wrong type, numbers that are none, entries that are no entries.

What only counts can stop no change of a state, and a damaged call ends. On a real Redis.
"""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from flyexecutor.call import Call, Outcome, Part, Report
from flyexecutor.errors import PayloadError, RedisUnavailableError
from flyexecutor.lane import Lane
from flyexecutor.states import State
from flyexecutor.store.calls import Intake, Store
from tests.conftest import APP

LANE = Lane("lane", {}, (), 10, 1, 60.0)
PART = Part("part", b"shared")
EVERY = 4  # steps
IDS = ("a", "b", "c", "d", "e")


class Life:
    """What happens to some calls and a machine; before one of its steps something is damaged."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.held: dict[str, Any] = {}  # what the worker has claimed
        self.steps: list[Callable[[], object]] = [
            lambda: store.put_part(PART),
            self.submit,
            self.look,
            lambda: store.assign(LANE, "c1.1:1", "m1"),
            lambda: store.join("lane", "m1", first=True),
            lambda: self.claim(1),
            self.report,
            self.retry,
            lambda: self.claim(2),
            self.kill,
            self.hand_back,
            lambda: self.claim(5),
            self.finish,
            lambda: store.pace_create(0.001, 3),
            lambda: store.pace_list(0.001, 3),
            lambda: store.seek_list("k", "c1", 0, fetch=1.0, every=0.001, burst=3, pause=0.0),
            lambda: store.publish_list("k", "c1", 1, b"sealed", 60),
            lambda: store.meter("lane"),
            lambda: store.lanes_since(60.0),
            lambda: store.is_counted_on("lane", "m1"),
            lambda: store.has_workers(LANE),
            lambda: store.release(LANE, "c1.1:2"),
            lambda: store.note_run("s", "a"),
            lambda: store.runs("s"),
            lambda: store.note_scheduled("s", "m1"),
            lambda: store.scheduled("s"),
            self.bury,
            lambda: store.leave("lane", "m1", must=False, suspends=True, idle_left=0.0, proof="0f"),
        ]

    def submit(self) -> None:
        """Twice: the answer of the first was lost. And by another client, who then watches."""
        batch = [Call("a", b"sealed", 3, expires=1000.0, expired=b"late", parts=[PART])]
        batch += [Call(call_id, b"sealed", 3) for call_id in IDS[1:]]
        for client in ("c1", "c1", "c2"):
            self.store.enqueue(LANE, batch, client=client, result_ttl=60, reservation=f"{client}.1")

    def look(self) -> None:
        look = self.store.look(LANE, "look")
        for machine in look.workers:
            assert machine == "m1"

    def claim(self, most: int) -> None:
        for _ in range(3):
            try:
                claimed = self.store.claim("lane", "m1", "iad", Intake(most, 0, 1, "")).calls
                self.held |= {call.id: call for call in claimed}
            except (RedisUnavailableError, PayloadError):  # as the worker has it
                self.store.join("lane", "m1", first=False, held=self.held)
            else:
                return

    def report(self) -> None:
        kinds = (Report.PROGRESS, Report.ITEM, Report.LOGS)
        self.store.report(
            [Report(call.id, call.attempt, kind, 0, b"x") for call in self.held.values() for kind in kinds]
        )

    def retry(self) -> None:
        for call in list(self.held.values())[:1]:
            self.store.retry("lane", self.held.pop(call.id), 0.001)

    def kill(self) -> None:
        for call_id in list(self.held)[:1]:
            self.store.kill(call_id)

    def hand_back(self) -> None:
        self.store.hand_back("lane", "m1", list(self.held.values()))
        self.held.clear()

    def finish(self) -> None:
        done = [Outcome(call.id, call.attempt, State.SUCCEEDED, "m1", "iad", b"value") for call in self.held.values()]
        for _ in range(2):
            try:
                claimed = self.store.finish("lane", "m1", "iad", done, Intake(5, 0, 1, "")).calls
            except (RedisUnavailableError, PayloadError):
                self.store.join("lane", "m1", first=False, held=self.held)
            else:
                self.held = {call.id: call for call in claimed}
                return

    def bury(self) -> None:
        for machine, joined in self.store.look(LANE, "look").workers.items():
            self.store.bury(LANE, machine, joined, "gone", oom=False)

    def until_all_have_ended(self) -> set[State]:
        """What workers and clients go on to do."""
        for _ in range(30):
            ended = {info.state for call_id in IDS if (info := self.store.info(call_id))}
            if all(state.final for state in ended):
                return ended
            self.store.standing(IDS)
            self.store.join("lane", "m1", first=True)
            self.claim(10)
            self.finish()
            self.finish()
        raise AssertionError(f"calls have not ended: {ended}")


@pytest.fixture
def damage(redis_url: str) -> "Iterator[redis.Redis]":
    """A client of the Redis of somebody who can write to it."""
    with redis.Redis.from_url(redis_url) as client:
        yield client


def live(store: Store, damage: "redis.Redis", do: Callable[[], object]) -> None:
    """Lives in which `do` damages something before each step: now before some of them, now before others."""
    for first in range(EVERY):
        damage.flushdb()
        life = Life(store)
        for number, step in enumerate(life.steps):
            if number % EVERY == first:
                do()
            step()
        assert life.until_all_have_ended()


@pytest.mark.parametrize("wrong", ["string", "hash", "list", "stream", "zset"])
@pytest.mark.parametrize(
    "kind",
    [
        "queue:lane",
        "workers:lane",
        "starts:lane",
        "load:lane",
        "awake:lane",
        "meter:lane",
        "due:lane",
        "lanes",
        "creates",
        "lists",
        "machines:k",
        "lock:machines:k",
        "suspends",
        "orders:m1",
        "outcomes:c1",
        "sent:c1",
        "uses:part",
        "runs:s",
        "scheduled:s",
    ],
)
def test_a_key_of_a_wrong_type_stops_no_call(store, damage, kind, wrong):
    key = f"fly:{{{APP}}}:{kind}"
    write = {
        "string": lambda: damage.set(key, "damaged"),
        "hash": lambda: damage.hset(key, b"damaged\xff", b"damaged\xff"),
        "list": lambda: damage.rpush(key, "damaged"),
        "stream": lambda: damage.xadd(key, {"damaged": "damaged"}),
        "zset": lambda: damage.zadd(key, {b"damaged\xff": "inf", b"\xfe": "-inf", "r": 1.5}),
    }

    def do() -> None:
        if damage.type(key).decode() != wrong:
            damage.delete(key)
        write[wrong]()

    live(store, damage, do)


def enqueue(store: Store, *ids: str) -> None:
    batch = [Call(call_id, b"sealed", 1, expires=1000.0, expired=b"late") for call_id in ids]
    store.enqueue(LANE, batch, client="c1", result_ttl=60, reservation="c1.1")
    store.join("lane", "m1", first=False)


def outcomes(store: Store) -> dict[str, Outcome]:
    reader = store.outcomes("c1")
    told = {one.id: one for one in reader.read(5.0) if isinstance(one, Outcome)}
    reader.close()
    return told


ODD = ["-1", "1.5", "nan", "inf", "9" * 400, "5000000000000000", "x", "\xff", "", None]


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("state", ["nonsense", "", "queued"]),
        ("attempt", ODD),
        ("pieces", [*ODD, "x:60000000", "x:0x1", "a b:1", ":1"]),
        ("call", [None, b"x" * 2_000_000]),
        ("raised", ODD[:-1]),
        ("losses", ODD[:-1]),
        ("parts", ["x", "x:60000000", "x:1 " * 40_000]),
        ("expires", [*ODD[:-1]]),
    ],
)
def test_a_call_whose_record_is_damaged_ends_and_its_neighbours_run(store, damage, field, values):
    for value in values:
        damage.flushdb()
        enqueue(store, "a", "b", "c")
        key = store._key("call", "b")
        damage.hdel(key, field)
        if value is not None:
            damage.hset(key, field, value)
        claimed = store.claim("lane", "m1", "iad", Intake(10, 0, 1, "")).calls
        assert [call.id for call in claimed] == ["a", "c"]
        damaged = outcomes(store)["b"]
        assert (damaged.state, damaged.attempt) == (State.FAILED, 0)
        assert damaged.sealed.startswith(b"damaged: its %b" % field.encode())
        assert len(damaged.sealed) < 200
        assert store.meter("lane").running == 2


@pytest.mark.parametrize("field", ["attempt", "losses", "retries"])
def test_a_call_that_is_damaged_while_it_runs_says_how_when_its_machine_dies(store, damage, field):
    enqueue(store, "a")
    store.claim("lane", "m1", "iad", Intake(10, 0, 1, ""))
    damage.hset(store._key("call", "a"), mapping={field: "x"})
    (joined,) = store.look(LANE, "look").workers.values()
    assert store.bury(LANE, "m1", joined, "gone", oom=False) == 1
    assert outcomes(store)["a"].sealed == b'damaged: its %b is "x"' % field.encode()
    assert (store.meter("lane").queued, store.meter("lane").running) == (0, 0)


def test_a_call_whose_number_of_exceptions_is_damaged_says_so_when_it_is_tried_again(store, damage):
    enqueue(store, "a")
    (call,) = store.claim("lane", "m1", "iad", Intake(10, 0, 1, "")).calls
    damage.hset(store._key("call", "a"), "raised", "x")
    store.retry("lane", call, 0.0)
    assert outcomes(store)["a"].sealed == b'damaged: its raised is "x"'
    assert (store.meter("lane").queued, store.meter("lane").running) == (0, 0)


@pytest.mark.parametrize("field", ["watch", "ttl", "keep", "lane", "queued", "name", "retries"])
def test_a_call_whose_record_is_damaged_where_nobody_looks_runs(store, damage, field):
    for value in ODD:
        damage.flushdb()
        enqueue(store, "a", "b")
        damage.hdel(store._key("call", "b"), field)
        if value is not None:
            damage.hset(store._key("call", "b"), field, value)
        claimed = store.claim("lane", "m1", "iad", Intake(10, 0, 1, "")).calls
        done = [Outcome(call.id, call.attempt, State.SUCCEEDED, "m1", "iad", b"value") for call in claimed]
        store.finish("lane", "m1", "iad", done, Intake(0, 0, 1, ""))
        assert [call.id for call in claimed] == ["a", "b"]
        assert outcomes(store)["a"].sealed == b"value"
        assert damage.hget(store._key("call", "b"), "state") in {b"SUCCEEDED", None}


@pytest.mark.parametrize("value", ["1.0", "1e0", "0x1", " 1", "-0"])
def test_a_number_that_redis_can_not_count_up_stops_no_script(store, damage, value):
    enqueue(store, "a", "b", "c")
    damage.hset(store._key("call", "b"), mapping={"losses": value, "raised": value, "retries": 5})
    claimed = {call.id: call for call in store.claim("lane", "m1", "iad", Intake(10, 0, 1, "")).calls}
    store.retry("lane", claimed["b"], 0.0)
    store.claim("lane", "m1", "iad", Intake(10, 0, 1, ""))
    (joined,) = store.look(LANE, "look").workers.values()
    assert store.bury(LANE, "m1", joined, "gone", oom=False) == 3
    store.join("lane", "m2", first=True)
    assert {call.id for call in store.claim("lane", "m2", "iad", Intake(10, 0, 1, "")).calls} == {"a", "b", "c"}


@pytest.mark.parametrize("begun", [False, True], ids=["queued", "running"])
def test_a_call_that_somebody_has_taken_out_of_its_lane_is_queued_again_by_who_waits(store, damage, begun):
    enqueue(store, "a", "b")
    if begun:
        store.claim("lane", "m1", "iad", Intake(10, 0, 1, ""))
        damage.delete(store._key("claims", "lane"))
        (joined,) = store.look(LANE, "look").workers.values()
        assert store.bury(LANE, "m1", joined, "gone", oom=False) == 0
    else:
        damage.delete(store._key("queue", "lane"))
    for _ in range(2):
        assert store.standing(["a", "b"]) == [True, True]
        assert store.meter("lane").queued == 2
    store.join("lane", "m2", first=True)
    assert {call.id for call in store.claim("lane", "m2", "iad", Intake(10, 0, 1, "")).calls} == {"a", "b"}
    assert store.standing(["a", "b"]) == [True, True]
    assert store.claim("lane", "m2", "iad", Intake(10, 0, 1, "")).calls == []


def test_a_call_that_runs_and_is_in_no_list_of_claims_is_there_again_for_who_buries_its_machine(store, damage):
    enqueue(store, "a")
    store.claim("lane", "m1", "iad", Intake(1, 0, 1, ""))
    damage.delete(store._key("claims", "lane"))
    assert store.standing(["a"]) == [True]
    (joined,) = store.look(LANE, "look").workers.values()
    assert store.bury(LANE, "m1", joined, "gone", oom=False) == 1


def test_who_is_told_of_a_call_is_bounded(store, damage):
    enqueue(store, "a")
    key = store._key("call", "a")
    damage.hset(key, "watch", b"x " * 1_000_000)
    store.attach("a", "c2")
    assert damage.hstrlen(key, "watch") < 100_000
    (call,) = store.claim("lane", "m1", "iad", Intake(10, 0, 1, "")).calls
    done = Outcome(call.id, call.attempt, State.SUCCEEDED, "m1", "iad", b"value")
    store.finish("lane", "m1", "iad", [done], Intake(0, 0, 1, ""))
    assert damage.xlen(store._key("outcomes", "c2")) == 1


@pytest.mark.parametrize("value", [b"[" * 60_000, b"x:4096 " * 9000])
def test_parts_that_are_none_hold_up_no_other(store, damage, value):
    enqueue(store, "a")
    (call,) = store.claim("lane", "m1", "iad", Intake(10, 0, 1, "")).calls
    damage.hset(store._key("call", "a"), "parts", value)
    done = Outcome(call.id, call.attempt, State.SUCCEEDED, "m1", "iad", b"value")
    store.finish("lane", "m1", "iad", [done], Intake(0, 0, 1, ""))
    assert outcomes(store)["a"].sealed == b"value"


@pytest.mark.parametrize("field", ["state", "attempt", "machine", "region", "lane", "queued", "started"])
def test_a_list_of_calls_shows_which_record_is_damaged_and_how(store, damage, field):
    enqueue(store, "a", "b", "c")
    store.claim("lane", "m1", "iad", Intake(10, 0, 1, ""))
    damage.hset(store._key("call", "b"), field, b"\xff")
    damage.set(store._key("call", "d"), "no record")
    damage.zadd(store._key("queue", "lane"), {"d": 1})
    damage.zadd(f"fly:{{{APP}}}:lanes", {b"\xff": "inf"})
    seen = {call.id: call for call in store.listing.overview(10).calls}
    assert {call_id for call_id, call in seen.items() if call.damaged} == {"b", "d"}
    assert (seen["b"].state, seen["a"].state) == (None, State.RUNNING)
    assert field in seen["b"].damaged or "time" in seen["b"].damaged
    assert store.listing.printed("d") is None
    assert store.listing.states(["a", "d"]) == [State.RUNNING, None]
