import math

import pytest

from flyexecutor.retry import Retry


def test_unless_told_otherwise_an_exception_is_final_and_a_lost_machine_is_not():
    usual = Retry()
    assert (usual.attempts, usual.on, usual.not_on, usual.lost, usual.on_oom) == (1, Exception, (), 2, "fail")
    assert (usual.wait, usual.longest_wait) == (1.0, 60.0)
    assert not usual.wants(ValueError(), 0)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"attempts": 0}, "attempts is 0: it must be an integer of at least 1"),
        ({"attempts": 1.5}, r"attempts is 1\.5: it must be an integer of at least 1"),
        ({"attempts": True}, "attempts is True"),
        ({"lost": -1}, "lost is -1: it must be an integer of at least 0"),
        ({"lost": False}, "lost is False"),
        ({"wait": -0.1}, r"wait is -0\.1: it must be a number of seconds"),
        ({"wait": math.nan}, "wait is nan"),
        ({"wait": "1"}, "wait is '1'"),
        ({"wait": True}, "wait is True"),
        ({"longest_wait": -1}, "longest_wait is -1: it must be a number of seconds"),
        ({"longest_wait": math.nan}, "longest_wait is nan"),
        ({"on_oom": "retry"}, r"on_oom is 'retry': it must be \"fail\" or \"bigger\""),
    ],
)
def test_a_number_that_makes_no_sense_is_refused(given, told):
    with pytest.raises(ValueError, match=f"^{told}"):
        Retry(**given)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"on": "ValueError"}, "on is 'ValueError': it must be an exception type, or a tuple of them"),
        ({"on": int}, "on is <class 'int'>"),
        ({"on": [ValueError]}, "on is "),
        ({"not_on": (ValueError, None)}, r"not_on is \(<class 'ValueError'>, None\)"),
        ({"not_on": ValueError()}, r"not_on is ValueError\(\)"),
    ],
)
def test_what_is_no_exception_type_is_refused(given, told):
    with pytest.raises(TypeError, match=f"^{told}"):
        Retry(**given)


def test_the_least_of_each_number_is_taken():
    none = Retry(attempts=1, lost=0, wait=0, longest_wait=0.0, on_oom="bigger", on=(), not_on=BaseException)
    assert (none.attempts, none.lost, none.wait, none.longest_wait) == (1, 0, 0, 0.0)


@pytest.mark.parametrize(("raised", "again"), [(0, True), (1, True), (2, False)])
def test_a_call_is_begun_so_often_and_no_oftener(raised, again):
    assert Retry(attempts=3).wants(ValueError(), raised) is again


def test_only_the_exceptions_that_are_named_are_retried():
    retry = Retry(attempts=2, on=(LookupError, OSError), not_on=KeyError)
    wanted = [kind.__name__ for kind in (IndexError, OSError, KeyError, ValueError) if retry.wants(kind(), 0)]
    assert wanted == ["IndexError", "OSError"]
    assert not Retry(attempts=2).wants(KeyboardInterrupt(), 0)
