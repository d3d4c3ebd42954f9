"""Which claimed calls a worker lets run, by their terms."""

import pytest

from flyexecutor.call import ClaimedCall
from flyexecutor.terms import CLOCKS_DIFFER, UNFINISHED_TTL, CallTerms
from flyexecutor.worker import admission
from flyexecutor.worker.admission import Admission

NOW = 1_800_000_000.0
HOUR, DAY = 3600.0, 86400.0


@pytest.fixture
def admit(monkeypatch):
    """The reason for which a worker of this lane refuses a call with such terms; empty if it runs."""
    monkeypatch.setattr("time.time", lambda: NOW)
    one = Admission("lane")

    def ask(attempt=1, losses=0, **terms):
        told = CallTerms(**{"nonce": b"n" * 16, "made_at": NOW, "lanes": ["lane"], **terms})
        refusal = one.refusal(ClaimedCall("c1", attempt, b"", told, losses))
        if refusal is None:
            return ""
        assert str(refusal).startswith("the call payload of call c1 does not belong here: ")
        return str(refusal)

    ask.worker = one
    return ask


def test_a_call_runs_in_its_lanes_only(admit):
    assert admit() == admit(lanes=["other", "lane"]) == ""
    told = "it was made for the lane other or larger, and this machine is of the lane lane; it was not run"
    assert admit(lanes=["other", "larger"]).endswith(told)
    assert "lane" in admit(lanes=["lan", "lanes"])
    assert admit(lanes=[])


@pytest.mark.parametrize("age", [-2 * HOUR, 0.0, UNFINISHED_TTL, UNFINISHED_TTL + CLOCKS_DIFFER])
def test_a_call_that_may_still_be_kept_runs_whatever_the_clocks(admit, age):
    assert admit(made_at=NOW - age) == ""


def test_a_call_whose_life_is_over_is_refused(admit):
    assert "it was made 7.1 days ago by its submitter's clock, and none lives for 7" in admit(made_at=NOW - 7.1 * DAY)


def test_a_call_that_expired_is_refused_unless_it_has_begun_before(admit):
    late = {"made_at": NOW - 20.0 - HOUR - 1, "expires": 20.0}
    assert "it was made 3621 s ago by its submitter's clock, with expires=20" in admit(**late)
    assert admit(attempt=2, **late) == admit(made_at=NOW - 20.0 - HOUR, expires=20.0) == ""
    assert admit(made_at=NOW - DAY) == ""


def test_a_call_that_was_lost_more_often_than_its_submitter_allows_is_refused(admit):
    assert admit(losses=2, retries=2) == ""
    assert "its machine was lost 3 times, and it was made with retries=2" in admit(losses=3, retries=2)


def test_a_call_that_has_ended_here_is_refused_as_long_as_it_is_remembered(admit, monkeypatch):
    monkeypatch.setattr(admission, "REMEMBERED", 3)
    admit.worker.note_ended([b"n" * 16])
    assert "this machine has ended it before" in admit()
    assert admit(nonce=b"m" * 16) == ""
    admit.worker.note_ended([b"1", b"2", b"2"])
    assert admit()
    admit.worker.note_ended([b"3"])
    assert admit() == ""


def test_what_has_ended_is_remembered_as_long_as_it_is_the_same_run_of_redis(admit):
    admit.worker.note_server("run")
    for run, remembered in (("run", True), ("other", False), ("", False), ("", False)):
        admit.worker.note_ended([b"n" * 16])
        admit.worker.note_server(run)
        assert bool(admit()) is remembered


def test_what_can_not_be_read_is_left_to_its_runner():
    assert Admission("lane").refusal(ClaimedCall("c1", 1, b"damaged")) is None
