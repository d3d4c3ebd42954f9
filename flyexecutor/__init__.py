"""flyexecutor: a concurrent.futures.Executor whose workers are Fly Machines.

The public names, imported when they are first used: a worker that starts must not load what only a client needs.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from flyexecutor.call import CallInfo as CallInfo
    from flyexecutor.client.batch import Batch as Batch
    from flyexecutor.client.future import FlyFuture as FlyFuture
    from flyexecutor.client.future import Kill as Kill
    from flyexecutor.client.future import Progress as Progress
    from flyexecutor.client.stream import ItemStream as ItemStream
    from flyexecutor.contrib.tqdm import progress_bar as progress_bar
    from flyexecutor.errors import CallForgottenError as CallForgottenError
    from flyexecutor.errors import CallKilledError as CallKilledError
    from flyexecutor.errors import CallTimeoutError as CallTimeoutError
    from flyexecutor.errors import ExpiredCallError as ExpiredCallError
    from flyexecutor.errors import FlyExecutorError as FlyExecutorError
    from flyexecutor.errors import InitializerError as InitializerError
    from flyexecutor.errors import MachineLostError as MachineLostError
    from flyexecutor.errors import MachinesError as MachinesError
    from flyexecutor.errors import MachineStartError as MachineStartError
    from flyexecutor.errors import NotStartedError as NotStartedError
    from flyexecutor.errors import OutOfMemoryError as OutOfMemoryError
    from flyexecutor.errors import PayloadError as PayloadError
    from flyexecutor.errors import PayloadTooLargeError as PayloadTooLargeError
    from flyexecutor.errors import PythonMismatchError as PythonMismatchError
    from flyexecutor.errors import RedisUnavailableError as RedisUnavailableError
    from flyexecutor.errors import RemoteError as RemoteError
    from flyexecutor.errors import SettingsError as SettingsError
    from flyexecutor.errors import UnknownCallError as UnknownCallError
    from flyexecutor.errors import WorkerCrashedError as WorkerCrashedError
    from flyexecutor.executor import FlyMachineExecutor as FlyMachineExecutor
    from flyexecutor.fleet.guests import GuestName as GuestName
    from flyexecutor.fleet.guests import Prices as Prices
    from flyexecutor.fleet.schedules import Every as Every
    from flyexecutor.fleet.schedules import Schedule as Schedule
    from flyexecutor.fleet.stock import MachineInfo as MachineInfo
    from flyexecutor.lane import Stats as Stats
    from flyexecutor.local import LocalFly as LocalFly
    from flyexecutor.retry import Retry as Retry
    from flyexecutor.states import State as State
    from flyexecutor.worker.context import CurrentCall as CurrentCall
    from flyexecutor.worker.context import current_call as current_call
    from flyexecutor.worker.context import progress as progress

_HOMES = {
    "Batch": "client.batch",
    "CallInfo": "call",
    "CurrentCall": "worker.context",
    "Every": "fleet.schedules",
    "FlyFuture": "client.future",
    "FlyMachineExecutor": "executor",
    "GuestName": "fleet.guests",
    "ItemStream": "client.stream",
    "Kill": "client.future",
    "LocalFly": "local",
    "MachineInfo": "fleet.stock",
    "Prices": "fleet.guests",
    "Progress": "client.future",
    "Retry": "retry",
    "Schedule": "fleet.schedules",
    "State": "states",
    "Stats": "lane",
    "current_call": "worker.context",
    "progress": "worker.context",
    "progress_bar": "contrib.tqdm",
    **dict.fromkeys(
        (
            "CallForgottenError",
            "CallKilledError",
            "CallTimeoutError",
            "ExpiredCallError",
            "FlyExecutorError",
            "InitializerError",
            "MachineLostError",
            "MachineStartError",
            "MachinesError",
            "NotStartedError",
            "OutOfMemoryError",
            "PayloadError",
            "PayloadTooLargeError",
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


def __dir__() -> list[str]:
    return sorted([*__all__, *(name for name in globals() if name.startswith("__"))])


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
