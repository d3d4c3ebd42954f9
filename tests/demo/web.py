"""The demo's page for a real gunicorn, with a stand-in for the executor and a server that waits for less."""

from demo.app import create_app
from demo.server import Worker
from tests.demo.fakes import FakeExecutor


class Impatient(Worker):
    read_timeout = 0.5


app = create_app(FakeExecutor(), secret_key="test", redis_url="memory://")  # type: ignore[arg-type]
