"""A client of the local Machines API that checks nothing: tests see status and body as they are."""

import json
import uuid
from unittest import mock

import pytest
import requests

from flyexecutor.local.api.application import make_api
from flyexecutor.local.limits import Limits

SLEEP = ["sleep", "600"]
EXIT_0 = ["true"]
EXIT_3 = ["sh", "-c", "exit 3"]


class Api:
    """Requests to one app."""

    def __init__(self, fly):
        self.fly = fly
        self.session = requests.Session()
        self.session.headers["Authorization"] = f"Bearer {fly.token}"

    def __call__(self, method, path="", *, app=None, headers=None, **body):
        url = f"{self.fly.api_url}/v1/apps/{app or self.fly.app}/machines{path}"
        data = json.dumps(body) if body else None
        return self.session.request(method, url, data=data, headers=headers, timeout=70)

    def raw(self, method, path, **options):
        """A request anywhere in the API."""
        return self.session.request(method, f"{self.fly.api_url}/v1{path}", **{"timeout": 70, **options})

    def create(self, command=SLEEP, *, name=None, skip_launch=False, **config):
        config = {"image": self.fly.image, "init": {"exec": command}, "restart": {"policy": "no"}, **config}
        answer = self("POST", name=name or uuid.uuid4().hex, config=config, skip_launch=skip_launch)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def make_stock(self, command=SLEEP, **config):
        """A machine that has never run and can be started."""
        machine = self.create(command, skip_launch=True, **config)
        assert self.wait(machine, "stopped").ok
        return machine

    def get(self, machine_id):
        return self("GET", f"/{machine_id}").json()

    def wait(self, machine, state, timeout=20):
        instance = self.get(machine["id"])["instance_id"]
        return self("GET", f"/{machine['id']}/wait?state={state}&timeout={timeout}&instance_id={instance}")


def operations():
    """Method and path of each operation that has a route."""
    return {
        (method, rule.rule)
        for rule in make_api(mock.Mock(), Limits(enforced=False), "").url_map.iter_rules()
        for method in rule.methods - {"HEAD", "OPTIONS"}
        if rule.endpoint != "static"
    }


@pytest.fixture
def api(local_fly):
    api = Api(local_fly)
    yield api
    api.session.close()
