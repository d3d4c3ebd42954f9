"""What a machine is told by its environment, there and back."""

import pytest

from flyexecutor.environment import (
    Idle,
    MachineEnvironment,
    env_of_one,
    for_calls,
    for_user_code,
    is_machine,
    show_keys,
)
from flyexecutor.errors import SettingsError
from flyexecutor.payload import cipher
from flyexecutor.payload.trust import Trust
from flyexecutor.secrecy import SecretBytes
from flyexecutor.terms import new_terms

FLY = {"FLY_APP_NAME": "app", "FLY_MACHINE_ID": "m1", "FLY_REGION": "fra", "FLY_IMAGE_REF": "image:1"}
RING = (b"k" * 32, b"l" * 32, b"m" * 32)
NEEDED = ["FLY_APP_NAME", "FLY_MACHINE_ID", "FLYEXECUTOR_REDIS_URL", "FLYEXECUTOR_LANE", "FLYEXECUTOR_KEY"]


def environment(**more):
    usual = {
        "app": "app",
        "machine_id": "m1",
        "region": "fra",
        "image": "image:1",
        "redis_url": "redis://:geheim@h:1",
        "keys": tuple(map(SecretBytes, RING)),
        "lane": "lane",
        "encrypt": True,
        "concurrency": 3,
        "idle_timeout": 0.25,
        "max_lifetime": 60.0,
        "warmup": SecretBytes(b"sealed\xff"),
        "idle": Idle.SUSPEND,
        "scheduled": '{"name": "nightly"}',
    }
    return MachineEnvironment(**{**usual, **more})


@pytest.mark.parametrize(
    "more", [{}, {"idle": Idle.END, "scheduled": ""}, {"encrypt": False, "warmup": b"", "keys": RING[:1]}]
)
def test_a_machine_reads_what_its_creator_has_said_and_what_fly_says(more):
    said = environment(**more)
    assert MachineEnvironment.from_env({**said.to_env(), **FLY}) == said


def test_what_fly_says_is_not_said_for_it():
    assert not set(environment().to_env()) & set(FLY)


def test_what_a_machine_is_told_alone_is_told_on_top_of_what_all_of_its_lane_are():
    undecided = environment(idle=None, scheduled="").to_env()
    assert not set(undecided) & set(env_of_one(Idle.SUSPEND, "x"))
    for said in ({"idle": Idle.STOP}, {"idle": Idle.SUSPEND, "scheduled": "{}"}):
        machine = MachineEnvironment.from_env({**undecided, **env_of_one(**said), **FLY})
        assert machine == environment(**{"scheduled": "", **said})


@pytest.mark.parametrize("name", NEEDED)
def test_what_is_missing_is_named(name):
    whole = {**environment().to_env(), **FLY}
    assert is_machine(whole)
    for lacking in ({**whole, name: ""}, {key: value for key, value in whole.items() if key != name}):
        assert not is_machine(lacking)
        with pytest.raises(SettingsError, match=f"^{name} not set$"):
            MachineEnvironment.from_env(lacking)
    with pytest.raises(SettingsError, match=f"^{', '.join(NEEDED)} not set$"):
        MachineEnvironment.from_env({})


def test_a_runner_is_told_what_calls_need_and_user_code_nothing():
    whole = {**environment().to_env(), **FLY, "OTHER": "1"}
    told, inherited = for_calls(whole), for_user_code(whole)
    assert inherited == {**FLY, "OTHER": "1"}
    machine = MachineEnvironment.from_env({**told, **inherited})
    assert (machine.redis_url, machine.keys, machine.lane, machine.encrypt) == (
        "redis://:geheim@h:1",
        RING,
        "lane",
        True,
    )
    assert (machine.warmup, machine.scheduled, machine.idle) == (b"", "", None)


def test_a_ring_reaches_a_machine_in_its_order():
    assert show_keys(RING[:1]) == {"FLYEXECUTOR_KEY": RING[0].hex()}
    machine = MachineEnvironment.from_env({**environment(encrypt=False).to_env(), **FLY})
    assert machine.keys == RING
    trust, terms = machine.make_trust(), new_terms((), result_ttl=60.0)
    assert trust.seal_call("id", terms, b"") == Trust(RING[0], "app").seal_call("id", terms, b"")
    assert trust.knows(Trust(RING[2], "app").new_call_id())


def test_a_machine_encrypts_if_it_is_told_to_and_can(monkeypatch):
    whole, terms = {**environment().to_env(), **FLY}, new_terms((), result_ttl=60.0)

    def sealed(**more):
        return MachineEnvironment.from_env({**whole, **more}).make_trust().seal_call("id", terms, b"a body")

    assert b"a body" not in sealed()
    assert b"a body" in sealed(FLYEXECUTOR_ENCRYPT="0")
    monkeypatch.setattr(cipher, "is_installed", lambda: False)
    assert b"a body" in sealed()


def test_nothing_secret_is_shown():
    said = environment(redis_url="redis://:geheim@h:1", scheduled="sealed-call")
    whole = {**said.to_env(), **FLY}
    shown = (
        repr(said.to_env()) + repr(MachineEnvironment.from_env(whole)) + repr(env_of_one(Idle.SUSPEND, "sealed-call"))
    )
    for secret in ("geheim", RING[0].hex(), RING[1].hex(), repr(RING[0]), "sealed", "c2VhbGVk"):
        assert secret not in shown
