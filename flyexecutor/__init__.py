"""flyexecutor: a concurrent.futures.Executor whose workers are Fly Machines.

The public names, imported when they are first used: a worker that starts must not load what only a client needs.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from flyexecutor.errors import CallForgottenError as CallForgottenError
    from flyexecutor.errors import ExpiredCallError as ExpiredCallError
    from flyexecutor.errors import FlyExecutorError as FlyExecutorError
    from flyexecutor.errors import MachineLostError as MachineLostError
    from flyexecutor.errors import MachinesError as MachinesError
    from flyexecutor.errors import MachineStartError as MachineStartError
    from flyexecutor.errors import PayloadError as PayloadError
    from flyexecutor.errors import PythonMismatchError as PythonMismatchError
    from flyexecutor.errors import RedisUnavailableError as RedisUnavailableError
    from flyexecutor.errors import RemoteError as RemoteError
    from flyexecutor.errors import SettingsError as SettingsError
    from flyexecutor.errors import UnknownCallError as UnknownCallError
    from flyexecutor.errors import WorkerCrashedError as WorkerCrashedError
    from flyexecutor.executor import FlyMachineExecutor as FlyMachineExecutor
    from flyexecutor.future import FlyFuture as FlyFuture
    from flyexecutor.local import LocalFly as LocalFly
    from flyexecutor.states import State as State

_HOMES = {
    "FlyFuture": "future",
    "FlyMachineExecutor": "executor",
    "LocalFly": "local",
    "State": "states",
    **dict.fromkeys(
        (
            "CallForgottenError",
            "ExpiredCallError",
            "FlyExecutorError",
            "MachineLostError",
            "MachineStartError",
            "MachinesError",
            "PayloadError",
            "PythonMismatchError",
            "RedisUnavailableError",
            "RemoteError",
            "SettingsError",
            "UnknownCallError",
            "WorkerCrashedError",
        ),
        "errors",
    ),
}
__all__ = sorted(_HOMES)  # noqa: PLE0605 - the table above is the one list of them


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
