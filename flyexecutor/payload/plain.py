"""Our own errors as JSON, which every Python version can read and nobody has to unpickle."""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from flyexecutor import errors

_KINDS = {
    kind.__name__: kind
    for kind in (
        errors.CallTimeoutError,
        errors.InitializerError,
        errors.NotStartedError,
        errors.PayloadTooLargeError,
        errors.WorkerCrashedError,
        errors.PayloadError,
        errors.PythonMismatchError,
        errors.RemoteError,
        errors.MachineStartError,
    )
}


class PlainError(NamedTuple):
    """An error of ours as it has come, and what is behind it."""

    error: errors.FlyExecutorError
    traceback: str
    packages: Mapping[str, str]  # that the other side has, with their versions; where that may be the reason


def dump(error: errors.FlyExecutorError, traceback: str = "", packages: Mapping[str, str] | None = None) -> bytes:
    """An error of ours, as bytes."""
    fields: dict[str, Any] = {"error": type(error).__name__, "message": str(error), "traceback": traceback}
    fields |= {"packages": packages or {}, "about": {}}
    if isinstance(error, errors.MachineStartError):
        fields["about"] = {name: getattr(error, name) for name in ("status", "request_id", "phase", "region")}
    return json.dumps(fields).encode()


def load(body: bytes | memoryview) -> PlainError:
    """The error again. Raises KeyError for a kind that we do not send."""
    fields = json.loads(bytes(body))
    return PlainError(
        _KINDS[fields["error"]](fields["message"], **fields["about"]), fields["traceback"], fields["packages"]
    )
