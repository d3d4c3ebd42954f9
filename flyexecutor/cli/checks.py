"""What `doctor` looks at, each thing for itself: one that is wrong does not hide another.

Changes nothing but what one call changes, on a machine of its own that destroys itself afterwards. What it tells holds
no token, password or key: addresses come from `redact`, the rest from our own messages.
"""

import contextlib
import os
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass
from typing import Any

from flyexecutor.cli import probe
from flyexecutor.cli.common import Where, plain, seconds
from flyexecutor.errors import MachinesError, PythonMismatchError, RedisUnavailableError, SettingsError
from flyexecutor.executor import FlyMachineExecutor
from flyexecutor.fleet.api import ATTEMPTS, MachinesClient
from flyexecutor.fleet.lists import LIST_BURST, LIST_EVERY
from flyexecutor.fleet.machine import Machine
from flyexecutor.secrecy import goes_in_clear
from flyexecutor.settings import PUBLIC_API, read_settings
from flyexecutor.store.calls import Store
from flyexecutor.store.listing import Server

CLOCKS_MAY_DIFFER = 2.0  # seconds
OLDEST_REDIS = (6, 2)
TRIAL_SECONDS = 300.0  # Fly: "Trial machine stopping. To run for longer than 5m0s, add a credit card", in its logs
STOPS_WITHIN = 10.0  # seconds; 302 were seen
NO_MACHINE = "00000000000000"  # well-formed, and nobody's: an action on it changes nothing, whoever may act or not
ANSWER_PATIENCE = 30.0  # seconds beyond `boot_timeout`, after which the fleet tells what is wrong
_FILLERS = {"app": "-", "token": "-", "redis_url": "redis://-", "api_url": "http://-", "image": "-"}


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at."""

    name: str
    ok: bool | None  # None: could not be looked at, since something before it failed
    detail: str
    remedy: str = ""  # if it is ok: it works, and yet something should be done


def examine(where: Where, *, call: bool, boot_timeout: float) -> Iterator[Check]:
    """All checks, each as soon as it is made."""
    settings = {
        "app": where.app or os.environ.get("FLY_TASKS_APP"),
        "token": os.environ.get("FLY_API_TOKEN"),
        "redis_url": where.redis_url or os.environ.get("REDIS_URL"),
        "api_url": os.environ.get("FLY_API_HOSTNAME") or PUBLIC_API,
    }
    given = {name: value for name, value in settings.items() if value and _is_good(name, value)}
    checks = (check_settings(where), check_image())
    yield from checks
    bad = [check.name for check in checks if not check.ok]
    for check in (*check_redis(given), *check_fly(given, region=os.environ.get("FLY_REGION", ""))):
        yield check
        bad += [check.name] if check.ok is False else []
    if call and bad:
        yield Check("call", None, f"not made, since it can't work: {', '.join(bad)}")
    elif call:
        yield from check_call(where, boot_timeout)


def _is_good(name: str, value: str) -> bool:
    settings: dict[str, Any] = {**_FILLERS, name: value}
    try:
        read_settings(**settings, environ={})
    except SettingsError:
        return False
    return True


def check_settings(where: Where) -> Check:
    """Whether an executor could be made."""
    try:
        settings = where.settings(image=True)
    except SettingsError as exc:
        return Check("settings", False, str(exc), "set what is missing or wrong, on Fly with fly secrets set")
    key = "FLYEXECUTOR_SECRET" if os.environ.get("FLYEXECUTOR_SECRET") else "the token"
    more = f"; further keys that verify: {len(settings.fallbacks)}" if settings.fallbacks else ""
    return Check("settings", True, f"complete; the app is {settings.app}, the signing key comes from {key}{more}")


def check_image() -> Check:
    """Which image machines run. That it works is shown by the call."""
    for name in ("WORKER_IMAGE", "FLY_IMAGE_REF"):
        if value := os.environ.get(name):
            return Check("image", True, f"{value} ({name})")
    remedy = "set WORKER_IMAGE to an image that has your code and flyexecutor; inside Fly FLY_IMAGE_REF is set by Fly"
    return Check("image", False, "neither WORKER_IMAGE nor FLY_IMAGE_REF is set", remedy)


# Redis


def check_redis(given: dict[str, str]) -> Iterator[Check]:
    """Whether it answers, what it does when it is full, and its clock."""
    if "redis_url" not in given:
        yield Check("redis", None, "not asked: REDIS_URL is missing or wrong")
        return
    store = Store(given["redis_url"], given.get("app", "-"))
    try:
        server = store.listing.server()
    except RedisUnavailableError as exc:
        yield Check("redis", False, str(exc), _redis_remedy(exc))
        return
    finally:
        store.close()
    tls = "TLS" if given["redis_url"].startswith("rediss:") else "no TLS"
    in_clear = goes_in_clear(given["redis_url"])
    detail = f"{store.address} answers in {_span(server.latency)}: {_name(server)}, {tls}"
    old = server.name == "redis" and _version(server.version) < OLDEST_REDIS
    remedy = "use rediss://: its password and all calls can be read on their way" if in_clear else ""
    yield Check("redis", not old, detail, "flyexecutor needs Redis 6.2 or newer, or Valkey" if old else remedy)
    yield _check_eviction(server.eviction)
    yield _check_clock("clock", server.ahead, server.latency / 2, "Redis")


def _redis_remedy(error: RedisUnavailableError) -> str:
    if error.login and "has none" in str(error):
        return "set REDIS_URL to the address without one"
    if error.login:
        return "set REDIS_URL to the address with user and password in it, as fly redis status NAME prints it"
    if error.permanent:
        return "let its user do what it refuses (ACL SETUSER), or take another user"
    return "an address inside Fly is reached from a machine there, or from here with fly redis proxy"


def _name(server: Server) -> str:
    return f"{server.name} {server.version}" if server.version else f"a {server.name} that does not tell its version"


def _version(version: str) -> tuple[int, ...]:
    numbers = [int(part) for part in version.split(".") if part.isdigit()]
    return tuple(numbers) or OLDEST_REDIS  # it does not say: no reason to complain


def _check_eviction(policy: str) -> Check:
    remedy = "turn eviction off (maxmemory-policy noeviction, fly redis update): evicted calls are lost calls"
    if policy == "noeviction":
        return Check("eviction", True, "off (noeviction)")
    if policy:
        return Check("eviction", True, f"on ({policy})", remedy)
    return Check("eviction", True, "the server does not tell its policy", f"see that it is off, or {remedy}")


def _check_clock(name: str, ahead: float, doubt: float, whose: str) -> Check:
    apart = abs(ahead) > CLOCKS_MAY_DIFFER + doubt
    detail = f"{whose} is {_span(abs(ahead))} {'ahead of' if ahead > 0 else 'behind'} us, give or take {_span(doubt)}"
    return Check(name, True, detail, "set the clock of both (NTP): times that are told will be wrong" if apart else "")


def _span(number: float) -> str:
    return f"{number * 1000:.2f} ms" if number < 1 else seconds(number)


# Fly


def check_fly(given: dict[str, str], *, region: str = "") -> Iterator[Check]:
    """Whether the Machines API answers, takes the token, and knows the app and the region; empty: Fly chooses one."""
    if missing := [name for name in ("app", "token", "api_url") if name not in given]:
        names = {"app": "FLY_TASKS_APP", "token": "FLY_API_TOKEN", "api_url": "FLY_API_HOSTNAME"}
        yield Check("api", None, f"not asked: {', '.join(names[name] for name in missing)} missing or wrong")
        return
    token, app = given["token"], given["app"]
    machines = MachinesClient(given["api_url"], app, token)
    _await_turn(given)
    try:
        since = time.perf_counter()
        status, trouble, seen = _ask_for_list(machines)
        took = time.perf_counter() - since
        if status is None or status == 429 or status >= 500:
            yield Check("api", False, trouble, "check FLY_API_HOSTNAME and the network, or https://status.flyio.net")
            return
        remedy = (
            "use https://: the token and the key can be read on their way" if goes_in_clear(given["api_url"]) else ""
        )
        yield Check("api", True, f"{given['api_url']} answers in {took * 1000:.0f} ms", remedy)
        yield _check_token(machines, app, status)
        yield _check_app(app, status, len(seen))
        if status == 200:
            yield _check_trial(seen)
        if region:
            yield _check_region(machines, region)
    finally:
        machines.close()


def _await_turn(given: dict[str, str]) -> None:
    """Its list is its own, since that shows whether the token is good; but Fly allows the app one a second."""
    if "redis_url" in given:
        store = Store(given["redis_url"], given["app"])
        with contextlib.suppress(RedisUnavailableError):
            time.sleep(store.pace_list(LIST_EVERY, LIST_BURST))
        store.close()


def _ask_for_list(machines: MachinesClient) -> tuple[int | None, str, Sequence[Machine]]:
    try:
        return 200, "", machines.list_all(attempts=ATTEMPTS)
    except MachinesError as exc:
        return exc.status, str(exc), ()


def _check_token(machines: MachinesClient, app: str, status: int) -> Check:
    remedy = f"set FLY_API_TOKEN to what fly tokens create deploy -a {app} --expiry 8760h prints"
    if status == 401:
        return Check("token", False, "FLY_API_TOKEN is not accepted (401): mistyped, revoked or expired", remedy)
    if status == 403:
        return Check("token", False, f"FLY_API_TOKEN is accepted, but not for the app {app!r} (403)", remedy)
    if status == 404:
        return Check("token", True, "FLY_API_TOKEN is accepted")
    try:
        machines.stop(NO_MACHINE)
    except MachinesError as exc:
        if exc.status in {401, 403}:
            detail = f"FLY_API_TOKEN may look at the app {app!r}, but not act on it ({exc.status})"
            return Check("token", False, detail, remedy)
    return Check("token", True, f"FLY_API_TOKEN may look at the app {app} and act on it")


def _check_app(app: str, status: int, seen: int) -> Check:
    if status == 404:
        remedy = (
            f"see fly apps list; fly apps create {app}, or correct FLY_TASKS_APP, or take a token that sees the app"
        )
        return Check("app", False, f"there is no app {app!r}, or the token does not see it (404)", remedy)
    if status != 200:
        return Check("app", None, f"not seen: the Machines API answered {status}")
    return Check("app", True, f"{app} exists; machines of ours: {seen}")


def _check_trial(seen: Sequence[Machine]) -> Check:
    trial = "in a trial organisation Fly stops each machine after 5 minutes, and there are 10 at most"
    ended = next(
        (machine for machine in seen if TRIAL_SECONDS <= machine.last_run <= TRIAL_SECONDS + STOPS_WITHIN), None
    )
    if ended is None:
        return Check("trial", True, f"no machine here looks like one of a trial (Fly does not tell; {trial})")
    remedy = 'see whether fly logs says "Trial machine stopping"; then add a card at https://fly.io/trial'
    return Check("trial", True, f"machine {ended.id} ended {ended.last_run:.0f} s after its start: {trial}", remedy)


def _check_region(machines: MachinesClient, region: str) -> Check:
    try:
        known = machines.regions()
    except MachinesError as exc:
        return Check("region", None, f"{region}: this API does not tell which regions there are ({exc.status})")
    if region in known:
        return Check("region", True, f"{region} is a region of Fly")
    return Check("region", False, f"Fly has no region {region!r}", f"set FLY_REGION to one of {', '.join(known)}")


# The call


def check_call(where: Where, boot_timeout: float) -> Iterator[Check]:
    """One call there and back, on a machine that is made for it and destroys itself."""
    executor = FlyMachineExecutor(
        where.app,
        redis_url=where.redis_url,
        max_workers=1,
        warm=0,
        retries=0,
        boot_timeout=boot_timeout,
        ship=[probe],
        # A lane of its own: it boots, and does not wait behind the calls of the app.
        env={"FLYEXECUTOR_DOCTOR": "1"},
    )
    try:
        sent = time.time()
        future = executor.submit(probe.look)
        try:
            error = future.exception(boot_timeout + ANSWER_PATIENCE)
        except FutureTimeoutError:
            error = TimeoutError(f"no answer within {boot_timeout + ANSWER_PATIENCE:g} s")
        back = time.time()
        if error:
            yield Check("call", False, plain(f"{type(error).__name__}: {error}"), _remedy_for(error, where))
            return
        theirs, info = future.result(), future.info()
        where_it_ran = f"on machine {info.machine_id}{f' in {info.region}' if info.region else ''}"
        yield Check(
            "call",
            True,
            f"ran {where_it_ran}: begun after {seconds(info.queue_seconds)}, back after {seconds(back - sent)}",
        )
        yield from _compare(theirs, sent, back)
    finally:
        executor.shutdown(wait=False, cancel_futures=True)


def _compare(theirs: dict[str, Any], sent: float, back: float) -> Iterator[Check]:
    ours = probe.look()
    yield Check("python", True, f"{ours['python']} here, {theirs['python']} there")
    differs = "" if theirs["flyexecutor"] == ours["flyexecutor"] else "install the same version here and in the image"
    yield Check("flyexecutor", True, f"{ours['flyexecutor']} here, {theirs['flyexecutor']} there", differs)
    # It ran between these two moments; nearer is not known.
    ahead = max(theirs["time"] - back, 0.0) or min(theirs["time"] - sent, 0.0)
    if ahead:
        yield _check_clock("machine clock", ahead, 0.0, "the machine")
    else:
        yield Check("machine clock", True, "the machine's is between the two moments of ours")


def _remedy_for(error: BaseException, where: Where) -> str:
    app = where.app or os.environ.get("FLY_TASKS_APP")
    if isinstance(error, PythonMismatchError):
        return f"build the image with Python {sys.version_info[0]}.{sys.version_info[1]}, or run this with the image's"
    return f"see fly logs -a {app}; the image must have flyexecutor, and machines must reach REDIS_URL"
