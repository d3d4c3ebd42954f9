"""Level 3: what a machine of ours is told at its creation: Fly's `config`, as plain data. Owns nothing."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from flyexecutor.lane import METADATA_KEY, Lane, name_lane
from flyexecutor.settings import LANE_VARIABLE, Settings
from flyexecutor.trust import KEY_VARIABLE, Trust

STOP_TIMEOUT = 30  # seconds that a stopped machine's worker has to hand back what it runs (Fly: stop_config.timeout)
RESTARTS = 3  # of a machine whose worker died, by Fly and without us


def machine_config(
    settings: Settings,
    trust: Trust,
    *,
    guest: Mapping[str, Any] | None,
    env: Mapping[str, str] | None,
    concurrency: int,
    idle_timeout: float,
) -> dict[str, Any]:
    """Fly's `config` for a machine of ours; it names its lane, in its metadata and to its worker."""
    config: dict[str, Any] = {
        "image": settings.image,
        "env": {
            **(env or {}),
            "REDIS_URL": settings.redis_url,
            KEY_VARIABLE: trust.exported,
            "FLYEXECUTOR_CONCURRENCY": str(concurrency),
            "FLYEXECUTOR_IDLE_TIMEOUT": str(idle_timeout),
        },
        "restart": {"policy": "on-failure", "max_retries": RESTARTS},
        "stop_config": {"signal": "SIGTERM", "timeout": f"{STOP_TIMEOUT}s"},
        "init": {"exec": ["python", "-m", "flyexecutor.worker"]},
    }
    if guest:
        config["guest"] = dict(guest)
    return _with_lane(config, settings.key)


def _with_lane(config: dict[str, Any], key: bytes) -> dict[str, Any]:
    lane = name_lane(config, key)
    return {**config, "env": {**config["env"], LANE_VARIABLE: lane}, "metadata": {METADATA_KEY: lane}}


def with_guest(lane: Lane, guest: Mapping[str, Any], key: bytes) -> Lane:
    """The lane of machines that are the same but for their guest."""
    env = {name: value for name, value in lane.config["env"].items() if name != LANE_VARIABLE}
    config = {name: value for name, value in lane.config.items() if name != "metadata"}
    config = _with_lane({**config, "env": env, "guest": dict(guest)}, key)
    return replace(lane, name=config["metadata"][METADATA_KEY], config=config)
