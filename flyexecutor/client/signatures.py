"""What type checkers know of the methods that fan out: as of the builtin `map` and of `itertools.starmap`.

Each argument is checked against its iterable, up to three of them; of an `async def` function the result is what it
comes to; with `return_exceptions` it is that or an exception. When a program runs, each method is just itself.
"""

from collections.abc import Callable, Coroutine, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar, cast, overload

if TYPE_CHECKING:
    from typing_extensions import TypedDict, TypeVarTuple, Unpack

    from flyexecutor.client.batch import Batch
    from flyexecutor.fleet.schedules import Every, Schedule

    T = TypeVar("T")
    A = TypeVar("A")
    B = TypeVar("B")
    C = TypeVar("C")
    Ts = TypeVarTuple("Ts")
    Async = Coroutine[Any, Any, T]
    Some = Iterable[Any]

    class Sizes(TypedDict, total=False):
        """As `map` takes them."""

        timeout: float | None
        chunksize: int
        buffersize: int | None

    class Raising(Sizes, total=False):
        """An exception of an item is raised."""

        return_exceptions: Literal[False]

    class Returning(Sizes):
        """An exception of an item is its result."""

        return_exceptions: bool

    # fmt: off
    class Map(Protocol):
        """`map`, `map_unordered`."""

        @overload
        def __call__(self, fn: Callable[[A], Async[T]], a: Iterable[A], /, **how: Unpack[Raising]) -> Iterator[T]: ...
        @overload
        def __call__(self, fn: Callable[[A], Async[T]], a: Iterable[A], /, **how: Unpack[Returning]) -> Iterator[T | BaseException]: ...
        @overload
        def __call__(self, fn: Callable[[A], T], a: Iterable[A], /, **how: Unpack[Raising]) -> Iterator[T]: ...
        @overload
        def __call__(self, fn: Callable[[A], T], a: Iterable[A], /, **how: Unpack[Returning]) -> Iterator[T | BaseException]: ...
        @overload
        def __call__(self, fn: Callable[[A, B], Async[T]], a: Iterable[A], b: Iterable[B], /, **how: Unpack[Raising]) -> Iterator[T]: ...
        @overload
        def __call__(self, fn: Callable[[A, B], Async[T]], a: Iterable[A], b: Iterable[B], /, **how: Unpack[Returning]) -> Iterator[T | BaseException]: ...
        @overload
        def __call__(self, fn: Callable[[A, B], T], a: Iterable[A], b: Iterable[B], /, **how: Unpack[Raising]) -> Iterator[T]: ...
        @overload
        def __call__(self, fn: Callable[[A, B], T], a: Iterable[A], b: Iterable[B], /, **how: Unpack[Returning]) -> Iterator[T | BaseException]: ...
        @overload
        def __call__(self, fn: Callable[[A, B, C], Async[T]], a: Iterable[A], b: Iterable[B], c: Iterable[C], /, **how: Unpack[Raising]) -> Iterator[T]: ...
        @overload
        def __call__(self, fn: Callable[[A, B, C], Async[T]], a: Iterable[A], b: Iterable[B], c: Iterable[C], /, **how: Unpack[Returning]) -> Iterator[T | BaseException]: ...
        @overload
        def __call__(self, fn: Callable[[A, B, C], T], a: Iterable[A], b: Iterable[B], c: Iterable[C], /, **how: Unpack[Raising]) -> Iterator[T]: ...
        @overload
        def __call__(self, fn: Callable[[A, B, C], T], a: Iterable[A], b: Iterable[B], c: Iterable[C], /, **how: Unpack[Returning]) -> Iterator[T | BaseException]: ...
        @overload
        def __call__(self, fn: Callable[..., Async[T]], a: Some, b: Some, c: Some, d: Some, /, *more: Some, **how: Unpack[Raising]) -> Iterator[T]: ...
        @overload
        def __call__(self, fn: Callable[..., Async[T]], a: Some, b: Some, c: Some, d: Some, /, *more: Some, **how: Unpack[Returning]) -> Iterator[T | BaseException]: ...
        @overload
        def __call__(self, fn: Callable[..., T], a: Some, b: Some, c: Some, d: Some, /, *more: Some, **how: Unpack[Raising]) -> Iterator[T]: ...
        @overload
        def __call__(self, fn: Callable[..., T], a: Some, b: Some, c: Some, d: Some, /, *more: Some, **how: Unpack[Returning]) -> Iterator[T | BaseException]: ...

    class StarMap(Protocol):
        """`starmap`."""

        @overload
        def __call__(self, fn: Callable[[Unpack[Ts]], Async[T]], items: Iterable[tuple[*Ts]], /, **how: Unpack[Raising]) -> Iterator[T]: ...
        @overload
        def __call__(self, fn: Callable[[Unpack[Ts]], Async[T]], items: Iterable[tuple[*Ts]], /, **how: Unpack[Returning]) -> Iterator[T | BaseException]: ...
        @overload
        def __call__(self, fn: Callable[[Unpack[Ts]], T], items: Iterable[tuple[*Ts]], /, **how: Unpack[Raising]) -> Iterator[T]: ...
        @overload
        def __call__(self, fn: Callable[[Unpack[Ts]], T], items: Iterable[tuple[*Ts]], /, **how: Unpack[Returning]) -> Iterator[T | BaseException]: ...

    class SubmitBatch(Protocol):
        """`submit_batch`."""

        @overload
        def __call__(self, fn: Callable[[A], Async[T]], a: Iterable[A], /) -> Batch[T]: ...
        @overload
        def __call__(self, fn: Callable[[A], T], a: Iterable[A], /) -> Batch[T]: ...
        @overload
        def __call__(self, fn: Callable[[A, B], Async[T]], a: Iterable[A], b: Iterable[B], /) -> Batch[T]: ...
        @overload
        def __call__(self, fn: Callable[[A, B], T], a: Iterable[A], b: Iterable[B], /) -> Batch[T]: ...
        @overload
        def __call__(self, fn: Callable[[A, B, C], Async[T]], a: Iterable[A], b: Iterable[B], c: Iterable[C], /) -> Batch[T]: ...
        @overload
        def __call__(self, fn: Callable[[A, B, C], T], a: Iterable[A], b: Iterable[B], c: Iterable[C], /) -> Batch[T]: ...
        @overload
        def __call__(self, fn: Callable[..., Async[T]], a: Some, b: Some, c: Some, d: Some, /, *more: Some) -> Batch[T]: ...
        @overload
        def __call__(self, fn: Callable[..., T], a: Some, b: Some, c: Some, d: Some, /, *more: Some) -> Batch[T]: ...

    class MakeSchedule(Protocol):
        """`schedule`; of a function that is given arguments by name only their kind is not looked at."""

        @overload
        def __call__(self, fn: Callable[[Unpack[Ts]], object], /, *args: *Ts, every: Every, name: str | None = None, at_once: bool = True) -> Schedule: ...
        @overload
        def __call__(self, fn: Callable[..., object], /, *, every: Every, name: str | None = None, at_once: bool = True, **kwargs: Any) -> Schedule: ...
    # fmt: on


def typed_map(method: Callable[..., Any]) -> "Map":
    """For type checkers."""
    return method


def typed_starmap(method: Callable[..., Any]) -> "StarMap":
    """For type checkers."""
    return method


def typed_submit_batch(method: Callable[..., Any]) -> "SubmitBatch":
    """For type checkers."""
    return method


def typed_schedule(method: Callable[..., Any]) -> "MakeSchedule":
    """For type checkers."""
    return cast("MakeSchedule", method)
