"""The scripts make the transitions of states.NEXT, and no others; on a real Redis."""

import itertools

import pytest

from flyexecutor.call import Call, ClaimedCall, Outcome
from flyexecutor.lane import Lane
from flyexecutor.states import NEXT, State

LANE = Lane("lane", {}, (), 10, 1, 60.0)
ID = "c1"


def finish(store, state, attempt):
    store.finish("lane", "m1", "iad", [Outcome(ID, attempt, state, "m1", "iad", b"sealed")], 0, concurrency=1)


def claim(store):
    store._redis.hsetnx(store._key("workers", "lane"), "m1", 1)  # as join does; that would do more
    return store.claim("lane", "m1", "iad", [], 1)


def running(attempt):
    return ClaimedCall(ID, attempt, b"")


def expire(store, _attempt):
    store._redis.hset(store._key("call", ID), mapping={"expires": 1, "expired": b"sealed"})
    store._redis.zadd(store._key("due", "lane"), {f"x {ID}": 1})
    store.tend_due("lane")


VERBS = {
    "claim": lambda store, _attempt: claim(store),
    "succeed": lambda store, attempt: finish(store, State.SUCCEEDED, attempt),
    "fail": lambda store, attempt: finish(store, State.FAILED, attempt),
    "killed": lambda store, attempt: finish(store, State.KILLED, attempt),
    "late": lambda store, attempt: finish(store, State.SUCCEEDED, attempt - 1),
    "retry at once": lambda store, attempt: store.retry("lane", running(attempt), 0.0),
    "retry later": lambda store, attempt: store.retry("lane", running(attempt), 60.0),
    "late retry": lambda store, attempt: store.retry("lane", running(attempt - 1), 0.0),
    "hand back": lambda store, attempt: store.hand_back("lane", [running(attempt)]),
    "late hand back": lambda store, attempt: store.hand_back("lane", [running(attempt - 1)]),
    "late outgrow": lambda store, attempt: store.outgrow("lane", "m1", "iad", running(attempt - 1), "too large", b""),
    "outgrow": lambda store, attempt: store.outgrow("lane", "m1", "iad", running(attempt), "too large", b""),
    "cancel": lambda store, _attempt: store.cancel([ID]),
    "order kill": lambda store, _attempt: store.kill(ID),
    "expire": expire,
    "no machine": lambda store, _attempt: store.fail("lane", [(ID, b"sealed")]),
    "no machine elsewhere": lambda store, _attempt: store.fail("other", [(ID, b"sealed")]),
    "lose": lambda store, _attempt: store.join("lane", "m1", first=True),
    "leave": lambda store, _attempt: store.leave("lane", "m1", must=True),
}
LEADS_TO = {
    (State.QUEUED, "claim"): State.RUNNING,
    (State.QUEUED, "cancel"): State.CANCELLED,
    (State.QUEUED, "order kill"): State.CANCELLED,
    (State.QUEUED, "expire"): State.FAILED,
    (State.QUEUED, "no machine"): State.FAILED,
    (State.RUNNING, "succeed"): State.SUCCEEDED,
    (State.RUNNING, "fail"): State.FAILED,
    (State.RUNNING, "killed"): State.KILLED,
    (State.RUNNING, "retry at once"): State.QUEUED,
    (State.RUNNING, "retry later"): State.QUEUED,
    (State.RUNNING, "hand back"): State.QUEUED,
    (State.RUNNING, "outgrow"): State.LOST,
    (State.RUNNING, "lose"): State.QUEUED,
    (State.RUNNING, "leave"): State.QUEUED,
}
WAYS = {
    State.QUEUED: [],
    State.RUNNING: ["claim"],
    State.SUCCEEDED: ["claim", "succeed"],
    State.FAILED: ["no machine"],
    State.CANCELLED: ["cancel"],
    State.LOST: ["claim", "lose", "claim", "lose"],
    State.KILLED: ["claim", "order kill", "lose"],
}


def bring(store, state):
    """A call in this state, with one retry; answers its attempt."""
    store.enqueue(LANE, [Call(ID, b"sealed", 1, True)], client="c", result_ttl=60, reservation="r")
    for verb in WAYS[state]:
        VERBS[verb](store, store.info(ID).attempt)
    assert store.info(ID).state is state
    return store.info(ID).attempt


@pytest.mark.parametrize(("state", "verb"), list(itertools.product(State, VERBS)), ids=str)
def test_each_verb_does_in_each_state_what_the_table_says(store, state, verb):
    attempt = bring(store, state)
    VERBS[verb](store, attempt)
    after = store.info(ID).state
    assert after is LEADS_TO.get((state, verb), state)
    assert after is state or after in NEXT[state]


def test_every_transition_of_the_table_is_made_by_some_verb():
    made = {(before, after) for (before, _), after in LEADS_TO.items()}
    assert made == {(before, after) for before, afters in NEXT.items() for after in afters}


def test_final_states_are_those_without_a_way_out():
    assert {state for state in State if state.final} == set(State) - {State.QUEUED, State.RUNNING}
