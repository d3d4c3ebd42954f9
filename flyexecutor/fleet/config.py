"""What a machine of ours is told at its creation: Fly's `config`, as plain data. Owns nothing.

Calls that need the same configuration share a lane. Machines of a lane differ in one thing: a keeper goes to rest when
it has nothing to do, another destroys itself. That is decided at its creation: nobody may be there to do it later.
"""

import hashlib
import hmac
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from flyexecutor.arguments import (
    check_given,
    check_integers,
    check_numbers,
    check_texts,
    read_env,
    read_regions,
    read_volume,
)
from flyexecutor.environment import Idle, MachineEnvironment, env_of_one
from flyexecutor.fleet import guests
from flyexecutor.fleet.machine import FAMILY_KEY, KEEPER_KEY, LAUNCH_KEY, METADATA_KEY, OWNER_KEY, PREPARED_KEY
from flyexecutor.lane import Lane, name_lane
from flyexecutor.secrecy import redact
from flyexecutor.settings import Settings

STOP_TIMEOUT = 30  # seconds that a stopped machine's worker has to hand back what it runs (Fly: stop_config.timeout)
RESTARTS = 3  # of a machine whose worker died, by Fly and without us
IDLE_SUSPENDED = 0.25  # seconds: waking up takes about as long (benchmarks/fleet.py has what longer ones cost)
IDLE_STOPPED = 10.0  # seconds: a cold boot costs seconds


@dataclass(frozen=True, slots=True)
class MachineSpec:
    """What calls need of their machines, as `FlyMachineExecutor` and `with_options` take it."""

    image: str
    guest: Mapping[str, Any] | None  # None: Fly's default
    env: Mapping[str, str]
    regions: Sequence[str]
    concurrency: int
    idle_timeout: float | None
    boot_timeout: float
    max_lifetime: float
    warm: int
    volume: tuple[str, str] | None  # name, path
    warmup: tuple[str, bytes] | None  # what it is called, sealed
    suspend_mb: int = guests.SUSPEND_MB

    def __post_init__(self) -> None:
        check_integers(1, concurrency=self.concurrency)
        check_integers(0, warm=self.warm)
        guests.check_suspend_mb(self.suspend_mb)
        check_numbers(0, idle_timeout=self.idle_timeout)
        check_given(1, boot_timeout=self.boot_timeout, max_lifetime=self.max_lifetime)


def read_needs(
    *,
    image: str | None,
    guest: "guests.GuestName | Mapping[str, Any] | None",
    env: Mapping[str, str] | None,
    regions: Sequence[str] | None,
    volume: tuple[str, str] | None,
) -> dict[str, Any]:
    """What of these `with_options` is given, as fields of a MachineSpec. Raises SettingsError."""
    check_texts(image=image)
    needs = {
        "image": image,
        "guest": guests.read_guest(guest),
        "env": None if env is None else read_env(env),
        "regions": None if regions is None else read_regions(regions),
        "volume": read_volume(volume),
    }
    return {name: value for name, value in needs.items() if value is not None}


def make_lane(spec: MachineSpec, settings: Settings, max_workers: int) -> Lane:
    """The lane of this specification; its `config` is that of a machine that is no keeper yet."""
    # One for each key that signs somewhere: a machine reads the queue of its lane alone, and its outcomes are signed
    # with the key that the clients of that lane have for certain.
    keys = (settings.key, *settings.fallbacks)
    own, *others = (
        _make_lane(
            spec, replace(settings, key=key, fallbacks=tuple(other for other in keys if other != key)), max_workers
        )
        for key in keys
    )
    return replace(own, others=tuple(others))


def _make_lane(spec: MachineSpec, settings: Settings, max_workers: int) -> Lane:
    suspends = guests.can_suspend(guests.guest_of({"guest": spec.guest}), spec.suspend_mb)
    idle_timeout = (IDLE_SUSPENDED if suspends else IDLE_STOPPED) if spec.idle_timeout is None else spec.idle_timeout
    environment = MachineEnvironment(
        app=settings.app,
        machine_id="",
        region="",
        image=spec.image,
        redis_url=settings.redis_url,
        keys=(settings.key,),
        lane="",
        encrypt=settings.encrypt,
        concurrency=spec.concurrency,
        idle_timeout=idle_timeout,
        max_lifetime=spec.max_lifetime,
    )
    config: dict[str, Any] = {
        "image": spec.image,
        "env": {**spec.env, **environment.to_env()},
        "restart": {"policy": "on-failure", "max_retries": RESTARTS},
        "stop_config": {"signal": "SIGTERM", "timeout": f"{STOP_TIMEOUT}s"},
        "init": {"exec": ["python", "-m", "flyexecutor.worker"]},
    }
    if spec.guest:
        config["guest"] = dict(spec.guest)
    if spec.volume:
        config["mounts"] = [{"volume": spec.volume[0], "path": spec.volume[1]}]
    # Not the pickle: it is not the same in two processes.
    apart = {"warmup": spec.warmup[0] if spec.warmup else "", "suspends": suspends}
    name = name_lane({**config, **apart}, settings.key)
    # The fallbacks are no part of the name: who has one more still uses the same machines.
    environment = replace(
        environment,
        keys=(settings.key, *settings.fallbacks),
        lane=name,
        warmup=spec.warmup[1] if spec.warmup else b"",
    )
    family = _family(replace(spec, idle_timeout=idle_timeout), suspends, settings.key)
    metadata = {METADATA_KEY: name, FAMILY_KEY: family, OWNER_KEY: owners_of(settings)[0]}
    return Lane(
        name=name,
        config={**config, "env": {**spec.env, **environment.to_env()}, "metadata": metadata},
        regions=tuple(spec.regions),
        max_workers=max_workers,
        concurrency=spec.concurrency,
        boot_timeout=spec.boot_timeout,
        warm=spec.warm,
        suspends=suspends,
        load_window=load_window(idle_timeout),
    )


def load_window(idle_timeout: float) -> float:
    """Seconds for which a lane's load is remembered: half as long as a worker waits (benchmarks/fleet.py)."""
    return max(idle_timeout / 2, 0.1)


def config_of_machine(
    lane: Lane,
    *,
    keeper: bool,
    volume_id: str | None,
    rests: bool = True,
    prepared: bool = False,
    launch: bool = True,
    scheduled: str = "",
) -> dict[str, Any]:
    """The `config` of one machine of the lane.

    rests: a keeper rests when it has nothing to do, for whoever starts it next. prepared, launch: what its metadata
    tells whoever sees it (machine.py). scheduled: the call that it submits when it starts (schedules.py).
    """
    config = dict(lane.config)
    if volume_id:
        config["mounts"] = [{**config["mounts"][0], "volume": volume_id}]
    resting = Idle.SUSPEND if lane.suspends else Idle.STOP
    config["env"] = {**config["env"], **env_of_one(resting if keeper and rests else Idle.END, scheduled)}
    config["metadata"] = {**config["metadata"], KEEPER_KEY: str(int(keeper))}
    if prepared:
        config["metadata"][PREPARED_KEY] = "1"
    if not launch:
        config["metadata"][LAUNCH_KEY] = "0"
    config["auto_destroy"] = not keeper
    return config


def owners_of(settings: Settings) -> Sequence[str]:
    """Whose machines are ours: of all who share app, Redis and a key of the ring; first that of the key that signs."""
    owner = f"owner\0{settings.app}\0{redact(settings.redis_url)}".encode()
    keys = (settings.key, *settings.fallbacks)
    return [hmac.new(key, owner, hashlib.sha256).hexdigest()[:16] for key in keys]


def _family(spec: MachineSpec, suspends: bool, key: bytes) -> str:
    """Names what stays the same over deploys: all that a lane is made of, but for the tag and digest of its image.

    Other environments are other families: their machines do different things, and none is the other's earlier deploy.
    """
    folder, slash, name = spec.image.partition("@")[0].rpartition("/")
    family = {
        "image": folder + slash + name.partition(":")[0],  # a registry has a port, with a colon too
        "guest": spec.guest and dict(spec.guest),
        "env": dict(spec.env),
        "concurrency": spec.concurrency,
        "idle_timeout": spec.idle_timeout,
        "max_lifetime": spec.max_lifetime,
        "suspends": suspends,
        "volume": spec.volume,
        "warmup": spec.warmup and spec.warmup[0],
    }
    return hmac.new(key, b"family\0" + json.dumps(family, sort_keys=True).encode(), hashlib.sha256).hexdigest()[:16]
