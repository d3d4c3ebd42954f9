"""The scripts make the transitions of states.NEXT, and no others; on a real Redis."""

import itertools

import pytest

from flyexecutor.call import Call, Outcome
from flyexecutor.lane import Lane
from flyexecutor.states import NEXT, State

LANE = Lane("lane", {}, (), 10, 1, 60.0)
ID = "c1"


def outcome(state, attempt):
    return Outcome(ID, attempt, state, "m1", "iad", b"sealed")


VERBS = {
    "claim": lambda store, _attempt: store.claim("lane", "m1", "iad", [], 1),
    "succeed": lambda store, attempt: store.finish("lane", "m1", "iad", [outcome(State.SUCCEEDED, attempt)], 0),
    "fail": lambda store, attempt: store.finish("lane", "m1", "iad", [outcome(State.FAILED, attempt)], 0),
    "late": lambda store, attempt: store.finish("lane", "m1", "iad", [outcome(State.SUCCEEDED, attempt - 1)], 0),
    "cancel": lambda store, _attempt: store.cancel(ID),
    "no machine": lambda store, _attempt: store.fail([(ID, b"sealed")]),
    "lose": lambda store, _attempt: store.join("lane", "m1", first=True),
    "leave": lambda store, _attempt: store.leave("lane", "m1", must=True),
}
LEADS_TO = {
    (State.QUEUED, "claim"): State.RUNNING,
    (State.QUEUED, "cancel"): State.CANCELLED,
    (State.QUEUED, "no machine"): State.FAILED,
    (State.RUNNING, "succeed"): State.SUCCEEDED,
    (State.RUNNING, "fail"): State.FAILED,
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
}


def bring(store, state):
    """A call in this state, with one retry; answers its attempt."""
    store.enqueue(LANE, [Call(ID, b"sealed", 1, True)], client="c", result_ttl=60, reservation="r")
    for verb in WAYS[state]:
        VERBS[verb](store, store.standing(ID).attempt)
    assert store.standing(ID).state is state
    return store.standing(ID).attempt


@pytest.mark.parametrize(("state", "verb"), list(itertools.product(State, VERBS)), ids=str)
def test_each_verb_does_in_each_state_what_the_table_says(store, state, verb):
    attempt = bring(store, state)
    VERBS[verb](store, attempt)
    after = store.standing(ID).state
    assert after is LEADS_TO.get((state, verb), state)
    assert after is state or after in NEXT[state]


def test_every_transition_of_the_table_is_made_by_some_verb():
    made = {(before, after) for (before, _), after in LEADS_TO.items()} | {(State.RUNNING, State.LOST)}
    assert made == {(before, after) for before, afters in NEXT.items() for after in afters}


def test_final_states_are_those_without_a_way_out():
    assert {state for state in State if state.final} == set(State) - {State.QUEUED, State.RUNNING}
