"""Which local Fly an executor uses, and what becomes of it. None is started: `LocalFly` is a test's."""

import pytest

from flyexecutor import SettingsError
from flyexecutor.client import local_fly
from flyexecutor.client.local_fly import UsedLocal
from flyexecutor.local import LocalError


class FakeLocalFly:
    def __init__(self, name=None, keep=None):
        if name == "taken":
            raise LocalError("somebody has it")
        self.name, self.keep, self.closed = name, keep, 0

    def environ(self):
        return {"FLY_TASKS_APP": f"app of {self.name}"}

    def close(self):
        self.closed += 1


@pytest.fixture(autouse=True)
def fake(monkeypatch):
    monkeypatch.setattr(local_fly, "LocalFly", FakeLocalFly)


@pytest.mark.parametrize("local", [None, False])
def test_without_one_the_environment_says_where_all_is(local):
    used = UsedLocal.find(local)
    assert (used.fly, used.environ, used.name, used.is_own, used.remedy) == (None, None, None, False, "")
    used.close()


def test_a_private_one_is_started_ends_with_the_executor_and_is_known_to_nobody_else():
    used = UsedLocal.find(True)
    assert (used.environ, used.name, used.is_own) == ({"FLY_TASKS_APP": "app of None"}, None, True)
    assert "used by this process alone" in used.remedy
    used.close()
    assert used.fly.closed == 1


def test_one_with_a_name_is_left_when_the_executor_ends_and_does_not_end_with_it():
    used = UsedLocal.find("ours")
    assert (used.name, used.is_own) == ("ours", False)
    assert "unless it is a LocalFly(name='ours', keep=\"folder\")" in used.remedy
    used.close()
    assert used.fly.closed == 1


def test_one_that_was_given_stays_open():
    given = FakeLocalFly("kept", keep="folder")
    used = UsedLocal.find(given)
    assert (used.fly, used.name, used.is_own, used.remedy) == (given, "kept", False, "")
    used.close()
    assert given.closed == 0


def test_what_was_started_is_closed_if_the_executor_can_not_be_made_and_else_not():
    used = UsedLocal.find(True)
    with used.closed_on_error():
        pass
    assert used.fly.closed == 0
    with pytest.raises(KeyboardInterrupt), used.closed_on_error():
        raise KeyboardInterrupt
    assert used.fly.closed == 1


def test_what_is_none_and_what_can_not_be_started_is_told():
    with pytest.raises(SettingsError, match=r"^local is 1: it must be True, a name, or a LocalFly$"):
        UsedLocal.find(1)
    with pytest.raises(SettingsError, match=r"^local='taken' is not possible here: somebody has it$"):
        UsedLocal.find("taken")
