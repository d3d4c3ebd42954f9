"""The local Fly that an executor uses, if it uses one: found, or started and then closed with the executor."""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Self

from flyexecutor.errors import SettingsError
from flyexecutor.local import LocalError, LocalFly


@dataclass(frozen=True, slots=True)
class UsedLocal:
    """A local Fly, or none."""

    fly: LocalFly | None
    started: bool  # by the executor

    @classmethod
    def find(cls, local: "bool | str | LocalFly | None") -> Self:
        """What `local` of `FlyMachineExecutor` says, started if need be. Raises SettingsError."""
        if not isinstance(local, bool | str | LocalFly | None):
            raise SettingsError(f"local is {local!r}: it must be True, a name, or a LocalFly")
        if local is None or local is False or isinstance(local, LocalFly):
            return cls(local or None, started=False)
        try:
            return cls(LocalFly(name=None if local is True else local), started=True)
        except LocalError as exc:
            raise SettingsError(f"local={local!r} is not possible here: {exc}") from None

    @property
    def environ(self) -> Mapping[str, str] | None:
        """The environment that says where it is; None: that of the process does."""
        return self.fly.environ() if self.fly else None

    @property
    def name(self) -> str | None:
        """By which other processes use it, too."""
        return self.fly.name if self.fly else None

    @property
    def is_own(self) -> bool:
        """Whether it ends with the executor."""
        return self.started and self.name is None

    @property
    def remedy(self) -> str:
        """What to do about an id that nobody knows; empty if it has nothing to do with a local Fly."""
        if self.fly is None:
            return ""
        if self.name is None:
            return (
                ". This local Fly is used by this process alone: "
                'local="name" is one for all processes of this computer that say that name'
            )
        if self.fly.keep is None:
            return f'. The calls of a local Fly end with it, unless it is a LocalFly(name={self.name!r}, keep="folder")'
        return ""

    def close(self) -> None:
        """Leave what was started here to others, or end it."""
        if self.fly and self.started:
            self.fly.close()

    @contextlib.contextmanager
    def closed_on_error(self) -> Iterator[None]:
        """While the executor is made that uses it."""
        try:
            yield
        except BaseException:
            self.close()
            raise
