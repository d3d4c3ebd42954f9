"""The fleets of a client, with fleets that only record what is asked of them."""

from dataclasses import replace

import pytest

from flyexecutor.client import fleets as module
from flyexecutor.client.fleets import Fleets
from flyexecutor.errors import MachineStartError
from flyexecutor.lane import Lane
from flyexecutor.store.calls import Granted

OTHER = Lane("other", {}, (), 1, 1, 60.0)  # the same under another key of the ring
LANE = Lane("lane", {}, (), 1, 1, 60.0, others=(OTHER,))
STRANGE = Lane("strange", {}, (), 1, 1, 60.0)


class RecordedFleet:
    def __init__(self, lane, said):
        self.name, self.said = lane.name, said
        self.settles, self.error = True, None

    def run(self):
        raise AssertionError("threads are the client's")

    def start_soon(self, granted):
        self.said.append((self.name, "start", *granted.reservations))

    def tend(self):
        self.said.append((self.name, "tend"))

    def watch(self):
        self.said.append((self.name, "watch"))

    def change_lane(self, lane):
        self.said.append((self.name, "change", lane.max_workers))

    def settle(self, timeout):
        self.said.append((self.name, "settle", timeout))
        return self.settles

    def secure(self, timeout):
        self.said.append((self.name, "secure", timeout))
        if self.error:
            raise self.error

    def close(self):
        self.said.append((self.name, "close"))


class RecordedThreads:
    def __init__(self):
        self.added = []
        self.started = 0

    def add(self, run, name):
        self.added.append((run.__self__.name, name))

    def start(self):
        self.started = len(self.added)


class Side:
    """Fleets and what they ask of others."""

    def __init__(self, *lanes, may_start=True):
        self.said, self.made, self.threads = [], {}, RecordedThreads()
        self.lanes = {lane.name: lane for lane in lanes}
        self.fleets = Fleets(self.lanes, self.make if may_start else None, self.threads)

    def make(self, lane):
        assert lane.name not in self.made
        self.made[lane.name] = fleet = RecordedFleet(lane, self.said)
        return fleet


@pytest.fixture
def side():
    return Side(LANE, OTHER)


@pytest.fixture
def clock(monkeypatch):
    """The time is 100, and each fleet that settles or secures takes a second."""
    times = iter(range(100, 200))
    monkeypatch.setattr(module.time, "monotonic", lambda: float(next(times)))


def test_a_lane_and_those_of_the_ring_have_a_fleet_and_a_thread_each_and_once(side):
    for _ in range(2):
        assert side.fleets.ready(LANE) is LANE
    assert side.threads.added == [("lane", "fleet"), ("other", "fleet")]
    assert side.threads.started == 2


def test_a_call_goes_to_its_lane_as_it_is_now(side):
    side.fleets.ready(LANE)
    now = replace(LANE, max_workers=7, others=(replace(OTHER, max_workers=7),))
    side.fleets.know([now])
    assert side.said == [("lane", "change", 7), ("other", "change", 7)]
    assert side.fleets.ready(LANE) is now
    assert side.lanes == {"lane": now, "other": now.others[0]}


def test_a_lane_that_is_not_known_has_no_fleet_until_it_is(side):
    assert side.fleets.ready(STRANGE) is STRANGE
    side.fleets.tend("strange")
    assert "strange" not in side.made
    side.fleets.know([STRANGE])
    assert "strange" not in side.made  # no call has come
    side.fleets.tend("strange")
    assert side.said == [("strange", "tend")]


def test_who_may_start_no_machines_has_no_fleet():
    side = Side(LANE, OTHER, may_start=False)
    assert side.fleets.ready(LANE) is LANE
    side.fleets.tend("lane")
    side.fleets.start_soon(LANE, Granted(["r"]))
    assert (side.threads.added, side.said) == ([], [])


def test_what_was_granted_is_started_and_those_of_the_ring_are_looked_after(side):
    side.fleets.start_soon(LANE, Granted(["r"]))
    assert side.said == []  # nobody has sent
    side.fleets.ready(LANE)
    side.fleets.start_soon(LANE, Granted(["r", "s"]))
    assert side.said == [("lane", "start", "r", "s"), ("other", "watch")]


def test_the_lanes_of_the_ring_are_not_among_those_that_are_used(side):
    side.fleets.know([STRANGE])
    assert side.fleets.used() == {"lane", "strange"}


def test_none_is_made_after_the_end(side):
    side.fleets.ready(OTHER)
    side.fleets.close()
    side.fleets.ready(LANE)
    side.fleets.tend("lane")
    side.fleets.tend("other")  # which gives back by itself what it is asked for
    assert side.said == [("other", "close"), ("other", "tend")]


@pytest.mark.usefixtures("clock")
def test_all_are_secured_within_one_time(side):
    side.fleets.ready(LANE)
    side.fleets.secure(100.5)
    side.fleets.secure(None)
    assert [timeout for *_, timeout in side.said] == [0.5, 0.0, None, None]
    side.made["lane"].error = MachineStartError("no room")
    with pytest.raises(MachineStartError, match="no room"):
        side.fleets.secure(None)


@pytest.mark.usefixtures("clock")
def test_before_an_exit_each_fleet_has_its_turn_whatever_the_one_before_came_to(side, caplog):
    side.fleets.ready(LANE)
    side.made["lane"].settles, side.made["lane"].error = False, MachineStartError("no room")
    side.fleets.leave_running(102.5)
    assert side.said == [
        ("lane", "settle", 2.5),
        ("lane", "secure", 1.5),
        ("other", "settle", 0.5),
        ("other", "secure", 0.0),
    ]
    assert [message.partition(" before")[0] for message in caplog.messages] == [
        "some machines were not asked for",
        "no room",
    ]
