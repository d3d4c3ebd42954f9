"""Level 2: our own errors as JSON, which every Python version can read and nobody has to unpickle."""

import json
from typing import NamedTuple

from flyexecutor import errors

_KINDS = {
    kind.__name__: kind
    for kind in (
        errors.WorkerCrashedError,
        errors.PayloadError,
        errors.PythonMismatchError,
        errors.RemoteError,
        errors.MachineStartError,
    )
}


class Told(NamedTuple):
    """An error as it was told, and the traceback of what is behind it."""

    error: errors.FlyExecutorError
    traceback: str


def dump(error: errors.FlyExecutorError, traceback: str = "") -> bytes:
    """An error of ours, as bytes."""
    return json.dumps({"error": type(error).__name__, "message": str(error), "traceback": traceback}).encode()


def load(body: bytes | memoryview) -> Told:
    """The error again. Raises KeyError for a kind that we do not send."""
    told = json.loads(bytes(body))
    return Told(_KINDS[told["error"]](told["message"]), told["traceback"])
