"""The fleet's thread and its launches on virtual threads. Redis and Fly record what they are asked for, and when.

Each test says what takes how long; so races are orders of moments, and all of it takes milliseconds.
"""

import itertools
from types import SimpleNamespace

import pytest

from flyexecutor.errors import MachinesError, MachineStartError, RedisUnavailableError
from flyexecutor.fleet.fleet import Fleet
from flyexecutor.fleet.machine import FAMILY_KEY, OWNER_KEY, Exit, Machine
from flyexecutor.fleet.turns import LOOK_EVERY, UNWANTED_FOR
from flyexecutor.lane import Lane
from flyexecutor.store.calls import Granted
from flyexecutor.store.lanes import GIVE_UP_WITHIN, LaneLook
from tests.fleet.virtual import START, VirtualThreads, new_clock

AWAY = RedisUnavailableError("Redis is away")
REFUSED = MachinesError("wrong token", 401)
BOOT_TIMEOUT = 60.0


class OtherSide:
    """Redis, Fly and its lists: records what it is asked, and lets each verb raise, or take time, as the test says."""

    address = "Redis"

    def __init__(self, threads):
        self._threads = threads
        self._joins = itertools.count(1)
        self._made = itertools.count(1)
        self.asked = []  # second, verb, with what
        self.raises = {}  # verb -> errors, one for each time
        self.loses = {}  # the same, after it was done: the answer is lost
        self.takes = {}  # verb -> seconds before it is done
        self.workers = {}
        self.starts = set()
        self.wanted = 0  # machines, for the calls that are stored
        self.due = None
        self.has_calls = True
        self.lets_look = True
        self.calls_of_lost = 0
        self.there = []
        self.paced = 0.0  # seconds before each create

    def of(self, *verbs):
        """When these were asked for, and with what."""
        return [asked for asked in self.asked if asked[1] in verbs]

    def when(self, verb):
        """When this was asked for."""
        return [second for second, asked, *_ in self.asked if asked == verb]

    def join(self, machine_id):
        """It runs, and its worker is there."""
        self.show(machine_id, "started")
        self.workers[machine_id] = str(next(self._joins))
        self.starts.discard(machine_id)

    def show(self, name, state="suspended", **more):
        """Fly has a machine, or another word of it."""
        self.there = [machine for machine in self.there if machine.id != name]
        told = {"lane": "lane", "keeper": True, "changed_at": self._threads.clock.now, "exit": None, **more}
        self.there.append(Machine(name, name, state, "iad", "1", "ok", **told))

    def _ask(self, verb, *told):
        self.asked.append((round(self._threads.clock.now - START, 6), verb, *told))
        if verb in self.takes:
            self._threads.sleep(self.takes[verb])
        if self.raises.get(verb):
            raise self.raises[verb].pop(0)

    # Redis

    def look(self, lane, name, held):
        missing = self.wanted - len(self.workers) - len(self.starts)
        granted = [f"{name}:{n}" for n in range(1, missing + 1)]
        self.starts |= {*granted}
        answer = LaneLook(granted, dict(self.workers), frozenset(self.starts), self.due, int(1000 * self._now))
        self._ask("look", *sorted(held))
        return answer

    def try_lock(self, name, owner, seconds):
        return name == "look:lane" and self.lets_look

    def assign(self, lane, reservation, machine_id, *, reserved=False):
        self._ask("assign", reservation, machine_id)
        if machine_id in self.workers or machine_id in self.starts or (reserved and reservation not in self.starts):
            return False
        self.starts.discard(reservation)
        self.starts.add(machine_id)
        if self.loses.get("assign"):
            raise self.loses["assign"].pop(0)
        return True

    def release(self, lane, name):
        self._ask("release", name)
        self.starts.discard(name)

    def bury(self, lane, machine_id, joined, reason, *, oom):
        self._ask("bury", machine_id)
        self.workers.pop(machine_id)
        return self.calls_of_lost

    def has_workers(self, lane):
        self._ask("has_workers")
        return bool(self.workers)

    def has_no_calls(self, lane):
        return not self.has_calls

    def is_worker(self, lane, machine_id):
        return machine_id in self.workers

    def is_counted_on(self, lane, name):
        return name in self.starts

    def pace_create(self, every, burst):
        return self.paced

    # Fly

    def since(self, moment=0):
        self._ask("list")
        return list(self.there)

    def get(self, machine_id):
        self._ask("get", machine_id)

    def start(self, machine_id):
        self._ask("start", machine_id)
        self.show(machine_id, "starting")

    def stop(self, machine_id):
        self._ask("stop", machine_id)

    def destroy(self, machine_id):
        self._ask("destroy", machine_id)

    def create(self, name, config, region, lane, *, launch):
        self._ask("create", region)
        self.show(f"n{next(self._made)}", "creating")
        return self.there[-1]

    @property
    def _now(self):
        return self._threads.clock.now


class World:
    """A fleet, its other side, and the time."""

    def __init__(self, monkeypatch, *machines, **lane):
        monkeypatch.setattr("flyexecutor.fleet.creation.config_of_machine", lambda *_, **__: {})
        self.clock = new_clock()
        self.threads = VirtualThreads(self.clock)
        self.threads.patch(monkeypatch)
        self.side = OtherSide(self.threads)
        for name in machines:
            self.side.show(name)
        config = {"metadata": {FAMILY_KEY: "family", OWNER_KEY: "owner"}}
        self.lane = Lane(
            "lane", config, **{"regions": (), "max_workers": 10, "concurrency": 1, **lane}, boot_timeout=60.0
        )
        self.needed, self.told = True, []
        self.fleet = Fleet(
            self.side,
            self.side,
            self.side,
            self.lane,
            client="c",
            known=lambda: ["lane"],
            busy_since=lambda: 0.0 if self.needed else None,
            is_vouched=lambda lane, machine, proof: (lane, proof) == ("lane", f"by {machine}"),
            failed=lambda _lane, error: self.told.append((round(self.clock.now - START, 6), str(error))),
        )
        self.ended = self.threads.start(self.fleet.run)
        self._submits = itertools.count(1)

    def submit(self, number=1):
        """Calls are stored, and so many machines are owed."""
        batch = next(self._submits)
        owed = [f"c.{batch}:{n}" for n in range(1, number + 1)]
        self.side.starts |= {*owed}
        self.side.wanted += number
        self.fleet.start_soon(Granted(owed))

    def wake(self, *machines, proof="by {}"):
        """Calls are stored, and these machines are handed out for them."""
        self.side.starts |= {*machines}
        self.side.wanted += len(machines)
        self.fleet.start_soon(Granted(resting=[(machine, proof.format(machine)) for machine in machines], waits=True))

    def run(self, until, do=None):
        """Let time pass until this second; then do something."""
        self.clock.run(START + until)
        self.clock.now = START + until
        if do:
            do()

    def answer(self, ask, *told):
        """A thread that blocks, and what it says in the end."""

        def run():
            try:
                return ask(*told)
            except MachineStartError as exc:
                return str(exc)

        return self.threads.start(run)


@pytest.fixture
def world(monkeypatch):
    return lambda *machines, **lane: World(monkeypatch, *machines, **lane)


# When it looks


def test_it_looks_at_once_and_then_every_few_seconds_and_is_parked_when_nothing_is_needed(world):
    one = world("m1")
    one.submit()
    one.run(3, lambda: one.side.join("m1"))
    one.run(12)
    assert one.side.when("look") == [0, LOOK_EVERY, 2 * LOOK_EVERY]
    assert one.side.of("start") == [(0, "start", "m1")]
    one.needed = False
    one.run(1000)
    assert one.side.when("look") == [0, 5, 10]
    one.submit()
    one.needed = True
    one.run(1001)
    assert one.side.when("look") == [0, 5, 10, 1000]


def test_before_it_is_woken_it_asks_for_nothing_and_watch_wakes_it(world):
    one = world("m1")
    one.run(100)
    assert one.side.asked == []
    one.fleet.watch()
    one.run(106)
    assert one.side.when("look") == [100, 105]


def test_one_client_looks_for_all_and_each_for_what_it_must_start(world):
    one = world("m1")
    one.side.lets_look = False
    one.fleet.tend()
    one.run(6)
    assert (one.side.when("look"), one.side.when("list")) == ([0, 5], [])
    one.submit()
    one.run(7)
    assert (one.side.when("look"), one.side.when("list"), one.side.when("start")) == ([0, 5, 6], [6], [6])


def test_it_looks_when_a_call_that_waits_for_its_retry_is_due(world):
    one = world("m1")
    one.side.due = 2.0
    one.fleet.tend()
    one.run(5)
    assert one.side.when("look") == [0, 2, 4]


def test_new_limits_hold_from_a_look_that_follows_at_once(world):
    one = world("m1", "m2", max_workers=1)
    one.submit(2)
    one.run(0.1)
    assert len(one.side.of("start")) == 1
    one.fleet.change_lane(Lane("lane", one.lane.config, (), 2, 1, 60.0))
    one.run(0.2)
    assert one.side.when("look") == [0, 0.1]
    assert one.side.when("start") == [0, 0.1]


def test_a_create_that_follows_new_limits_goes_to_the_new_region(world):
    one = world()
    one.fleet.change_lane(Lane("lane", one.lane.config, ("fra",), 10, 1, 60.0))
    one.submit()
    one.run(1)
    assert one.side.of("create") == [(0, "create", "fra")]


def test_pauses_after_a_redis_that_is_away_double_and_begin_anew_with_a_machine(world):
    one = world("m1")
    one.side.raises["look"] = [AWAY] * 5
    one.submit()
    one.run(20)
    assert one.side.when("look") == [0, 0.5, 1.5, 3.5, 7.5, 12.5, 17.5]
    assert one.side.when("start") == [12.5]
    one.side.raises["look"] = [AWAY]
    one.run(24)
    assert one.side.when("look")[-2:] == [22.5, 23.0]


def test_what_is_owed_is_renewed_by_each_look_until_one_has_seen_to_it(world):
    one = world()
    one.side.raises["list"] = [OSError("no idea")]
    one.side.paced = 7.0
    one.submit()
    one.run(6)
    held = [asked[2:] for asked in one.side.of("look")]
    assert held == [("c.1:1",)] * 3  # twice as owed, then as what a create waits for
    one.run(8)
    assert one.side.when("create") == [7.5]


# Starts and creates


def test_what_a_look_is_granted_becomes_machines_as_what_calls_were_stored_with(world):
    one = world("m1", "m2")
    one.side.wanted = 1
    one.submit()
    one.run(1)
    assert {told[1] for _, *told in one.side.of("start")} == {"m1", "m2"}


def test_starts_go_out_together_and_creates_in_their_time(world):
    one = world("m1", "m2")
    one.side.takes["start"] = 2.0
    one.side.paced = 1.5
    one.submit(4)
    one.run(4)
    assert (one.side.when("start"), one.side.when("create")) == ([0, 0], [1.5, 3.0])


def test_a_machine_that_another_client_has_taken_is_followed_by_a_look_at_once(world):
    one = world("m1", "m2")
    one.side.takes["list"] = 1.0
    one.submit()
    one.run(0.5, lambda: one.side.starts.add("m2"))  # another client starts it while we wait for the list
    one.side.wanted = 2
    one.run(3)
    assert [told for _, *told in one.side.of("assign")] == [["assign", "c.1:1", "m2"], ["assign", "c.look2:1", "m1"]]
    assert one.side.when("look") == [0, 1]
    assert one.side.of("start") == [(2, "start", "m1")]


def test_a_reservation_that_expires_while_fly_lists_is_started_by_nobody(world):
    one = world("m1")
    one.side.takes["list"] = 1.0
    one.submit()
    one.run(0.5, one.side.starts.clear)
    one.run(1.5)
    assert one.side.when("start") == []
    one.run(3)
    assert [told for _, *told in one.side.of("assign")] == [["assign", "c.1:1", "m1"], ["assign", "c.look2:1", "m1"]]
    assert one.side.when("start") == [2]


def test_a_machine_that_was_assigned_without_our_knowing_is_given_up_and_started_again(world):
    one = world("m1")
    one.side.loses["assign"] = [AWAY]
    one.submit()
    one.run(4.9)
    assert one.side.when("start") == []
    one.run(9)
    assert one.side.when("start") == [5.5]


def test_a_create_that_waits_is_none_once_its_calls_have_ended(world):
    one = world()
    one.side.paced = 3.0
    one.submit()
    one.run(2)
    one.needed = False
    one.run(5)
    assert (one.side.when("create"), one.side.of("release")) == ([], [(3, "release", "c.1:1")])


def test_a_launch_that_raises_is_made_up_for_by_the_next_look(world):
    one = world()
    one.side.raises["create"] = [OSError("no idea")]
    one.submit()
    one.run(2)
    assert one.side.when("create") == [0, 0.5]


def test_a_create_that_raises_while_a_look_reads_redis_is_made_up_for_by_the_next(world):
    one = world()
    one.side.takes["create"] = 6.0
    one.submit()
    one.run(4)
    one.side.takes["look"] = 2.0  # from 5 to 7: the create raises in between
    one.side.raises["create"] = [OSError("no idea")]
    one.run(6.5)
    del one.side.takes["create"], one.side.takes["look"]
    one.run(9)
    assert one.side.when("create") == [0, 7]


def test_no_machine_is_asked_for_beyond_max_workers_and_who_waits_is_told_why(world):
    one = world(max_workers=1)
    one.side.show("m1", "started", keeper=False)
    one.submit(1)
    waits = one.answer(one.fleet.secure, 1.0)
    one.run(1.1)
    assert one.side.of("release") == [(0, "release", "c.1:1"), (0.5, "release", "c.look2:1")]
    assert "as many machines as max_workers allows (1) are awake" in waits[0]
    assert one.side.when("look") == [0, 0.5]
    assert (one.side.when("start"), one.side.when("create"), one.told) == ([], [], [])


# Trouble


def test_calls_fail_when_trouble_lasts_for_as_long_as_a_machine_may_boot(world):
    one = world()
    one.side.raises["create"] = [MachinesError("broken", 503) for _ in range(99)]
    one.submit()
    one.run(BOOT_TIMEOUT - 0.1)
    assert one.told == []
    one.run(BOOT_TIMEOUT + LOOK_EVERY)
    ((second, what),) = one.told
    assert BOOT_TIMEOUT <= second <= BOOT_TIMEOUT + LOOK_EVERY
    assert "no machine could be created: broken" in what


def test_calls_fail_at_once_with_what_does_not_pass_and_only_once(world):
    one = world()
    one.side.raises["list"] = [REFUSED]
    one.submit()
    one.run(4)
    assert one.told == [(0, "no machine could be had: wrong token")]
    assert one.side.of("release") == [(0, "release", "c.1:1")]


def test_calls_that_have_failed_or_ended_are_not_waited_for(world):
    for ends in ("failed", "ended"):
        one = world()
        one.side.raises["list"] = [REFUSED] if ends == "failed" else []
        one.side.takes["create"] = 100.0
        one.submit()
        waits = one.answer(one.fleet.secure, 50.0)
        one.run(1)
        assert waits == ([None] if ends == "failed" else [])
        one.needed = False
        one.run(5)
        assert waits == [None]


def test_calls_do_not_fail_while_a_worker_is_there(world):
    one = world()
    one.side.join("w")
    one.side.raises["list"] = [REFUSED]
    one.submit()
    one.run(4)
    assert (one.told, one.side.when("has_workers")) == ([], [0])


def test_an_api_that_never_answered_is_a_wrong_setting_sooner_than_an_outage(world):
    one = world()
    one.side.raises["list"] = [MachinesError("no answer")] * 99
    one.submit()
    one.run(4.9)
    assert one.told == []
    one.run(14)
    assert [second for second, _ in one.told] == [7.5]  # the first look after FIRST_CONTACT; then calls have their time


def test_a_machine_that_ends_is_started_again_at_once_until_that_has_lasted_too_long(world):
    one = world("m1")
    ends = itertools.count(1)

    def end():
        one.side.show("m1", "stopped", exit=Exit(0, -1, False, next(ends)))

    one.submit()
    for second in range(1, 20):
        one.run(4.9 * second, end)
    starts = one.side.when("start")
    assert starts[:3] == [0, 5, 10]
    second, what = one.told[0]
    assert BOOT_TIMEOUT <= second - 5 < BOOT_TIMEOUT + LOOK_EVERY
    assert "machine m1 ended before its worker joined: exit code 0" in what


def test_a_machine_whose_worker_does_not_join_is_stopped_after_boot_timeout_and_calls_fail(world):
    one = world("m1")
    one.submit()
    one.run(1, lambda: one.side.show("m1", "started"))
    one.run(BOOT_TIMEOUT)
    assert (one.side.when("stop"), one.told) == ([], [])
    one.run(BOOT_TIMEOUT + LOOK_EVERY)
    assert one.side.of("stop") == [(BOOT_TIMEOUT + LOOK_EVERY, "stop", "m1")]
    assert "the worker of machine m1 did not join within 60 s" in one.told[0][1]


def test_a_machine_has_its_time_to_boot_from_when_fly_has_accepted_its_start(world):
    one = world("m1")
    one.side.takes["start"] = 30.0
    one.submit()
    one.run(BOOT_TIMEOUT + 30 - 0.1)
    assert (one.side.when("stop"), one.told) == ([], [])
    one.run(BOOT_TIMEOUT + 30 + 2 * LOOK_EVERY)
    assert len(one.told) == 1


def test_a_worker_that_joins_while_fly_lists_is_not_stopped_as_too_slow(world):
    one = world("m1")
    one.submit()
    one.run(1, lambda: one.side.show("m1", "started"))
    one.run(BOOT_TIMEOUT + 1)
    one.side.takes["list"] = 1.0
    one.run(BOOT_TIMEOUT + LOOK_EVERY + 0.5, lambda: one.side.join("m1"))  # Redis was read, Fly was not
    one.run(BOOT_TIMEOUT + LOOK_EVERY + 4)
    assert (one.side.when("stop"), one.told) == ([], [])


def test_a_worker_whose_machine_is_lost_is_buried_and_its_calls_are_looked_after_at_once(world):
    one = world("m1")
    one.side.join("m1")
    one.side.show("m1", "stopped")
    one.side.calls_of_lost = 1
    one.fleet.tend()
    one.run(1)
    assert one.side.of("bury") == [(0, "bury", "m1")]
    assert one.side.when("look") == [0, 0]


def test_a_machine_that_runs_for_nobody_is_stopped_when_looks_have_found_it_so_for_a_while(world):
    one = world()
    one.side.show("m1", "started", changed_at=1.0)
    one.fleet.tend()
    one.run(UNWANTED_FOR + 0.1)
    assert one.side.when("stop") == []
    one.run(UNWANTED_FOR + LOOK_EVERY)
    assert one.side.of("stop") == [(UNWANTED_FOR + LOOK_EVERY, "stop", "m1")]


def test_a_clock_of_ours_that_is_ahead_or_behind_stops_nothing_that_may_boot(world, monkeypatch):
    one = world()
    one.side.show("m1", "started")
    monkeypatch.setattr("flyexecutor.fleet.fleet.time.time", lambda: one.clock.now + 7200.0)
    one.fleet.tend()
    one.run(30)
    assert one.side.when("stop") == []


# Who waits


def test_calls_are_secure_when_fly_has_accepted_a_machine_and_not_before(world):
    one = world("m1")
    one.side.takes["start"] = 2.0
    one.submit()
    waits = one.answer(one.fleet.secure, 10.0)
    one.run(1.9)
    assert waits == []
    one.run(2)
    assert waits == [None]


def test_a_machine_for_earlier_calls_secures_none_that_came_after_it_was_asked_for(world):
    one = world("m1", "m2")
    one.side.takes["start"] = 2.0
    one.submit()
    one.run(1)
    one.submit()
    waits = one.answer(one.fleet.secure, 10.0)
    one.run(2.9)
    assert waits == []
    one.run(3)
    assert waits == [None]


def test_a_worker_that_redis_had_before_calls_came_does_not_secure_them(world):
    one = world("m1")
    one.side.join("w")
    one.side.takes["look"], one.side.takes["start"] = 2.0, 100.0
    one.submit()
    one.run(1)
    one.side.workers.clear()  # it leaves
    one.submit()
    waits = one.answer(one.fleet.secure, 50.0)
    one.run(3)
    assert waits == []


def test_who_waits_for_too_long_is_told_what_is_in_the_way(world):
    one = world("m1")
    one.side.takes["list"] = 100.0
    one.submit()
    soon, patient = (one.answer(one.fleet.secure, seconds) for seconds in (1.0, None))
    one.run(1.1)
    assert "the calls are stored, but no machine" in soon[0]
    assert "Fly has not answered" in soon[0]
    one.side.raises["has_workers"] = [AWAY]
    told = one.answer(one.fleet.secure, 0.0)
    one.run(BOOT_TIMEOUT + GIVE_UP_WITHIN - 0.1)
    assert "Redis is away" in told[0]
    assert patient == []
    one.run(BOOT_TIMEOUT + GIVE_UP_WITHIN)
    assert "Redis is away" in patient[0]


@pytest.mark.parametrize("there", ["a worker", "no call"])
def test_with_a_worker_or_without_calls_nothing_is_to_be_waited_for(world, there):
    one = world()
    if there == "a worker":
        one.side.join("w")
    one.side.has_calls = there == "a worker"
    one.side.takes["look"] = 100.0
    one.submit()
    waits = one.answer(one.fleet.secure, 1.0)
    one.run(0)
    assert waits == [None]


def test_all_is_settled_when_each_machine_has_been_asked_for(world):
    one = world("m1")
    one.side.takes["start"], one.side.paced = 1.0, 2.0
    one.submit(2)
    soon, late = (one.answer(one.fleet.settle, seconds) for seconds in (1.5, 10.0))
    one.run(1.9)
    assert (soon, late) == ([False], [])
    one.run(2)
    assert late == [True]


def test_what_a_launch_could_not_do_is_not_settled_before_it_is_made_up_for(world):
    one = world()
    one.side.takes["create"] = 1.0
    one.side.raises["create"] = [OSError("no idea")]
    one.submit()
    waits = one.answer(one.fleet.settle, 10.0)
    one.run(2.4)
    assert waits == []
    one.run(2.5)
    assert waits == [True]


def test_all_is_settled_when_redis_counts_no_longer_on_what_waits_to_be_created(world):
    one = world()
    one.side.paced = 60.0
    one.submit()
    waits = one.answer(one.fleet.settle, 50.0)
    one.run(1, one.side.starts.clear)
    one.side.wanted = 0
    one.run(5)
    assert waits == [True]


# Closed


def test_all_is_settled_once_a_fleet_that_is_closed_has_given_back_what_waits(world):
    one = world()
    one.side.paced = 60.0
    one.submit()
    waits = one.answer(one.fleet.settle, 50.0)
    one.run(1, one.fleet.close)
    one.run(1.1)
    assert (waits, one.side.of("release")) == ([True], [(1, "release", "c.1:1")])


def test_a_fleet_that_is_closed_waits_for_its_launches_and_gives_back_what_waits(world):
    one = world("m1")
    one.side.takes["start"], one.side.paced = 2.0, 60.0
    one.submit(2)
    one.run(1, one.fleet.close)
    one.run(1.9)
    assert (one.ended, one.side.of("release")) == ([], [])
    one.run(10)
    assert (one.ended, one.side.of("release")) == ([None], [(2, "release", "c.1:2")])
    one.submit()
    assert one.side.of("release")[1:] == [(10, "release", "c.2:1")]


def test_what_a_launch_raises_as_the_fleet_closes_is_given_back_and_tried_no_more(world):
    one = world()
    one.side.takes["create"] = 2.0
    one.side.raises["create"] = [OSError("closed"), REFUSED]
    one.submit(2)
    one.run(1, one.fleet.close)
    one.run(100)
    assert (one.ended, one.side.when("create"), one.told) == ([None], [0, 0], [])
    assert sorted(one.side.of("release")) == [(2, "release", "c.1:1"), (2, "release", "c.1:2")]


def test_a_fleet_that_is_closed_waits_for_the_clean_up_that_is_under_way(world):
    one = world()
    one.side.join("w")
    one.side.show("w", "started", created_at=5.0)
    one.side.show("old", lane="before", owner="owner", family="family", created_at=0.0, changed_at=0.0)
    one.side.try_lock = lambda *_: True
    one.side.lanes_since = lambda _: ["lane"]
    one.side.now = lambda: one.clock.now
    one.side.takes["destroy"] = 3.0
    one.fleet.tend()
    one.run(1, one.fleet.close)
    one.run(2.9)
    assert (one.side.of("destroy"), one.ended) == ([(0, "destroy", "old")], [])
    one.run(3)
    assert one.ended == [None]


@pytest.mark.parametrize("error", [RuntimeError("no thread"), MemoryError()])
def test_a_fleet_that_is_closed_does_not_wait_for_a_clean_up_that_found_no_room_for_a_thread(world, monkeypatch, error):
    one = world()

    def refuse(**_):
        raise error

    monkeypatch.setattr("flyexecutor.fleet.retirement.threading", SimpleNamespace(Thread=refuse))
    one.fleet.tend()
    one.run(1, one.fleet.close)
    one.run(2)
    assert one.ended == [None]


def test_who_waits_when_the_fleet_closes_is_told_at_once(world):
    one = world("m1")
    one.side.takes["list"] = 100.0
    one.submit()
    waits = one.answer(one.fleet.secure, 50.0)
    one.run(1, one.fleet.close)
    one.run(1.1)
    assert "no machine for them could be asked for yet" in waits[0]


# Machines that are said to rest


def test_a_machine_that_is_handed_out_is_started_at_once_and_no_list_is_needed(world):
    one = world("m1", "m2")
    one.fleet.tend()
    one.run(1)
    one.needed = False
    one.run(100)
    one.needed = True
    del one.side.asked[:]
    one.wake("m1", "m2")
    one.run(100.4, lambda: [one.side.join("m1"), one.side.join("m2")])
    one.run(104)
    assert one.side.asked == [(100, "start", "m1"), (100, "start", "m2")]
    one.run(106)  # the calls last: somebody looks after them
    assert one.side.when("list") == [105]


def test_calls_that_nobody_serves_though_nothing_was_granted_are_looked_after_at_once(world):
    one = world("m1")
    one.fleet.tend()
    one.run(1)
    one.needed = False
    one.run(100)
    one.needed = True
    del one.side.asked[:]
    one.fleet.start_soon(Granted(waits=True))
    one.run(101)
    assert one.side.when("look") == [100]
    one.needed = False
    one.run(200)
    one.needed = True
    one.fleet.start_soon(Granted(waits=False))
    one.run(204)
    assert one.side.when("look") == [100]
    one.run(206)
    assert one.side.when("look") == [100, 205]


def test_one_that_has_gone_costs_a_refused_start_and_a_look_finds_another(world, caplog):
    one = world("m2")
    one.side.raises["start"] = [MachinesError("machine not found", 404)]
    one.wake("m1")
    one.run(1)
    assert [asked[1:] for asked in one.side.of("start", "get", "release")] == [
        ("start", "m1"),
        ("get", "m1"),
        ("release", "m1"),
        ("start", "m2"),
    ]
    assert one.side.when("start") == [0, 0]
    assert one.told == []
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


def test_nobody_starts_what_no_worker_of_ours_has_vouched_for_and_the_call_has_another_machine(world, caplog):
    one = world("m2")
    one.wake("m1", proof="by somebody")
    one.run(1)
    assert [asked[2] for asked in one.side.of("start")] == ["m2"]
    assert "m1 is not started" in caplog.text


def test_a_machine_on_its_way_is_counted_on_as_long_as_its_client_lives_and_given_up_after_its_time(world):
    one = world("m1")
    one.side.takes["start"] = 0.1
    one.wake("m1")
    one.run(6)
    assert [asked[2:] for asked in one.side.of("look")][-1] == ("m1",)
    one.run(BOOT_TIMEOUT + LOOK_EVERY + 1)
    assert [asked[2] for asked in one.side.of("release", "stop")] == ["m1", "m1"]


def test_who_is_closed_gives_back_what_it_is_handed(world):
    one = world("m1")
    one.fleet.close()
    one.run(1)
    one.wake("m1")
    assert [asked[1:] for asked in one.side.of("start", "release")] == [("release", "m1")]


def test_a_start_that_raises_is_no_reservation(world):
    one = world("m1")
    one.side.raises["start"] = [KeyError("?")]
    one.wake("m1")
    one.run(30)
    assert one.side.starts - {"m1"} == set()
    assert [asked[3] for asked in one.side.of("assign")] == ["m1"]  # given up, and started by a look
