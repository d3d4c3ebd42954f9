"""What ends with an executor, and with all that `with_options` has made of it: its calls, its client, its local Fly."""

import concurrent.futures
import logging
import weakref

from flyexecutor.client.client import Client
from flyexecutor.client.local_fly import UsedLocal
from flyexecutor.client.terminal import tell_of_calls

INTERRUPTED_WITHIN = 1.0  # seconds in which a second Ctrl-C is heard, at worst

log = logging.getLogger("flyexecutor")


class Life:
    """Held by these executors alone: without one of them nobody submits any more."""

    def __init__(self, client: Client, local: UsedLocal) -> None:
        self._client = client
        self._local = local
        # An executor that nobody holds any longer still delivers what it has sent, and then ends its threads.
        weakref.finalize(self, client.close_when_drained, local.close).atexit = False

    def shutdown(self, *, wait: bool, cancel_futures: bool) -> None:
        """See `FlyMachineExecutor.shutdown`."""
        futures = self._client.stop_sending()
        if cancel_futures:
            self._client.cancel_all(futures)
        if wait:
            concurrent.futures.wait(futures)
            self._close()
        else:
            self._client.close_when_drained(self._local.close)

    def end_interrupted(self) -> None:
        """After Ctrl-C in a `with` block, or while it waited: see `FlyMachineExecutor.__exit__`."""
        try:
            # Those of others, to which this one has only attached, are not ours to cancel.
            futures = [future for future in self._client.stop_sending() if not future.attached]
            self._client.cancel_all(futures)
            left = [future for future in futures if not future.done()]
            cancelled = sum(future.cancelled() for future in futures)  # others may have ended by themselves meanwhile
            if cancelled or left:
                local = self._local
                log.warning(tell_of_calls(cancelled, left, own_local=local.is_own, local_name=local.name))
            # A signal that comes just before CPython begins to wait for a lock does not end that wait.
            while concurrent.futures.wait(left, INTERRUPTED_WITHIN).not_done:
                pass
        finally:
            self._close()

    def _close(self) -> None:
        self._client.close()
        self._local.close()
