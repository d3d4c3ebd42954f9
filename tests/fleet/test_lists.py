"""The list that lanes and clients share, on a real Redis, with a Machines API that does what the test says."""

import itertools
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields

import pytest

from flyexecutor.errors import MachinesError, RedisUnavailableError
from flyexecutor.fleet import lists as module
from flyexecutor.fleet.lists import Lists, name_lists
from flyexecutor.fleet.machine import Exit, Machine
from flyexecutor.payload.trust import Encoding, Trust
from flyexecutor.store.calls import Store
from tests.conftest import APP

WAIT = 10.0
OURS, THEIRS = Trust(b"key", APP), Trust(b"another key", APP)
NAME = name_lists(OURS)
THERE = [
    Machine("m1", "n1", "suspended", "iad", "1", "ok", None, "lane", "family", keeper=True, changed_at=1.5),
    Machine("m2", "n2", "stopped", "fra", "2", "unreachable", Exit(137, 9, True, 5), "x", guest={"cpus": 1, "n": "ü"}),
]
AWAY = RedisUnavailableError("Redis is away")
KEY = f"fly:{{{APP}}}:machines:{NAME}"
LOCK, PACE = f"fly:{{{APP}}}:lock:machines:{NAME}", f"fly:{{{APP}}}:lists"


class FakeMachines:
    """Machines that are there. A list first raises what the test has put into `raises`, and waits at the gate."""

    def __init__(self):
        self.there = THERE
        self.lists = 0
        self.raises = []
        self.asked = threading.Event()
        self.gate = threading.Event()
        self.gate.set()

    def list_all(self, *, attempts):
        self.lists += 1
        self.asked.set()
        assert self.gate.wait(WAIT)
        if self.raises:
            raise self.raises.pop(0)
        return list(self.there)


@pytest.fixture
def machines():
    return FakeMachines()


@pytest.fixture
def make(redis_url, machines):
    """Makes a client's lists."""
    stores = []

    def lists(trust=OURS):
        stores.append(Store(redis_url, APP))
        return Lists(stores[-1], machines, trust)

    yield lists
    for store in stores:
        store.close()


@pytest.fixture
def slept(monkeypatch):
    """How long lists would have slept; they don't."""
    pauses = []
    monkeypatch.setattr(module.time, "sleep", pauses.append)
    return pauses


def seek(store, asker="somebody", moment=0, **more):
    told = {"fetch": 3.0, "every": 0.0, "burst": 2, "pause": 0.0, **more}
    return store.seek_list(NAME, asker, moment, **told)


def release(store, asker="somebody"):
    store.publish_list(NAME, asker, 0, b"", 60)


def waiting(raw_redis, number):
    return lambda: raw_redis.info("clients")["blocked_clients"] == number


def test_a_list_that_began_in_time_is_taken_from_who_has_fetched_it(make, machines, store):
    moment = seek(store).moment
    release(store)
    assert list(make().since(moment)) == THERE
    assert list(make().since(moment)) == THERE
    assert machines.lists == 1


def test_a_list_of_before_is_fetched_anew(make, machines):
    assert list(make().since()) == THERE
    machines.there = THERE[:1]
    assert list(make().since()) == THERE[:1]


def test_all_who_ask_while_a_list_is_fetched_share_the_next_one(make, machines, raw_redis, until):
    machines.gate.clear()
    with ThreadPoolExecutor(5) as pool:
        first = pool.submit(make().since)
        assert machines.asked.wait(WAIT)
        others = [pool.submit(make().since) for _ in range(4)]  # the first began before they asked
        until(waiting(raw_redis, 4))
        machines.gate.set()
        assert [list(one.result(WAIT)) for one in (first, *others)] == [THERE] * 5
    assert machines.lists == 2


def test_a_fetcher_that_was_killed_holds_nobody_up_for_long(make, machines, store):
    assert seek(store, fetch=0.2).fetch_in == 0.0
    assert list(make().since()) == THERE  # and is not heard of again


def test_a_fetch_that_takes_too_long_is_made_by_another_and_is_no_news_then(make, machines, store):
    slow = seek(store, "slow", fetch=0.01)
    assert list(make().since(slow.began + 1)) == THERE
    newest = seek(store, moment=slow.moment).found
    store.publish_list(NAME, "slow", slow.began, b"old news", 60)
    assert seek(store, moment=slow.moment).found == newest is not None


@pytest.mark.parametrize("error", [MachinesError("no token", 401), KeyboardInterrupt()], ids=repr)
def test_who_waits_for_a_fetch_that_fails_is_woken_and_fetches_himself(
    make, machines, raw_redis, until, monkeypatch, error
):
    monkeypatch.setattr(module, "FETCH_SECONDS", 3600.0)
    machines.gate.clear()
    machines.raises = [error]
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(make().since)
        assert machines.asked.wait(WAIT)
        second = pool.submit(make().since)
        until(waiting(raw_redis, 1))
        machines.gate.set()
        assert first.exception(WAIT) is error
        assert list(second.result(WAIT)) == THERE


def test_lists_are_paced_for_all_clients_together(store, redis_url):
    other = Store(redis_url, APP)
    waits = []
    for n in range(5):
        waits.append(seek((store, other)[n % 2], every=1.0).fetch_in)
        release((store, other)[n % 2])
    other.close()
    assert waits[:2] == [0.0, 0.0]
    assert waits[2:] == [pytest.approx(n, abs=0.5) for n in (1, 2, 3)]


def test_a_pause_is_for_all_and_only_put_off_further(store, raw_redis):
    assert seek(store, every=1.0, pause=0.001).fetch_in == 0.001
    release(store)
    raw_redis.delete(PACE)
    held = seek(store, every=1.0, burst=3, pause=1.5)
    assert (held.fetch_in, held.began) == (1.5, held.moment + 1500)
    assert seek(store, "another", every=1.0, pause=1.5).fetch_in is None  # while another is about to fetch
    assert 2500 < raw_redis.pttl(PACE) <= 5500
    raw_redis.set(PACE, held.moment + 9000)
    seek(store, "another", every=1.0, pause=1.5)
    assert int(raw_redis.get(PACE)) == held.moment + 9000


def test_who_does_not_hold_the_right_to_fetch_gives_nobody_else_s_away(store, raw_redis):
    held = seek(store, "slow")
    raw_redis.set(LOCK, "quick", px=3000)  # its time was over
    release(store, "slow")
    assert raw_redis.get(LOCK) == "quick"
    store.publish_list(NAME, "quick", held.began + 1, b"newer", 60)
    assert raw_redis.get(LOCK) is None
    for began, body in ((held.began, b"older"), (held.began + 1, b"as new")):
        store.publish_list(NAME, "slow", began, body, 60)
    ((woken, kept),) = raw_redis.xrange(KEY)
    assert kept["body"] == "as new"
    store.publish_list(NAME, "slow", held.began, b"", 60)  # no list, and whoever waits is woken all the same
    assert raw_redis.xrange(KEY)[0][0] != woken


def test_a_list_of_no_time_is_none(store, raw_redis):
    raw_redis.xadd(KEY, {"began": "once", "body": "x"})
    assert seek(store, moment=1).found is None


def test_a_list_that_fly_refuses_is_asked_again_after_a_pause_that_holds_for_all(make, machines, store, slept):
    machines.raises = [MachinesError("rate limit exceeded", 429), MachinesError("broken", 502), MachinesError("?")]
    assert list(make().since()) == THERE
    assert machines.lists == 4
    assert [a < b for a, b in itertools.pairwise(slept)] == [True] * 3  # it grows
    assert seek(store).fetch_in > 0.5


def test_a_list_that_is_refused_again_and_again_is_told(make, machines, slept):
    machines.raises = [MachinesError("rate limit exceeded", 429)] * 9
    with pytest.raises(MachinesError, match="rate limit exceeded"):
        make().since()
    assert machines.lists == module.ATTEMPTS


def test_a_list_for_which_there_is_no_turn_is_told(make, store, monkeypatch):
    monkeypatch.setattr(module, "PATIENCE", 0.1)
    seek(store, fetch=0.3)
    with pytest.raises(MachinesError, match=r"within 0\.1 s"):
        make().since()


def test_a_list_that_does_not_come_in_time_is_told_with_its_own_trouble(make, machines, monkeypatch):
    monkeypatch.setattr(module, "PATIENCE", 0.1)
    machines.raises = [MachinesError("deaf")]
    monkeypatch.setattr(machines.gate, "wait", lambda _: not time.sleep(0.2))
    with pytest.raises(MachinesError, match="deaf"):
        make().since()


@pytest.mark.parametrize("verb", ["seek_list", "publish_list"])
def test_while_redis_is_away_a_list_is_for_who_has_fetched_it(make, machines, monkeypatch, verb):
    def raise_away(*_, **__):
        raise AWAY

    monkeypatch.setattr(Store, verb, raise_away)
    assert list(make().since()) == THERE


def test_redis_may_go_away_while_a_list_is_waited_for(make, machines, store, monkeypatch):
    def raise_away(*_, **__):
        raise AWAY

    monkeypatch.setattr(Store, "await_list", raise_away)
    seek(store, fetch=60.0)
    assert list(make().since()) == THERE


def test_a_list_that_is_too_large_is_for_who_has_fetched_it(make, machines, store, monkeypatch):
    monkeypatch.setattr(module, "MOST_BYTES", 10)
    moment = seek(store).moment
    release(store)
    assert [list(make().since(moment)) for _ in range(2)] == [THERE] * 2
    assert machines.lists == 2


def test_who_has_another_key_has_lists_of_his_own(make, machines, store):
    moment = seek(store).moment
    release(store)
    make().since(moment)
    assert list(make(THEIRS).since(moment)) == THERE
    assert machines.lists == 2


def test_who_has_another_version_has_lists_of_his_own(make, machines, store, monkeypatch):
    moment = seek(store).moment
    release(store)
    make().since(moment)
    monkeypatch.setattr(module, "fields", lambda record: fields(record)[1:])
    assert list(make().since(moment)) == THERE
    assert machines.lists == 2


def forged(began):
    """What somebody could put into Redis as the list that began at this moment."""
    body = module.zlib.compress(b'[{"id": "m9"}]')
    return {
        "garbage": b"\0\xff" * 40,
        "nothing": b"-",
        "of another key": THEIRS.seal_part(f"machines {began}", body, Encoding.TEXT),
        "of another moment": OURS.seal_part(f"machines {began - 1}", body, Encoding.TEXT),
        "of another version": OURS.seal_part(f"machines {began}", body, Encoding.TEXT),
        "no list": OURS.seal_part(f"machines {began}", module.zlib.compress(b"7"), Encoding.TEXT),
        "no JSON": OURS.seal_part(f"machines {began}", module.zlib.compress(b"]["), Encoding.TEXT),
        "too deep": OURS.seal_part(f"machines {began}", module.zlib.compress(b"[" * 100_000), Encoding.TEXT),
        "not packed": OURS.seal_part(f"machines {began}", b"[]", Encoding.TEXT),
    }


@pytest.mark.parametrize("kind", list(forged(0)))
def test_a_list_that_is_none_of_ours_is_passed_over(make, machines, store, kind):
    moment = seek(store).moment
    store.publish_list(NAME, "somebody", moment, forged(moment)[kind], 60)
    assert seek(store, moment=moment).found == forged(moment)[kind]
    assert list(make().since(moment)) == THERE


def test_a_list_of_the_future_is_nobodys(make, machines, store):
    moment = seek(store).moment
    body = OURS.seal_part(f"machines {moment * 2}", module.zlib.compress(b"[]"), Encoding.TEXT)
    store.publish_list(NAME, "somebody", moment * 2, body, 60)
    assert list(make().since(moment)) == THERE


def test_what_others_have_put_there_does_no_harm(make, machines, raw_redis):
    raw_redis.set(KEY, "a string")
    assert list(make().since()) == THERE
    raw_redis.delete(KEY)
    raw_redis.xadd(KEY, {"one": "field"})
    assert list(make().since()) == THERE


HOUR = 3_600_000  # ms


def test_an_entry_without_a_body_is_no_list(make, machines, store, raw_redis):
    moment = seek(store).moment
    release(store)
    raw_redis.xadd(KEY, {"began": moment})
    assert list(make().since(moment)) == THERE


def test_a_list_of_the_future_is_followed_by_the_next_though_redis_was_told_another_time(
    make, machines, store, raw_redis
):
    moment = seek(store).moment
    release(store)
    raw_redis.xadd(KEY, {"began": moment + HOUR, "body": "x"})
    assert [list(make().since(moment)) for _ in range(2)] == [THERE] * 2
    assert machines.lists == 1  # it is shared again,
    assert 0 < raw_redis.ttl(KEY) <= module.KEPT  # and goes


def test_a_turn_or_a_fetch_of_a_clock_that_was_set_back_holds_nobody_up(make, store, slept, raw_redis):
    moment = seek(store).moment
    for pace in (moment + HOUR, "garbage"):
        release(store)
        raw_redis.set(PACE, pace)
        assert seek(store, every=1.0).fetch_in == 0.0
        release(store)
        raw_redis.set(PACE, pace)
        assert 0.0 < seek(store, every=1.0, pause=1.5).fetch_in < 5.0
    raw_redis.set(LOCK, "somebody", px=HOUR)
    assert list(make().since()) == THERE


@pytest.mark.parametrize("ahead", [HOUR, None])
def test_the_turn_of_a_create_is_not_taken_after_one_of_a_clock_that_was_set_back(store, raw_redis, ahead):
    told = "garbage" if ahead is None else seek(store).moment + ahead
    raw_redis.set(f"fly:{{{APP}}}:creates", told)
    assert store.pace_create(1.0, 3) == 0.0
    assert 0 < raw_redis.ttl(f"fly:{{{APP}}}:creates") < 10


def test_nothing_of_a_list_stays_in_redis(make, raw_redis):
    make().since()
    for key in raw_redis.keys("*"):
        assert 0 < raw_redis.ttl(key) <= module.KEPT
