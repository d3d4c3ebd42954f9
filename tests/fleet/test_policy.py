import itertools
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flyexecutor.fleet.machine import Exit, Machine
from flyexecutor.fleet.policy import (
    OVERDUE,
    Abandon,
    Boot,
    Bury,
    Create,
    GiveBack,
    GiveUp,
    Snapshot,
    Start,
    Stop,
    name_machine,
    plan,
    rests,
    retire,
)

NOW = 1_000_000.0
MOMENT = 5_000.0  # the same, by the clock of boots


BOOT_TIMEOUT = 120.0
NOTHING = {
    "reservations": (),
    "creating": (),
    "starting": frozenset(),
    "avoid": frozenset(),
    "max_workers": 10,
    "warm": 1,
    "boot_timeout": BOOT_TIMEOUT,
    "now": NOW,
    "moment": MOMENT,
}


def machine(id_, state, *, name="", exit_=None, host="ok", keeper=True, age=1.0, **more):
    name = name or f"named {id_}"
    return Machine(id_, name, state, "iad", "01", host, exit_, keeper=keeper, changed_at=NOW - age, **more)


def snapshot(machines=(), *, workers=(), starts=(), booting=None, overdue=(), slow=(), **more):
    """booting: machines and their exits before. Of them, whose start was asked for a while, and for too long ago."""
    ages = {**dict.fromkeys(overdue, OVERDUE + 0.1), **dict.fromkeys(slow, BOOT_TIMEOUT + 0.1)}
    boots = {name: Boot(MOMENT - ages.get(name, OVERDUE), before) for name, before in (booting or {}).items()}
    known = {
        "machines": machines,
        "workers": dict.fromkeys(workers, "7"),
        "starts": frozenset(starts),
        "booting": boots,
    }
    return Snapshot(**{**NOTHING, **known, **more})


MADE = [Create("made", keeper=True)]


def test_nothing_to_do_is_no_action():
    assert plan(snapshot([machine("a", "started")], workers=["a"])) == []


@pytest.mark.parametrize("state", ["stopped", "suspended", "created"])
def test_a_machine_that_is_there_is_started_before_one_is_created(state):
    idle = machine("a", state, launches=False)
    assert plan(snapshot([idle], reservations=["r1", "r2"])) == [Start("r1", idle), Create("r2", keeper=False)]


@pytest.mark.parametrize("states", [*itertools.permutations(["suspended", "stopped", "created"])])
def test_what_is_soonest_there_is_started_first_whatever_the_order_of_the_list(states):
    seen = snapshot([machine(state, state, launches=False) for state in states], reservations=["r1", "r2", "r3"])
    assert [action.machine.state for action in plan(seen)] == ["suspended", "stopped", "created"]


def test_a_machine_whose_host_does_not_answer_is_neither_started_nor_stopped():
    resting, forgotten = machine("a", "stopped", host="unreachable"), machine("b", "started", host="unknown", age=130)
    assert plan(snapshot([resting, forgotten], reservations=["r"])) == [Create("r", keeper=False)]


def test_calls_do_not_wait_for_a_machine_that_nobody_may_stop_since_nobody_knows_of_its_host():
    just_now, for_long = (machine("a", "started", host="unknown", age=age) for age in (1, 301))
    assert plan(snapshot([just_now], reservations=["r"], max_workers=1)) == [GiveBack("r")]
    assert plan(snapshot([for_long], reservations=["r"], max_workers=1)) == [Create("r", keeper=False)]
    assert plan(snapshot([for_long], workers=["a"], reservations=["r"], max_workers=1)) == [GiveBack("r")]


def test_machines_at_work_or_on_their_way_are_not_counted_on():
    there = [machine("a", "started"), machine("b", "stopped")]
    assert plan(snapshot(there, workers=["a"], starts=["b"], reservations=["r"])) == [Create("r", keeper=False)]


@pytest.mark.parametrize("state", ["started", "stopping", "suspending"])
def test_at_the_limit_one_that_is_leaving_is_awaited_instead_of_creating_one_too_many(state):
    leaving = machine("a", state)
    assert plan(snapshot([leaving], reservations=["r"], max_workers=1)) == [Start("r", leaving)]
    assert plan(snapshot([leaving], reservations=["r"], max_workers=2)) == [Create("r", keeper=False)]
    assert plan(snapshot([leaving], reservations=["r"], creating=MADE, max_workers=2)) == [Start("r", leaving)]


def test_what_is_created_now_counts_towards_the_limit_and_what_fly_starts_does_not():
    leaving, scheduled = machine("a", "started"), machine("b", "stopped", schedule="daily")
    asked = snapshot([leaving, scheduled], reservations=["r1", "r2", "r3"], max_workers=3)
    assert plan(asked) == [Create("r1", keeper=False), Create("r2", keeper=False), Start("r3", leaving)]
    assert plan(snapshot([scheduled], reservations=["r"])) == [Create("r", keeper=True)]
    half_told = machine("c", "stopped", schedule_name="nightly")
    assert plan(snapshot([half_told], reservations=["r"])) == [Create("r", keeper=True)]


def test_a_machine_that_was_created_to_boot_by_itself_is_not_started():
    assert plan(snapshot([machine("a", "created")], reservations=["r"], max_workers=2)) == [Create("r", keeper=False)]


@pytest.mark.parametrize("state", ["failed", "destroying", "destroyed", "launch_failed"])
def test_at_the_limit_what_has_ended_is_neither_awaited_nor_counted(state):
    seen = snapshot([machine("a", state)], reservations=["r"], max_workers=1)
    assert plan(seen) == [Create("r", keeper=False)]


COMING = ["creating", "created", "starting", "restarting", "replacing", "updating", "a word of tomorrow"]


@pytest.mark.parametrize("state", COMING)
def test_at_the_limit_what_runs_soon_is_not_awaited_and_no_machine_is_made_beside_it(state):
    rested = machine("b", "suspended")
    asked = {"reservations": ["r"], "max_workers": 1}
    assert plan(snapshot([machine("a", state), rested], **asked)) == [GiveBack("r")]
    assert plan(snapshot([machine("a", state, age=601), rested], **asked)) == [Start("r", rested)]  # it is lost
    assert plan(snapshot([machine("a", state, schedule="daily"), rested], **asked)) == [Start("r", rested)]


@pytest.mark.parametrize(("age", "told"), [(300, GiveBack("r")), (301, Create("r", keeper=False))])
def test_a_word_of_fly_s_that_we_do_not_know_may_be_one_for_rest(age, told):
    assert plan(snapshot([machine("a", "hibernated", age=age)], reservations=["r"], max_workers=1)) == [told]


def test_each_start_takes_room():
    rested = [machine("a", "suspended"), machine("b", "suspended")]
    seen = snapshot([*rested, machine("c", "started")], workers="c", reservations=["r1", "r2"], max_workers=2)
    assert plan(seen) == [Start("r1", rested[1]), GiveBack("r2")]


@pytest.mark.parametrize("known", ["workers", "starts", "starting"])
def test_what_redis_or_we_know_to_come_counts_whatever_fly_says(known):
    rested = [machine("a", "suspended"), machine("b", "suspended")]
    asked = {"reservations": ["r"], "max_workers": 1}
    assert GiveBack("r") in plan(snapshot(rested, **asked, **{known: frozenset("a")}))
    assert GiveBack("r") in plan(snapshot(rested[1:], **asked, **{known: frozenset("a")}))
    assert GiveBack("r") not in plan(snapshot(rested, **asked))


def test_one_that_is_being_created_counts_once_whether_fly_lists_it_and_redis_knows_it_or_not():
    fresh, name = machine("a", "created", name="fx-l-made", lane="l"), ["made"]
    for there, starts in itertools.product(([], [fresh]), ([], name)):
        asked = {"starts": [*starts, "r1", "r2"], "reservations": ["r1", "r2"], "creating": MADE}
        seen = snapshot(there, max_workers=2, **asked)
        assert plan(seen) == [Create("r1", keeper=False), GiveBack("r2")]


def test_the_reservations_of_others_count():
    asked = {"starts": ["theirs", "r"], "reservations": ["r"]}
    assert plan(snapshot(**asked, max_workers=1)) == [GiveBack("r")]
    assert plan(snapshot(**asked, max_workers=2)) == [Create("r", keeper=True)]


def test_each_machine_that_leaves_is_awaited_once_and_is_not_stopped_meanwhile():
    first, second = machine("a", "started", age=130), machine("b", "suspending")
    seen = snapshot([first, second], reservations=["r1", "r2", "r3"], max_workers=2)
    assert plan(seen) == [Start("r1", first), Start("r2", second), GiveBack("r3")]


GONE = ["stopped", "suspended", "failed", "destroyed", "destroying", "replaced", "migrated", "launch_failed"]


@pytest.mark.parametrize("state", GONE)
def test_a_worker_whose_machine_does_not_run_is_buried(state):
    dead = machine("a", state)
    assert Bury("a", "7", dead) in plan(snapshot([dead], workers=["a"]))


def test_a_worker_that_the_list_lacks_or_whose_host_is_gone_is_buried():
    assert plan(snapshot(workers=["a"])) == [Bury("a", "7", None)]
    away = machine("a", "started", host="unreachable")
    assert plan(snapshot([away], workers=["a"])) == [Bury("a", "7", away)]


@pytest.mark.parametrize("state", ["starting", "started", "stopping", "restarting", "replacing"])
def test_a_worker_in_a_passing_state_is_left_alone(state):
    assert plan(snapshot([machine("a", state)], workers=["a"])) == []


def test_a_worker_may_run_for_any_time():
    assert plan(snapshot([machine("a", "started", age=1e6)], workers=["a"])) == []


def test_a_start_is_given_up_when_the_machine_has_ended_anew_and_not_for_its_earlier_end():
    earlier, now = Exit(0, -1, False, 1), Exit(1, -1, False, 2)
    for exit_, actions in ((earlier, []), (now, [GiveUp("a", machine("a", "stopped", exit_=now), again=False)])):
        ended = machine("a", "stopped", exit_=exit_)
        assert plan(snapshot([ended], starts=["a"], booting={"a": earlier})) == actions


def test_a_machine_is_made_to_be_kept_while_fewer_than_warm_are():
    made = plan(snapshot([machine("a", "started")], workers=["a"], reservations=["r1", "r2", "r3"], warm=3))
    assert [action.keeper for action in made] == [True, True, False]
    asked = plan(snapshot(reservations=["r1", "r2"], warm=2, creating=MADE))
    assert [action.keeper for action in asked] == [True, False]
    assert [action.keeper for action in plan(snapshot(reservations=["r"], warm=0))] == [False]


@pytest.mark.parametrize("order", [*itertools.permutations(range(3))])
def test_of_machines_that_rest_alike_the_keepers_are_started_first(order):
    there = [machine("a", "suspended", keeper=False), machine("b", "stopped"), machine("c", "stopped", keeper=False)]
    seen = snapshot([there[n] for n in order], reservations=["r1", "r2", "r3"])
    assert [action.machine.id for action in plan(seen)] == ["a", "b", "c"]


def test_a_machine_that_destroys_itself_is_not_waited_for():
    assert plan(snapshot([machine("a", "started", keeper=False)], reservations=["r"], max_workers=1)) == [GiveBack("r")]
    assert plan(snapshot([machine("a", "destroying", keeper=False)], reservations=["r"], max_workers=1)) == [
        Create("r", keeper=True)
    ]


def test_a_machine_whose_host_had_no_room_is_avoided_for_a_while():
    full, other = machine("a", "suspended"), machine("b", "stopped")
    seen = snapshot([other, full], reservations=["r1", "r2"], avoid=frozenset("a"))
    assert plan(seen) == [Start("r1", other), Create("r2", keeper=False)]


def test_a_machine_that_does_not_come_to_rest_is_awaited_no_longer_and_stopped():
    hung = machine("a", "started", age=1)
    seen = snapshot([hung], reservations=["r"], max_workers=1, avoid=frozenset("a"))
    assert plan(seen) == [GiveBack("r"), Stop(hung)]


def test_a_machine_that_runs_for_nobody_is_stopped_once_it_had_time_to_join():
    fresh, forgotten = machine("a", "started", age=120), machine("b", "started", age=121)
    assert plan(snapshot([fresh, forgotten])) == [Stop(forgotten)]
    assert plan(snapshot([machine("c", "stopping", age=130)])) == []  # it ends by itself
    assert plan(snapshot([forgotten], workers=["b"])) == []
    assert plan(snapshot([forgotten], starts=["b"])) == []
    assert plan(snapshot([machine("c", "started", age=130, schedule="daily")])) == []


PASSING = ["creating", "created", "starting", "stopping", "restarting", "suspending", "replacing"]


@pytest.mark.parametrize(("state", "limit"), [*((state, 300) for state in PASSING), ("updating", 600)])
def test_a_machine_that_hangs_in_a_passing_state_is_lost(state, limit):
    stuck = machine("a", state, age=limit + 1)
    assert plan(snapshot([machine("a", state, age=limit)], workers=["a"])) == []
    assert plan(snapshot([stuck], workers=["a"])) == [Bury("a", "7", stuck)]
    assert plan(snapshot([stuck], reservations=["r"], max_workers=1)) == [Create("r", keeper=False)]


def of(name, state, lane, *, family="f", owner="o", age=700.0, created_at=5.0, **more):
    """A machine that has come to rest before most others."""
    told = {"lane": lane, "family": family, "owner": owner, "created_at": created_at}
    return machine(name, state, age=age, **told, **more)


def retired(machines):
    used = frozenset({"used"})
    return retire(machines, kinds=[("o", "f")], lane="new", used=used, rested_before=NOW - 600.0)


def test_a_machine_is_named_after_its_lane_and_reservation():
    assert name_machine("lane", "client.look1:0") == "fx-lane-client-look1-0"
    made = machine("a", "stopped", name=name_machine("lane", "r1"), lane="lane")  # and not assigned yet
    assert plan(snapshot([made], starts={"r1"}, reservations=["r2"])) == [Create("r2", keeper=False)]


def test_after_a_deploy_what_rests_of_unused_lanes_of_the_family_is_destroyed():
    old = [of(state, state, "old") for state in ("suspended", "stopped", "created", "failed")]
    others = [
        of("at work", "started", "old"),
        of("still used", "suspended", "used"),
        of("ours", "suspended", "new", created_at=7.0),
        of("of another environment", "suspended", "x", family="g"),
        of("of another Redis", "suspended", "y", owner="p"),
        of("nobody's", "suspended", "z", owner=""),
        of("of Fly's to start", "stopped", "old", schedule="daily"),
        of("of Fly's to start, half told", "stopped", "old", schedule_name="nightly"),
        of("has just come to rest", "stopped", "old", age=600.0),
    ]
    assert retired([*old, *others]) == old


def test_what_a_rotation_of_the_key_has_left_is_destroyed_as_after_a_deploy():
    before, others = of("before", "suspended", "old", owner="p", family="g"), of("x", "suspended", "x", owner="p")
    kinds = [("o", "f"), ("p", "g")]
    assert retire([before, others], kinds=kinds, lane="new", used=frozenset(), rested_before=NOW) == [before]


def test_who_still_has_the_image_of_before_destroys_none_of_the_next_deploy():
    ours, next_one = of("ours", "started", "new", created_at=5.0), of("next", "suspended", "next", created_at=6.0)
    assert retired([ours, next_one]) == []
    assert retired([next_one]) == [next_one]  # nobody knows better


@pytest.mark.parametrize(
    ("state", "launches", "age", "told"),
    [
        *((state, True, 0, True) for state in ("suspended", "stopped", "failed")),
        ("created", False, 0, True),  # made to rest
        ("created", True, 300, False),  # it boots
        ("created", True, 301, True),  # it should have
        *((state, True, 400, False) for state in ("creating", "starting", "started", "stopping", "destroying")),
    ],
)
def test_what_rests_does_nothing_and_will_not_begin_to(state, launches, age, told):
    assert rests(machine("a", state, launches=launches, age=age), NOW) is told


def test_a_machine_that_is_being_created_for_a_reservation_is_not_taken_for_another():
    fresh = machine("a", "created", name="fx-l-c-1-1", lane="l")
    asked = snapshot(
        [fresh], starts=["c.1:1", "c.2:1"], reservations=["c.2:1"], creating=[Create("c.1:1", keeper=True)]
    )
    assert plan(asked) == [Create("c.2:1", keeper=False)]


def test_a_start_that_somebody_undid_is_given_up_to_be_tried_again():
    stopped = machine("a", "stopped", exit_=Exit(137, 9, False, 2, requested_stop=True))
    assert plan(snapshot([stopped], starts=["a"], booting={"a": None})) == [GiveUp("a", stopped, again=True)]
    suspended = machine("b", "suspended")
    asked = {"starts": ["b"], "booting": {"b": None}}
    assert plan(snapshot([suspended], **asked)) == []  # the start may be on its way
    assert plan(snapshot([suspended], **asked, overdue=frozenset("b"))) == [GiveUp("b", suspended, again=True)]
    failed = machine("b", "failed")  # its program can't begin: nor will the next
    assert plan(snapshot([failed], **asked, overdue=frozenset("b"))) == [GiveUp("b", failed, again=False)]


def test_a_machine_that_was_destroyed_before_it_joined_is_given_up():
    asked = {"starts": ["a"], "booting": {"a": None}}
    assert plan(snapshot(**asked)) == []  # a list may lack a fresh machine for a moment
    assert plan(snapshot(**asked, overdue=frozenset("a"))) == [GiveUp("a", None, again=True)]


@pytest.mark.parametrize("state", ["creating", "created", "starting", "started", "restarting"])
def test_a_machine_that_boots_is_not_given_up_however_long_it_takes(state):
    booting = machine("a", state, exit_=Exit(1, -1, False, 2), age=250)
    assert plan(snapshot([booting], starts=["a"], booting={"a": None}, overdue=frozenset("a"))) == []


def test_a_machine_that_joined_in_the_meantime_is_not_given_up_and_the_next_one_is():
    ended = [machine(name, "stopped", exit_=Exit(0, -1, False, 2)) for name in "ab"]
    assert plan(snapshot(ended, starts=["b"], booting={"a": None, "b": None})) == [GiveUp("b", ended[1], again=True)]


@pytest.mark.parametrize(
    ("end", "again"),
    [
        (None, False),  # it ended, and Fly no longer tells how
        (Exit(1, None, False, 2), False),
        (Exit(1, 0, False, 2), False),
        (Exit(129, 1, False, 2), True),
        (Exit(1, -1, False, 2, requested_stop=True), True),
        (Exit(1, -1, False, 2), False),  # the image's fault
        (Exit(137, 9, True, 2), False),  # too small
        (Exit(137, 9, False, 2), True),
        (Exit(0, -1, False, 2), True),
        (Exit(143, 15, False, 2, requested_stop=True), True),
    ],
)
def test_what_is_no_fault_of_the_image_is_tried_again(end, again):
    ended, earlier = machine("a", "stopped", exit_=end), Exit(0, -1, False, 1)
    assert plan(snapshot([ended], starts=["a"], booting={"a": earlier})) == [GiveUp("a", ended, again=again)]


@pytest.mark.parametrize(("state", "begun"), [("creating", False), ("created", False), ("started", True)])
def test_a_machine_whose_worker_takes_too_long_is_abandoned_and_fly_or_its_image_is_at_fault(state, begun):
    booting, asked = machine("a", state), {"starts": ["a", "b"], "booting": {"a": None, "b": None}}
    assert plan(snapshot([booting, machine("b", state)], **asked, overdue="ab")) == []
    assert plan(snapshot([booting, machine("b", state)], **asked, slow="a")) == [Abandon("a", booting, begun=begun)]


def test_what_has_joined_or_was_given_up_is_not_abandoned_and_one_that_no_list_has_may_be():
    ended = machine("a", "stopped", exit_=Exit(0, -1, False, 2))
    assert plan(snapshot([machine("a", "started")], booting={"a": None}, slow="a", workers="a")) == []
    seen = snapshot([ended], starts="a", booting={"a": None}, slow="a")
    assert plan(seen)[0] == GiveUp("a", ended, again=True)
    missing = plan(snapshot(starts="a", booting={"a": None}, slow="a"))
    assert missing == [GiveUp("a", None, again=True), Abandon("a", None, begun=True)]


def test_calls_get_their_machines_before_what_is_slow_is_stopped():
    slow, idle = machine("a", "started"), machine("b", "suspended")
    actions = plan(snapshot([slow, idle], starts="a", booting={"a": None}, slow="a", reservations=["r"]))
    assert actions == [Start("r", idle), Abandon("a", slow, begun=True)]


STATES = [
    "created",
    "starting",
    "started",
    "stopping",
    "stopped",
    "suspending",
    "suspended",
    "destroying",
    "failed",
    "?",
]
AWAKE = {"created", "starting", "started", "stopping", "suspending", "?"}
NAMES = st.frozensets(st.sampled_from("abcdefgh"), max_size=4)


@st.composite
def anything_seen(draw):
    """Machines as Fly lists them, and any word of Redis and of ours."""
    told = {"keeper": st.booleans(), "launches": st.just(True), "age": st.sampled_from([1.0, 200.0])}
    there = [
        machine(
            name, draw(st.sampled_from(STATES)), lane="l", name=f"fx-l-{name}", **{k: draw(v) for k, v in told.items()}
        )
        for name in sorted(draw(NAMES))
    ]
    reservations = [f"r{n}" for n in range(draw(st.integers(0, 5)))]
    return snapshot(
        there,
        workers=draw(NAMES),
        starts=draw(NAMES) | frozenset(reservations),
        reservations=reservations,
        creating=[Create(name, keeper=True) for name in draw(NAMES)],
        starting=draw(NAMES),
        max_workers=draw(st.integers(0, 5)),
        avoid=draw(NAMES),
    )


@given(anything_seen())
def test_whatever_redis_says_no_more_machines_are_awake_than_may_be_unless_they_were_before(seen):
    actions = plan(seen)
    awake = {m.id for m in seen.machines if m.state in AWAKE} | seen.starting
    awake |= {create.reservation for create in seen.creating}
    before = len(awake)
    for action in actions:
        if isinstance(action, Start):
            awake.add(action.machine.id)
        elif isinstance(action, Create):
            awake.add(action.reservation)
    assert len(awake) <= max(before, seen.max_workers)
    answered = [a.reservation for a in actions if isinstance(a, Start | Create | GiveBack)]
    assert answered == list(seen.reservations)  # each is used or given back
    started = [a.machine.id for a in actions if isinstance(a, Start)]
    assert len(started) == len(set(started))


@pytest.mark.parametrize(
    ("state", "end", "again"),
    [
        ("stopped", Exit(0, -1, False, 2), True),
        ("suspended", None, True),
        ("stopped", Exit(1, -1, False, 2), False),
        ("failed", None, False),
    ],
)
def test_of_a_machine_that_nobody_has_looked_at_before_its_start_a_bad_end_counts_as_its_last(state, end, again):
    ended = machine("a", state, exit_=end)
    young, old = (Boot(MOMENT - age, None, seen=False) for age in (OVERDUE - 0.1, OVERDUE + 0.1))
    seen = snapshot([ended], starts=["a"])
    assert plan(replace(seen, booting={"a": young})) == []  # the list may be older than its start
    assert plan(replace(seen, booting={"a": old})) == [GiveUp("a", ended, again=again)]
    assert plan(replace(snapshot(starts=["a"]), booting={"a": old})) == [GiveUp("a", None, again=True)]
