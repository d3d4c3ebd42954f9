"""A web app whose executor is made, and used, when its module is imported: `gunicorn --preload` then forks."""

import json
import os
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import parse_qs

from flyexecutor import FlyMachineExecutor
from tests import tasks

executor = FlyMachineExecutor(max_workers=2, idle_timeout=2.0)
before = executor.submit(tasks.increment, 0).result(30)


def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    number = int(parse_qs(environ["QUERY_STRING"])["n"][0])
    future = executor.submit(tasks.increment, number)
    executor.flush(10)
    answer = {"pid": os.getpid(), "result": future.result(30), "before": before}
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(answer).encode()]
