"""How the calls of an executor are run: the options that `with_options` changes, checked once."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any, Self

from flyexecutor.arguments import check_integers, check_numbers, read_arguments, read_modules
from flyexecutor.errors import SettingsError
from flyexecutor.names import name_of, path_of, shown
from flyexecutor.payload import pickles
from flyexecutor.payload.trust import WARMUP, Trust
from flyexecutor.retry import Retry

WARMUP_BYTES = 32 * 1024  # it travels in an environment variable of the machine


@dataclass(frozen=True, slots=True)
class Options:
    """See `FlyMachineExecutor`."""

    retry: Retry
    timeout: float | None = None
    expires: float | None = None
    key: str | None = None
    name: str | None = None
    max_payload: int = pickles.MAX_PAYLOAD
    ship: tuple[ModuleType, ...] = ()
    initializer: bytes | None = None  # pickled, with its arguments

    def __post_init__(self) -> None:
        check_numbers(0.001, timeout=self.timeout, expires=self.expires)
        check_integers(1, max_payload=self.max_payload)
        if self.key is not None and not (isinstance(self.key, str) and self.key):
            raise SettingsError(f"key is {self.key!r}: it must be a text that names this one call, as 'invoice-42'")
        if self.name is not None and not (isinstance(self.name, str) and self.name):
            raise SettingsError(f"name is {self.name!r}: it must be a text, as 'monthly report'")

    @classmethod
    def read(
        cls,
        *,
        retries: "int | Retry | None",
        timeout: float | None,
        expires: float | None,
        max_payload: int,
        ship: Sequence[ModuleType],
        initializer: Callable[..., object] | None,
        initargs: Sequence[Any],
    ) -> Self:
        """As `FlyMachineExecutor` takes them. Raises SettingsError, and TypeError for what is no function."""
        modules = read_modules(ship)
        return cls(
            retry=Retry() if retries is None else read_retries(retries),
            timeout=timeout,
            expires=expires,
            max_payload=max_payload,
            ship=modules,
            initializer=read_initializer(initializer, initargs, modules),
        )

    def changed(self, *, retries: "int | Retry | None", **options: Any) -> Self:
        """As `with_options` changes them: what is None stays. Raises SettingsError."""
        given = {**options, "retry": None if retries is None else read_retries(retries)}
        return replace(self, **{name: value for name, value in given.items() if value is not None})

    def name_call(self, fn: object) -> str:
        """What a call of this function is called."""
        return name_of(fn) if self.name is None else shown(self.name)

    def manner(self, *, streams: bool = False) -> pickles.Manner | None:
        """What of it travels with a call; None if nothing has to."""
        retry = self.retry if self.retry.attempts > 1 else None
        if retry is None and self.initializer is None and not streams and self.max_payload == pickles.MAX_PAYLOAD:
            return None
        return pickles.Manner(retry, self.initializer, streams, self.max_payload)


def read_retries(retries: "int | Retry") -> Retry:
    """The `retries` of the public face as a `Retry`; raises SettingsError."""
    if isinstance(retries, Retry):
        return retries
    if isinstance(retries, bool) or not isinstance(retries, int) or retries < 0:
        raise SettingsError(f"retries is {retries!r}: it must be a number of at least 0, or a Retry")
    return Retry(attempts=retries + 1, lost=retries)


def read_initializer(
    initializer: Callable[..., object] | None, initargs: Sequence[Any], ship: Sequence[ModuleType]
) -> bytes | None:
    """An initializer and its arguments, pickled; raises SettingsError, and TypeError as ProcessPoolExecutor does."""
    arguments = read_arguments(initargs)
    if initializer is None:
        return None
    if not callable(initializer):
        raise TypeError(f"initializer must be a callable, not {initializer!r}")
    with pickles.shipping(ship):
        return pickles.dump_alone((initializer, arguments))


def read_warmup(
    warmup: Callable[[], object] | None, trust: Trust, ship: Sequence[ModuleType]
) -> tuple[str, bytes] | None:
    """A warm-up function, what it is called and sealed; raises SettingsError."""
    if warmup is None:
        return None
    if not callable(warmup):
        raise SettingsError(f"warmup is {warmup!r}: it must be a function without arguments")
    with pickles.shipping(ship):
        dumped = pickles.dump_part(warmup)
    sealed = trust.seal_part(WARMUP, dumped.body, dumped.encoding)
    if len(sealed) > WARMUP_BYTES:
        raise SettingsError(
            f"warmup is {len(sealed):,} bytes when pickled, at most {WARMUP_BYTES:,} fit into a machine's environment: "
            "define it in a module that the image has"
        )
    return path_of(warmup), sealed  # not its repr(): the lane's name is made of it, in each process the same
