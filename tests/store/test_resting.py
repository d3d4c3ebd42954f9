"""Machines whose workers have left to rest are handed out by the script that stores calls; on a real Redis."""

import pytest

from flyexecutor.call import Call
from flyexecutor.lane import Lane
from flyexecutor.store.calls import Granted, Intake
from tests.conftest import APP

LANE = Lane("lane", {}, (), 10, 1, 60.0)
RESTING, STARTS, SENT = (f"fly:{{{APP}}}:{key}" for key in ("resting:lane", "starts:lane", "sent:c1"))


@pytest.fixture
def rest(store, raw_redis):
    """Workers join and leave, to rest; all of them have rested for so many seconds."""

    def leave(*machines, proof="ab", since=10.0):
        for machine in machines:
            store.join("lane", machine, first=True)
            assert store.leave("lane", machine, must=False, proof=proof) is None
        at = store.now() * 1000 - since * 1000
        for n, (name, _) in enumerate(raw_redis.zrange(RESTING, 0, -1, withscores=True)):
            if name.partition(" ")[0] in machines:
                raw_redis.zadd(RESTING, {name: at + n})

    return leave


@pytest.fixture
def send(store):
    """A client stores so many calls."""
    numbers = iter(range(1000))

    def enqueue(number=1, client="c1", name=None, **lane):
        calls = [Call(f"{client}-{next(numbers)}", b"sealed") for _ in range(number)]
        where = Lane("lane", {}, (), lane.get("max_workers", 10), 1, 60.0)
        bundle = name or f"{client}.{next(numbers)}"
        return store.enqueue(where, calls, client=client, result_ttl=60, reservation=bundle)

    return enqueue


def machines(granted):
    return [machine for machine, _ in granted.resting]


def test_who_stores_calls_is_told_which_machines_rest_and_reserves_the_others(rest, send):
    rest("m1", "m2", proof="0f")
    granted = send(3, name="c1.7")
    assert sorted(granted.resting) == [("m1", "0f"), ("m2", "0f")]
    assert (granted.reservations, granted.waits) == (["c1.7:1"], True)


def test_no_two_clients_get_the_same_machine_and_what_is_on_its_way_counts(store, rest, send):
    rest("m1", "m2")
    first, second = send(), send(client="c2")
    assert sorted(machines(first) + machines(second)) == ["m1", "m2"]
    assert store.look(LANE, "look").starts == {"m1", "m2"}
    assert store.meter("lane").starting == 2
    assert send(0, client="c3") == Granted([], [], waits=True)


def test_no_more_are_started_than_may_work(rest, send):
    rest("m1", "m2", "m3")
    assert len(machines(send(3, max_workers=2))) == 2


def test_who_has_a_place_is_asked_before_anybody_is_started(store, rest, send):
    rest("m1")
    store.join("lane", "awake", first=True)
    store.claim("lane", "awake", "", Intake(1, 1, 1, ""))
    assert send() == Granted([], [], waits=False)


@pytest.mark.parametrize("how", [{"must": True}, {"must": False}])
def test_who_is_not_to_be_started_is_not_among_those_that_rest(store, raw_redis, how):
    store.join("lane", "m1", first=True)
    assert store.leave("lane", "m1", **how) is None
    assert raw_redis.exists(RESTING) == 0


def test_who_has_to_stay_does_not_rest(store, raw_redis, send):
    store.join("lane", "m1", first=True)
    send()
    assert store.leave("lane", "m1", must=False, proof="ab").why == "needed"
    assert raw_redis.exists(RESTING) == 0


def test_of_those_that_rest_indeed_the_one_that_left_last_is_first_and_who_is_on_the_way_to_it_is_last(rest, send):
    rest("long", since=100.0)
    rest("short", since=50.0)
    rest("leaving1", since=0.2)
    rest("leaving2", since=0.1)
    assert [machines(send())[0] for _ in range(4)] == ["short", "long", "leaving1", "leaving2"]


def test_who_works_again_or_is_on_its_way_is_passed_over(store, rest, send):
    rest("works", "starts", "rests")
    store.join("lane", "works", first=True)
    store.assign(LANE, "none", "starts")
    granted = send(3)  # one has a worker, one has a machine on its way
    assert machines(granted) == ["rests"]


def test_who_is_handed_out_joins_and_is_on_its_way_no_longer(store, rest, send):
    rest("m1")
    assert machines(send()) == ["m1"]
    assert store.join_if_started("lane", "m1")
    look = store.look(LANE, "look")
    assert (set(look.workers), look.starts) == ({"m1"}, frozenset())
    assert len(store.claim("lane", "m1", "", Intake(1, 0, 1, "")).calls) == 1


# What is sent again


def test_what_is_sent_again_after_a_lost_answer_is_granted_the_same(store, raw_redis, rest):
    rest("m1", "m2", proof="0f")
    calls = [Call(name, b"sealed") for name in "abc"]
    first, again = (store.enqueue(LANE, calls, client="c1", result_ttl=60, reservation="c1.1") for _ in range(2))
    assert again == first
    assert (len(first.resting), first.reservations) == (2, ["c1.1:1"])
    before = raw_redis.zscore(STARTS, "m1")
    while raw_redis.zscore(STARTS, "m1") == before:  # it is renewed
        assert store.enqueue(LANE, calls, client="c1", result_ttl=60, reservation="c1.1") == first


def test_what_has_joined_or_is_another_s_since_is_not_granted_again(store, raw_redis, rest):
    rest("joined", "another")
    calls = [Call(name, b"sealed") for name in "ab"]
    send = lambda: store.enqueue(LANE, calls, client="c1", result_ttl=60, reservation="c1.1")  # noqa: E731
    assert len(send().resting) == 2
    assert store.join_if_started("lane", "joined")
    raw_redis.zincrby(STARTS, 1, "another")  # it has expired, and somebody else was told of it
    assert send() == Granted([], [], waits=True)


def test_the_next_bundle_is_not_granted_what_the_one_before_was(rest, send):
    rest("m1")
    assert machines(send(name="c1.1")) == ["m1"]
    assert send(0, name="c1.2") == Granted([], [], waits=True)


# Looks


def test_a_look_hands_out_no_machine_and_renews_those_that_are_on_their_way(store, raw_redis, rest, send):
    rest("m1", "m2")
    assert len(machines(send())) == 1
    (started,) = raw_redis.zrange(STARTS, 0, -1)
    send(client="c2", max_workers=1)
    raw_redis.zadd(STARTS, {started: store.now() * 1000 + 1000})
    look = store.look(LANE, "look", [started, "not there"])
    assert (look.reservations, look.starts) == (["look:1"], {started, "look:1"})
    assert raw_redis.zscore(STARTS, started) > store.now() * 1000 + 10_000


def test_a_look_counts_for_no_shorter_on_a_machine_that_was_assigned(store, raw_redis):
    store.assign(LANE, "r", "m1")
    before = raw_redis.zscore(STARTS, "m1")
    store.look(LANE, "look", ["m1"])
    assert raw_redis.zscore(STARTS, "m1") == before


# What lies in Redis


@pytest.mark.parametrize("junk", ["", "m1", "m1 xyz", "../../apps 0f", "m1 0f 0f", "m 1 0f", "\xff\xfe 0f"])
def test_what_is_no_machine_with_a_proof_is_passed_over(raw_redis, rest, send, junk):
    rest("m2")
    raw_redis.zadd(RESTING, {junk: 5.0})
    granted = send(2)
    assert (machines(granted), len(granted.reservations)) == (["m2"], 1)
    assert raw_redis.exists(RESTING) == 0


def test_a_list_of_another_type_costs_the_hint_only(raw_redis, rest, send):
    raw_redis.set(RESTING, "x")
    rest("m1")
    assert raw_redis.zcard(RESTING) == 1
    raw_redis.set(RESTING, "x")
    assert len(send().reservations) == 1


def test_the_list_is_bounded_and_ends_by_itself(raw_redis, rest):
    raw_redis.zadd(RESTING, {f"m{n} 0f": n for n in range(2000)})
    rest("newest")
    assert raw_redis.zcard(RESTING) == 1000
    assert raw_redis.zscore(RESTING, "newest ab")
    assert raw_redis.zscore(RESTING, "m1000 0f") is None
    assert 0 < raw_redis.ttl(RESTING) <= 7 * 86400


def test_what_was_noted_of_a_bundle_may_be_damaged(store, raw_redis, rest):
    rest("m1")
    send = lambda: store.enqueue(LANE, [Call("a", b"")], client="c1", result_ttl=60, reservation="c1.1")  # noqa: E731
    assert machines(send()) == ["m1"]
    for damage in ("c1.1 x m1 ab", "c1.1 1 m1 ab", "c1.1 1 gone ab", "c1.1 m1", "c1.1"):
        raw_redis.set(SENT, damage)
        assert send() == Granted([], [], waits=True)


def test_a_machine_is_billed_from_the_moment_in_which_it_is_handed_out(store, raw_redis, rest, send):
    rest("m1")
    send()
    starts = store.meter("lane").starts
    assert raw_redis.hexists(f"fly:{{{APP}}}:awake:lane", "m1")
    assert store.join_if_started("lane", "m1")
    assert store.meter("lane").starts == starts
    assert store.leave("lane", "m1", must=True) is None
    assert not raw_redis.hexists(f"fly:{{{APP}}}:awake:lane", "m1")
