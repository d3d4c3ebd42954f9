"""The tree of our exceptions.

    FlyExecutorError
    ├── SettingsError (ValueError)           something that the caller set, or did not set
    ├── RedisUnavailableError                Redis can't be reached, or refuses us
    ├── MachinesError                        the Machines API said no, or nothing
    │   └── MachineStartError (BrokenExecutor)   no machine could be had for a call
    ├── MachineLostError (BrokenExecutor)    the machines that ran the call died, attempts are spent
    │   └── OutOfMemoryError (MemoryError)   the call needs more memory than its machine has
    ├── WorkerCrashedError (BrokenExecutor)  the process that ran the call died
    ├── InitializerError (BrokenExecutor)    `initializer` raised in the process that was to run the call
    ├── CallTimeoutError (TimeoutError)      the call ran longer than its `timeout` and was killed
    ├── NotStartedError (TimeoutError)       no worker began the call within `expires`
    ├── CallKilledError                      `future.kill()` stopped it
    ├── PayloadError                         refused before it was unpickled
    │   └── PythonMismatchError              pickled by another Python version
    ├── PayloadTooLargeError (ValueError)    an argument or a result is larger than `max_payload`
    ├── RemoteError                          an exception whose class can't be brought back
    ├── CallForgottenError                   Redis no longer knows a call that was pending
    ├── ExpiredCallError (LookupError)       its outcome was kept for `result_ttl` and is gone
    └── UnknownCallError (LookupError)       no such call was ever made with our key

Each message says what was wrong, with which value, and what to do. None ever holds a token, password or key.
"""

from concurrent.futures import BrokenExecutor

from flyexecutor.names import visible


class FlyExecutorError(Exception):
    """The base of all exceptions that flyexecutor itself raises."""

    def __init__(self, *args: object) -> None:
        # Much of a message may come from elsewhere: from Redis, the Machines API, a call.
        super().__init__(*(visible(arg) if isinstance(arg, str) else arg for arg in args))


class SettingsError(FlyExecutorError, ValueError):
    """An argument or an environment variable is missing or wrong: the message names it and the remedy."""


class RedisUnavailableError(FlyExecutorError):
    """Redis can't be reached or refuses us. Raised by `flush` and `future`; the exception of calls never stored."""

    permanent = False  # True: it answered, and said no; trying again will not help
    login = False  # True: it wants another user or password


class MachinesError(FlyExecutorError):
    """The Machines API refused a request or could not be reached.

    `status` is the HTTP status (None when there was no answer), `request_id` Fly's `fly-request-id`.
    """

    def __init__(self, message: str, status: int | None = None, request_id: str | None = None) -> None:
        super().__init__(message, status, request_id)
        self.status = status
        self.request_id = request_id and visible(request_id)

    def __str__(self) -> str:
        return str(self.args[0])


class MachineStartError(MachinesError, BrokenExecutor):
    """No machine could be had for a call: the call never ran. Fix what the message says, then submit again.

    Raised by `flush`: none has been asked for yet. The calls are stored, and run once a machine is there.

    `phase` is where it failed: "create", "boot" (its program ended) or "join" (no sign of its worker); empty: before.
    `region` is where the machine was, or was to be.
    """

    def __init__(
        self,
        message: str,
        status: int | None = None,
        request_id: str | None = None,
        *,
        phase: str = "",
        region: str = "",
    ) -> None:
        super().__init__(message, status, request_id)
        self.phase = phase
        self.region = region

    def __reduce__(self) -> tuple[object, ...]:
        return _start_error, (*self.args, self.phase, self.region)


def _start_error(message: str, status: int | None, request_id: str | None, phase: str, region: str) -> Exception:
    return MachineStartError(message, status, request_id, phase=phase, region=region)


class MachineLostError(FlyExecutorError, BrokenExecutor):
    """The machine that ran the call died, `retries` times over. The call may have run in part."""


class WorkerCrashedError(FlyExecutorError, BrokenExecutor):
    """The process that ran the call died: `sys.exit`, `os._exit`, a signal. Other calls are not affected."""


class OutOfMemoryError(MachineLostError, MemoryError):
    """The call needs more memory than its machine has; it is not tried again on a machine of that size.

    Give it a larger `guest`, or let it have one by itself: `Retry(on_oom="bigger")`.
    """


class InitializerError(FlyExecutorError, BrokenExecutor):
    """The executor's `initializer` raised in the process that was to run the call; its exception is the cause."""


class CallTimeoutError(FlyExecutorError, TimeoutError):
    """The call ran longer than its `timeout` and was killed. The cause says where it was at that moment."""


class NotStartedError(FlyExecutorError, TimeoutError):
    """No worker began the call within its `expires` seconds: it never ran and will not."""


class CallKilledError(FlyExecutorError):
    """`future.kill()` stopped the call while it ran. It may have run in part."""


class PayloadTooLargeError(FlyExecutorError, ValueError):
    """What was to travel is larger than `max_payload` bytes: put it into a file or a bucket and send its address."""


class PayloadError(FlyExecutorError):
    """A payload was tampered with, signed with another key or meant for another call; it was not unpickled."""


class PythonMismatchError(PayloadError):
    """A payload was pickled by another Python version. Use the same minor version on both sides."""


class RemoteError(FlyExecutorError):
    """The call raised an exception whose class can't be brought here; this one carries its message and traceback."""


class CallForgottenError(FlyExecutorError):
    """Redis no longer knows a pending call (it was emptied or has evicted keys). The call may have run."""


class ExpiredCallError(FlyExecutorError, LookupError):
    """The call was made, but its record is gone: it ended more than `result_ttl` seconds ago."""


class UnknownCallError(FlyExecutorError, LookupError):
    """No call with this id was ever made with this app's key: the id is mistyped or foreign."""
