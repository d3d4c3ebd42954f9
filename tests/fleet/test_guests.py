"""Guests by Fly's names, what may be suspended, and what they cost."""

import pytest

from flyexecutor.errors import SettingsError
from flyexecutor.fleet.guests import PRESETS, Prices, can_suspend, guest_of, larger_guests, name_guest, read_guest

MONTH = 30 * 86400


def test_a_name_is_flys_guest():
    assert read_guest("shared-cpu-4x") == {"cpu_kind": "shared", "cpus": 4, "memory_mb": 1024}
    assert read_guest("performance-16x") == {"cpu_kind": "performance", "cpus": 16, "memory_mb": 32768}
    assert read_guest(None) is None


def test_a_guest_in_flys_words_is_completed():
    assert read_guest({"cpus": 2}) == {"cpu_kind": "shared", "cpus": 2, "memory_mb": 512}
    assert read_guest({"memory_mb": 1024}) == {"cpu_kind": "shared", "cpus": 1, "memory_mb": 1024}


@pytest.mark.parametrize("guest", ["huge", 7, {"memory_mb": 1000}])
def test_another_guest_is_refused(guest):
    with pytest.raises(SettingsError, match="guest"):
        read_guest(guest)


@pytest.mark.parametrize("name", PRESETS)
def test_each_preset_has_its_name_again(name):
    assert name_guest(PRESETS[name]) == name


def test_more_memory_than_a_preset_has_is_told():
    assert name_guest({"cpu_kind": "shared", "cpus": 1, "memory_mb": 512}) == "shared-cpu-1x, 512 MB"


@pytest.mark.parametrize(
    ("guest", "suspends"),
    [("shared-cpu-1x", True), ("shared-cpu-8x", True), ("performance-1x", True), ("performance-2x", False)],
)
def test_what_has_up_to_two_gigabytes_may_be_suspended(guest, suspends):
    assert can_suspend(PRESETS[guest]) is suspends
    assert can_suspend(PRESETS[guest], 4096)


@pytest.mark.parametrize(
    "guest", ["a10", "l40s", "a100-40gb", "a100-80gb", {"gpu_kind": "a10"}, {"cpus": 8, "gpus": 1}]
)
def test_gpus_are_refused_since_fly_has_retired_them(guest):
    with pytest.raises(SettingsError, match="Fly has retired GPUs: it must be one of shared-cpu-1x, ") as told:
        read_guest(guest)
    assert repr(guest) in str(told.value)


def test_larger_guests_double_up_to_what_fly_offers():
    sizes = [guest["memory_mb"] for guest in larger_guests(guest_of({}))]
    assert sizes == [512, 1024, 2048]
    assert larger_guests({"cpu_kind": "shared", "cpus": 1, "memory_mb": 2048}) == []


def test_a_price_is_for_a_second_and_has_the_mark_up_of_its_region():
    prices = Prices(shared_cpu=2.0, performance_cpu=30.0, gigabyte=5.0, regions={"gru": 1.5})
    assert prices.per_second(PRESETS["shared-cpu-2x"]) * MONTH == pytest.approx(4.0)
    assert prices.per_second({"cpu_kind": "shared", "cpus": 1, "memory_mb": 1280}) * MONTH == pytest.approx(7.0)
    assert prices.per_second(PRESETS["performance-1x"], "gru") * MONTH == pytest.approx(45.0)


def test_what_is_not_known_has_no_price():
    assert Prices().per_second({"cpu_kind": "quantum", "cpus": 1, "memory_mb": 256}) is None
