"""The scripts make the transitions of states.NEXT, and no others, and their heads say which; on a real Redis."""

import itertools
import re
from pathlib import Path

import pytest

from flyexecutor.call import Call, ClaimedCall, Outcome
from flyexecutor.lane import Lane
from flyexecutor.states import NEXT, State
from flyexecutor.store import scripts
from flyexecutor.store.calls import Intake

LANE = Lane("lane", {}, (), 10, 1, 60.0)
ID = "c1"
NOWHERE = "(no such call)"
SCRIPTS = sorted(file.stem for file in (Path(scripts.__file__).parent / "lua").glob("*.lua") if file.stem[:4] != "lib_")


# What is done to a call, by the script that does it


ONE, NONE = Intake(1, 0, 1, ""), Intake(0, 0, 1, "")


def finish(store, state, attempt, intake=NONE):
    outcomes = [Outcome(ID, attempt, state, "m1", "iad", b"sealed")] if attempt else []
    store.finish("lane", "m1", "iad", outcomes, intake)


def work(store):
    store._redis.hsetnx(store._key("workers", "lane"), "m1", 1)  # as join does; that would do more


def claim(store):
    work(store)
    store.claim("lane", "m1", "iad", ONE)


def take_place(store):
    """A worker has nothing to do."""
    if state(store) is NOWHERE:
        store.join("lane", "m1", first=True)
        store.claim("lane", "m1", "iad", Intake(0, 1, 1, ""))


def hang(store):
    """Its worker has not read it for a while."""
    work(store)
    if state(store) is State.RUNNING:
        store._redis.xadd(store._key("inbox", "m1"), {"call": f"{ID} {store.info(ID).attempt} - 0 0 "}, id="1-1")


def running(attempt):
    return ClaimedCall(ID, attempt, b"")


def hand_back(store, attempt):
    store.hand_back("lane", "m1", [running(attempt)])


def outgrow(store, attempt):
    store.outgrow("lane", "m1", "iad", running(attempt), "too large", b"")


def look(store):
    store._redis.hdel(store._key("workers", "lane"), "m1")
    store.look(LANE, "look")


def bury(store, oom=False):
    work(store)
    joined = store._redis.hget(store._key("workers", "lane"), "m1").decode()
    store.bury(LANE, "m1", joined, "gone", oom=oom)


def lose_queue(store, *, worker_too):
    store._redis.delete(store._key("queue", "lane"))
    if worker_too:
        store._redis.hdel(store._key("workers", "lane"), "m1")
    store.standing([ID])


# What is so before


def write(store, **fields):
    if state(store) is not NOWHERE:
        store._redis.hset(store._key("call", ID), mapping=fields)


def ordered(store):
    """Somebody wants it killed, and its worker has not read that yet."""
    if state(store) is State.RUNNING:
        store.kill(ID)


def spent(store):
    write(store, losses=1)


def damaged(field):
    return lambda store: write(store, **{field: "x"})


def overdue(store):
    if state(store) is State.QUEUED:  # a claim takes it off
        write(store, expires=1, expired=b"sealed")


def due(store):
    """It is overdue, and its lane knows."""
    overdue(store)
    if state(store) is State.QUEUED:
        store._redis.zadd(store._key("due", "lane"), {f"x {ID}": 1})


VERBS = {
    "enqueue": ("enqueue", lambda store, _attempt: enqueue(store)),
    "enqueue by another": ("enqueue", lambda store, _attempt: enqueue(store, client="other")),
    "enqueue, with a place": ("enqueue", lambda store, _attempt: (take_place(store), enqueue(store, client="other"))),
    "claim": ("claim", lambda store, _attempt: claim(store)),
    "claim what is overdue": ("claim", lambda store, _attempt: (overdue(store), claim(store))),
    "succeed": ("finish", lambda store, attempt: finish(store, State.SUCCEEDED, attempt)),
    "fail": ("finish", lambda store, attempt: finish(store, State.FAILED, attempt)),
    "killed": ("finish", lambda store, attempt: finish(store, State.KILLED, attempt)),
    "late": ("finish", lambda store, attempt: finish(store, State.SUCCEEDED, attempt - 1)),
    "next": ("finish", lambda store, _attempt: (work(store), finish(store, State.SUCCEEDED, 0, ONE))),
    "next is overdue": (
        "finish",
        lambda store, _attempt: (work(store), overdue(store), finish(store, State.SUCCEEDED, 0, ONE)),
    ),
    "retry at once": ("retry", lambda store, attempt: store.retry("lane", running(attempt), 0.0)),
    "retry later": ("retry", lambda store, attempt: store.retry("lane", running(attempt), 60.0)),
    "late retry": ("retry", lambda store, attempt: store.retry("lane", running(attempt - 1), 0.0)),
    "retry what is to be killed": (
        "retry",
        lambda store, attempt: (ordered(store), store.retry("lane", running(attempt), 60.0)),
    ),
    "retry damaged": (
        "retry",
        lambda store, attempt: (damaged("raised")(store), store.retry("lane", running(attempt), 0.0)),
    ),
    "hand back": ("hand_back", hand_back),
    "late hand back": ("hand_back", lambda store, attempt: hand_back(store, attempt - 1)),
    "hand back what is to be killed": (
        "hand_back",
        lambda store, attempt: (ordered(store), hand_back(store, attempt)),
    ),
    "late outgrow": ("outgrow", lambda store, attempt: outgrow(store, attempt - 1)),
    "outgrow": ("outgrow", outgrow),
    "outgrow, larger": ("outgrow", lambda store, attempt: (write(store, bigger="larger"), outgrow(store, attempt))),
    "outgrow, to be killed": ("outgrow", lambda store, attempt: (ordered(store), outgrow(store, attempt))),
    "cancel": ("cancel", lambda store, _attempt: store.cancel([ID])),
    "order kill": ("kill", lambda store, _attempt: store.kill(ID)),
    "expire": ("due", lambda store, _attempt: (due(store), store.tend_due("lane"))),
    "no machine": ("fail", lambda store, _attempt: store.fail("lane", [(ID, b"sealed")])),
    "no machine elsewhere": ("fail", lambda store, _attempt: store.fail("other", [(ID, b"sealed")])),
    "join again": ("join", lambda store, _attempt: store.join("lane", "m1", first=False)),
    "join again, holds it": ("join", lambda store, _attempt: store.join("lane", "m1", first=False, held=[ID])),
    "join, overdue": ("join", lambda store, _attempt: (due(store), store.join("lane", "m1", first=False, held=[ID]))),
    "leave": ("leave", lambda store, _attempt: store.leave("lane", "m1", must=True)),
    "leave, overdue": ("leave", lambda store, _attempt: (due(store), store.leave("lane", "m1", must=False))),
    "look, overdue": ("reserve", lambda store, _attempt: (work(store), due(store), store.look(LANE, "look"))),
    "look at one that hangs": ("reserve", lambda store, _attempt: (hang(store), store.look(LANE, "look"))),
    "look at one that hangs, spent": (
        "reserve",
        lambda store, _attempt: (spent(store), hang(store), store.look(LANE, "look")),
    ),
    "look at a worker": ("reserve", lambda store, _attempt: (work(store), store.look(LANE, "look"))),
    "bury, joined since": (
        "bury",
        lambda store, _attempt: (work(store), store.bury(LANE, "m1", "0", "gone", oom=False)),
    ),
    "bury out of memory": ("bury", lambda store, _attempt: bury(store, oom=True)),
    "lose the queue": ("standing", lambda store, _attempt: lose_queue(store, worker_too=False)),
    "lose queue and worker": ("standing", lambda store, _attempt: lose_queue(store, worker_too=True)),
}
LOSING = {  # each takes a call from a machine that died
    "join": lambda store: store.join("lane", "m1", first=True),
    "leave for a reason": lambda store: store.leave("lane", "m1", must=True, reason="broken"),
    "bury": bury,
    "look": look,
}
LOSERS = {"join": "join", "leave for a reason": "leave", "bury": "bury", "look": "reserve"}
BEFORE = {
    "": (work, State.QUEUED),
    ", spent": (spent, State.LOST),
    ", to be killed": (ordered, State.KILLED),
    ", damaged": (damaged("losses"), State.FAILED),
}
LEADS_TO = {
    (NOWHERE, "enqueue"): State.QUEUED,
    (NOWHERE, "enqueue by another"): State.QUEUED,
    (NOWHERE, "enqueue, with a place"): State.RUNNING,
    (State.QUEUED, "claim"): State.RUNNING,
    (State.QUEUED, "claim what is overdue"): State.FAILED,
    (State.QUEUED, "cancel"): State.CANCELLED,
    (State.QUEUED, "order kill"): State.CANCELLED,
    (State.QUEUED, "expire"): State.FAILED,
    (State.QUEUED, "no machine"): State.FAILED,
    (State.RUNNING, "succeed"): State.SUCCEEDED,
    (State.RUNNING, "fail"): State.FAILED,
    (State.RUNNING, "killed"): State.KILLED,
    (State.QUEUED, "next"): State.RUNNING,
    (State.QUEUED, "next is overdue"): State.FAILED,
    (State.RUNNING, "retry at once"): State.QUEUED,
    (State.RUNNING, "retry later"): State.QUEUED,
    (State.RUNNING, "retry what is to be killed"): State.KILLED,
    (State.RUNNING, "retry damaged"): State.FAILED,
    (State.RUNNING, "hand back"): State.QUEUED,
    (State.RUNNING, "hand back what is to be killed"): State.KILLED,
    (State.RUNNING, "outgrow"): State.LOST,
    (State.RUNNING, "outgrow, larger"): State.QUEUED,
    (State.RUNNING, "outgrow, to be killed"): State.KILLED,
    (State.RUNNING, "join again"): State.QUEUED,
    (State.QUEUED, "join, overdue"): State.FAILED,
    (State.RUNNING, "leave"): State.QUEUED,
    (State.RUNNING, "leave, overdue"): State.QUEUED,
    (State.QUEUED, "leave, overdue"): State.FAILED,
    (State.QUEUED, "look, overdue"): State.FAILED,
    (State.RUNNING, "look at one that hangs"): State.QUEUED,
    (State.RUNNING, "bury out of memory"): State.LOST,
    (State.RUNNING, "lose queue and worker"): State.QUEUED,
}
for loser, how in itertools.product(LOSING, BEFORE):
    (prepare, after), lose = BEFORE[how], LOSING[loser]
    VERBS[loser + how] = (
        LOSERS[loser],
        lambda store, _attempt, prepare=prepare, lose=lose: (prepare(store), lose(store)),
    )
    LEADS_TO[State.RUNNING, loser + how] = after
WAYS = {
    State.QUEUED: [],
    State.RUNNING: ["claim"],
    State.SUCCEEDED: ["claim", "succeed"],
    State.FAILED: ["no machine"],
    State.CANCELLED: ["cancel"],
    State.LOST: ["claim", "join", "claim", "join"],
    State.KILLED: ["claim", "join, to be killed"],
}


def enqueue(store, client="c"):
    store.enqueue(
        LANE, [Call(ID, b"sealed", 1, True, keyed=True)], client=client, result_ttl=60, reservation=f"{client}.1"
    )


def state(store):
    return info.state if (info := store.info(ID)) else NOWHERE


def bring(store, before):
    """A call in this state, with one retry; answers its attempt."""
    if before is NOWHERE:
        return 1
    for verb in ["enqueue", *WAYS[before]]:
        attempt = info.attempt if (info := store.info(ID)) else 0
        VERBS[verb][1](store, attempt)
    assert state(store) is before
    return store.info(ID).attempt


@pytest.mark.parametrize(("before", "verb"), list(itertools.product((NOWHERE, *State), VERBS)), ids=str)
def test_each_verb_does_in_each_state_what_the_table_says(store, before, verb):
    attempt = bring(store, before)
    VERBS[verb][1](store, attempt)
    after = state(store)
    assert after is LEADS_TO.get((before, verb), before)
    assert after is before or before is NOWHERE or after in NEXT[before]


def test_every_transition_of_the_table_is_made_by_some_verb():
    made = {(before, after) for (before, _), after in LEADS_TO.items() if before is not NOWHERE}
    assert made == {(before, after) for before, afters in NEXT.items() for after in afters}


def transitions_in_head(name):
    """Those that a script says it makes, "QUEUED | RUNNING -> FAILED"; that a state stays counts for none."""
    lines = itertools.takewhile(lambda line: line.startswith("--"), scripts.read(name).splitlines())
    head = " ".join(line.removeprefix("-- ") for line in lines)
    found = set()
    for befores, afters in re.findall(r"(\(no such call\)|[A-Z]+(?: \| [A-Z]+)*) -> ([A-Z]+(?: \| [A-Z]+)*)", head):
        for before, after in itertools.product(befores.split(" | "), afters.split(" | ")):
            found.add((before if before == NOWHERE else State(before), State(after)))
    return {(before, after) for before, after in found if before != after}


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_head_of_a_script_names_the_transitions_that_it_makes_and_no_others(name):
    made = {(before, after) for (before, verb), after in LEADS_TO.items() if VERBS[verb][0] == name}
    assert transitions_in_head(name) == made


def test_final_states_are_those_without_a_way_out():
    assert {state for state in State if state.final} == set(State) - {State.QUEUED, State.RUNNING}
