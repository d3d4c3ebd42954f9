"""A lease is held until its time is over or it is given back."""

import pytest

from flyexecutor.local.lease import Lease
from flyexecutor.local.problems import Refused


@pytest.fixture
def clock(monkeypatch):
    class Clock:
        now = 1_000_000.0

    monkeypatch.setattr("flyexecutor.local.lease.time.time", lambda: Clock.now)
    return Clock


def test_a_lease_that_is_over_keeps_nobody_off(clock):
    lease = Lease("machine")
    lease.take(60, "", None)
    first = lease.nonce
    clock.now += 59
    with pytest.raises(Refused, match="held"):
        lease.check(None)
    with pytest.raises(Refused, match="held"):
        lease.take(60, "", None)
    clock.now += 1
    lease.check(None)
    with pytest.raises(Refused, match="not found"):
        lease.release(first)
    lease.take(60, "", first)
    assert lease.nonce != first
    lease.release(lease.nonce)
    assert lease.nonce is None


def test_who_has_the_nonce_makes_a_lease_last_longer(clock):
    lease = Lease("machine")
    lease.take(60, "mine", None)
    nonce = lease.nonce
    clock.now += 30
    lease.take(60, "", nonce)
    clock.now += 59
    assert lease.nonce == nonce
    assert lease.describe("01V")["expires_at"] == 1_000_090
    clock.now += 1
    assert lease.nonce is None
