"""Whatever goes wrong: neither token nor password nor key is in what anybody is shown."""

import contextlib
import json
import logging
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import FrameType

import pytest
from click.testing import CliRunner

import flyexecutor
from flyexecutor import FlyMachineExecutor
from flyexecutor.cli import main
from tests import tasks
from tests.quoting import machines_api, redis_that_quotes

WAIT = 60.0
SECRET = "Zk3v-9QpX7w_LrT2mYh8Ns4Bc6Df0GjUaEi1Ko5"
OURS = str(Path(flyexecutor.__file__).parent)
pytestmark = pytest.mark.usefixtures("quick_fleet")


class Shown:
    """All that somebody may see."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def take(self, *things: object) -> None:
        self.said += map(repr, things)
        self.said += map(str, things)

    def failure(self, fails: Callable[[], object]) -> BaseException:
        """Have something fail, and take its exception with the variables of our frames."""
        try:
            found = fails()
        except BaseException as exc:  # noqa: BLE001 - that is asked for
            found = exc
        assert isinstance(found, BaseException), found
        exc: BaseException | None = found
        while exc:
            self.take(exc, *getattr(exc, "__notes__", ()))
            trace = exc.__traceback__
            while trace:
                self.frame(trace.tb_frame)
                trace = trace.tb_next
            exc = exc.__cause__ or (None if exc.__suppress_context__ else exc.__context__)
        return found

    def frame(self, frame: FrameType | None) -> None:
        """The variables of a frame and of its callers, as pytest -l, rich and Sentry show them."""
        while frame:
            if frame.f_code.co_filename.startswith(OURS):
                for name, value in frame.f_locals.items():
                    with contextlib.suppress(AttributeError):  # of what is not made yet
                        self.said.append(f"{frame.f_code.co_name} {name}={value!r}")
            frame = frame.f_back

    def executor(self, executor: FlyMachineExecutor) -> None:
        """What an executor is made of."""
        client, lane = executor._client, executor._lane
        self.take(
            executor, executor._settings, executor._trust, executor._lanes, executor._lanes._spec, executor._stock
        )
        self.take(lane, lane.config, client, client.store, client.store._redis, client.store.listing, client.lists)
        self.take(client.store.address, client.machines, client.machines._session.headers)
        for thread in threading.enumerate():
            self.frame(sys._current_frames().get(thread.ident or 0))


@pytest.fixture
def shown(caplog: pytest.LogCaptureFixture) -> Shown:
    for name in ("", "flyexecutor", "urllib3", "redis"):
        caplog.set_level(logging.DEBUG, name)
    return Shown()


def test_neither_token_nor_password_nor_key_is_in_anything_that_is_shown(
    make_executor, shown, caplog, capfd, local_fly
):
    def quote(request, headers, body):
        return (422, {}, json.dumps({"error": f"{body} {headers['authorization']}"})) if body else (200, {}, "[]")

    def die():
        sys.stderr.write("before the end\n")
        sys.exit(3)

    executor = make_executor(secret=SECRET, retries=0, env={"API_KEY": "an-API-key-of-the-user"})
    user, _, password = local_fly.redis_url.partition("@")[0].rpartition(":")
    secrets = [local_fly.token, password, SECRET, executor._settings.key.hex(), "an-API-key-of-the-user", "geheim"]
    secrets.append(repr(bytes(executor._settings.key)))
    shown.failure(partial(executor.submit(tasks.raise_value_error, "oh").exception, WAIT))
    shown.failure(partial(executor.submit(die).exception, WAIT))
    shown.failure(partial(executor.with_options(timeout=0.2).submit(time.sleep, WAIT).exception, WAIT))
    shown.executor(executor)

    wrong = f"{user}:wrong-geheim@{local_fly.redis_url.rpartition('@')[2]}"
    with redis_that_quotes() as odd_redis, machines_api(quote) as api:
        for options in (
            {"redis_url": wrong},
            {"redis_url": f"redis://ann:geheim@127.0.0.1:{odd_redis}/0"},
            {"api_url": f"http://127.0.0.1:{api}", "secret": SECRET, "env": {"OTHER": "an-API-key-of-the-user"}},
            {"token": "FlyV1 fm2_geheim,fm2_geheim"},
        ):
            bad = make_executor(**options)
            shown.failure(partial(bad.submit(tasks.increment, 1).exception, WAIT))
            shown.executor(bad)
    for options in (
        {"max_workers": 0},
        {"redis_url": "redis://ann:geheim/x@h:1"},
        {"token": "geheim\n"},
        {"secret": "geheim"},
        {"guest": "no-such"},
        {"env": {"A": "geheim", "B": 1}},
    ):
        given = {"token": "fm2_geheim", "redis_url": "redis://ann:geheim@h:1", "secret": SECRET, **options}
        shown.failure(partial(make_executor, **given))

    environ = {**local_fly.environ(), "FLYEXECUTOR_SECRET": SECRET}
    for changes in ({}, {"REDIS_URL": wrong}, {"FLY_API_TOKEN": "FlyV1 fm2_geheim"}, {"FLYEXECUTOR_SECRET": "geheim"}):
        for command in (["doctor", "--no-call"], ["ps"], ["ps", "--json"], ["logs", "0" * 48], ["kill", "0" * 48]):
            ran = CliRunner().invoke(main, command, env={**environ, **changes})
            shown.said.append(ran.output)

    out, err = capfd.readouterr()
    everything = "\n".join([*shown.said, caplog.text, out, err])
    assert len(everything) > 20_000  # there was something to look at
    found = {
        secret: everything[max(0, everything.index(secret) - 200) :][:300] for secret in secrets if secret in everything
    }
    assert not found
