"""A server that quotes what it was told, or points elsewhere: no secret of ours is shown, and none goes there."""

import json

import pytest

from flyexecutor import MachineStartError, RedisUnavailableError
from flyexecutor.errors import MachinesError
from flyexecutor.fleet.api import MachinesClient
from tests.quoting import machines_api, redis_that_quotes

WAIT = 30.0


def test_a_configuration_that_the_api_quotes_is_told_without_its_secrets(make_executor, failure_of, quick_fleet):
    def refuse(request, headers, body):
        if request.startswith("GET"):
            return 200, {}, "[]"
        return 422, {}, json.dumps({"error": f"invalid config: {body} from {headers['authorization']}"})

    with machines_api(refuse) as port:
        executor = make_executor(
            api_url=f"http://127.0.0.1:{port}",
            secret="Zk3v-9QpX7w_LrT2mYh8Ns4Bc6Df0GjUaEi1Ko5",
            env={"PLAN": "b", "DATABASE_URL": "postgres://ann:bobs%21dog@db/x", "LONG": 'a "quoted" value'},
        )
        settings = executor._settings
        password = settings.redis_url.partition("@")[0].rpartition(":")[2]
        secrets = [settings.token, settings.redis_url, password, settings.key.hex()]
        secrets += ["bobs%21dog", "bobs!dog", "quoted", 'PLAN": "b"']
        error, text = failure_of(executor, secrets)
    assert isinstance(error, MachineStartError)
    assert "invalid config" in text
    assert '"PLAN": "***"' in text
    assert '"FLYEXECUTOR_KEY": "***"' in text


@pytest.mark.parametrize("status", [300, 301, 302, 303, 304, 307, 308])
def test_a_redirect_of_the_api_is_an_error_and_the_token_goes_nowhere_else(status):
    asked = []

    def elsewhere(request, _headers, _body):
        asked.append(request)
        return 200, {}, "[]"

    def point(request, _headers, _body):
        asked.append(request)
        return status, {"location": f"http://u:geheim@127.0.0.1:{other}/v2/list?key=geheim"}, ""

    with machines_api(elsewhere) as other, machines_api(point) as port:
        client = MachinesClient(f"http://127.0.0.1:{port}", "tasks", "FlyV1 fm2_secret")
        with pytest.raises(
            MachinesError, match=rf"{status} .*points to http://127.0.0.1:{other}/v2/list, where"
        ) as told:
            client.list_all(attempts=3)
        with pytest.raises(MachinesError, match="check FLY_API_HOSTNAME"):
            client.start("m1")
        client.close()
    assert asked == ["GET /v1/apps/tasks/machines", "POST /v1/apps/tasks/machines/m1/start"]
    assert told.value.status == status
    assert "geheim" not in str(told.value)


def test_calls_end_with_where_the_api_points_to(make_executor, failure_of):
    with machines_api(lambda *_: (301, {"location": "/moved?token=geheim"}, "")) as port:
        error, text = failure_of(make_executor(api_url=f"http://127.0.0.1:{port}"), ["geheim"])
    assert isinstance(error, MachineStartError)
    assert f"points to http://127.0.0.1:{port}/moved" in text


@pytest.mark.parametrize("password", ["geheim", "a-long.one", "with%2Fa%40slash"])
def test_a_password_that_redis_quotes_is_not_told(make_executor, password):
    with redis_that_quotes() as port:
        executor = make_executor(redis_url=f"redis://ann:{password}@127.0.0.1:{port}/0")
        error = executor.submit(abs, -1).exception(WAIT)
        assert isinstance(error, RedisUnavailableError)
        assert "AUTH" in str(error)
        assert "***" in str(error)
        for shown in (password, "with/a@slash"):
            assert shown not in str(error)
