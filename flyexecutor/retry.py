"""When a call is tried again. One value; it travels with the call to the process that sees the exception."""

from dataclasses import dataclass
from typing import Literal

from flyexecutor.arguments import is_number

ExceptionTypes = type[BaseException] | tuple[type[BaseException], ...]


@dataclass(frozen=True, slots=True)
class Retry:
    """When a call is tried again: one budget for exceptions, another for lost machines.

    attempts: how often it may be begun because it raised, the first time included. 1: an exception is final.
    on, not_on: exception types that are retried, and of these those that are not.
    wait, longest_wait: seconds before the second attempt, and at most. It doubles each time, with jitter.
    lost: further attempts after its machine was lost. 0 with attempts=1: the call runs at most once.
    on_oom: "fail", or "bigger": after it ran out of memory, try again with twice the memory, up to what Fly offers.

    Raises ValueError or TypeError for what makes no sense.
    """

    attempts: int = 1
    on: ExceptionTypes = Exception
    not_on: ExceptionTypes = ()
    wait: float = 1.0
    longest_wait: float = 60.0
    lost: int = 2
    on_oom: Literal["fail", "bigger"] = "fail"

    def __post_init__(self) -> None:
        for name, least, value in (("attempts", 1, self.attempts), ("lost", 0, self.lost)):
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ValueError(f"{name} is {value!r}: it must be an integer of at least {least}")
        for name, seconds in (("wait", self.wait), ("longest_wait", self.longest_wait)):
            if not is_number(seconds, 0):
                raise ValueError(f"{name} is {seconds!r}: it must be a number of seconds")
        for name, kinds in (("on", self.on), ("not_on", self.not_on)):
            for kind in kinds if isinstance(kinds, tuple) else (kinds,):
                if not (isinstance(kind, type) and issubclass(kind, BaseException)):
                    raise TypeError(f"{name} is {kinds!r}: it must be an exception type, or a tuple of them")
        if self.on_oom not in {"fail", "bigger"}:
            raise ValueError(f'on_oom is {self.on_oom!r}: it must be "fail" or "bigger"')

    def wants(self, exc: BaseException, raised: int) -> bool:
        """Whether to try again after this exception, the call having raised `raised` times before."""
        return raised + 1 < self.attempts and isinstance(exc, self.on) and not isinstance(exc, self.not_on)
