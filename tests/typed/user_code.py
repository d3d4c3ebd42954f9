"""What users write; mypy and pyright check it, in strict mode. An error must be where a comment says `error`."""

from collections.abc import Iterator
from concurrent.futures import Executor, as_completed
from typing import assert_type

from flyexecutor import Batch, FlyFuture, FlyMachineExecutor, ItemStream, Retry, Schedule, current_call, progress_bar


def double(x: int) -> int:
    return x * 2


def spell(x: int, word: str, *, loud: bool = False) -> str:
    return word.upper() * x if loud else word * x


async def fetch(url: str) -> bytes:
    return url.encode()


def count(limit: int) -> Iterator[int]:
    yield from range(limit)


async def wait_for(future: FlyFuture[int]) -> int:
    return await future


def generic(executor: Executor) -> None:
    executor.submit(double, 1).result()


with FlyMachineExecutor("app", guest="shared-cpu-2x", retries=Retry(attempts=3)) as ex:
    generic(ex)
    assert_type(ex.submit(double, 1), FlyFuture[int])
    assert_type(ex.submit(spell, 2, "a", loud=True).result(), str)
    assert_type(ex.submit(fetch, "https://fly.io"), FlyFuture[bytes])
    assert_type(ex.submit(lambda: 1.5).result(), float)
    ex.submit(double, "1")  # error
    ex.submit(spell, 1, "a", loud="yes")  # error
    ex.submit(double)  # error

    assert_type(list(ex.map(double, [1, 2])), list[int])
    assert_type(list(ex.map(spell, [1], ["a"], chunksize=10, timeout=5.0)), list[str])
    assert_type(list(ex.map(fetch, ["a"])), list[bytes])
    assert_type(list(ex.map(double, [1], return_exceptions=True)), list[int | BaseException])
    assert_type(list(ex.map(fetch, ["a"], return_exceptions=True)), list[bytes | BaseException])
    assert_type(list(ex.map(pow, [1], [2], [3], buffersize=4)), list[int])
    assert_type(list(ex.map_unordered(double, range(3))), list[int])
    ex.map(double, ["1"])  # error
    ex.map(spell, [1], [2])  # error
    ex.map(double, [1], chunksize="2")  # error
    ex.map(double, [1], chunk_size=2)  # error

    assert_type(list(ex.starmap(spell, [(1, "a")])), list[str])
    assert_type(list(ex.starmap(double, [(1,)], return_exceptions=True)), list[int | BaseException])
    ex.starmap(double, [(1, 2)])  # error
    ex.starmap(spell, [("a", 1)])  # error

    batch = ex.submit_batch(double, [1, 2, 3])
    assert_type(batch, Batch[int])
    assert_type(list(batch.results()), list[int])
    assert_type(ex.submit_batch(fetch, ["a"]), Batch[bytes])
    ex.submit_batch(double, ["1"])  # error

    assert_type(ex.stream(count, 3), ItemStream[int])
    ex.stream(double, 3)  # error

    futures = [ex.submit(double, n) for n in range(3)]
    for ended in progress_bar(futures, desc="doubled"):
        assert_type(ended, FlyFuture[int])
    for one in as_completed(futures):
        assert_type(one.result(), int)

    ex.with_options(guest="performance-1x", timeout=3.0, retries=2).submit(double, 1)
    ex.with_options(guest={"cpus": 2})
    ex.with_options(guest="huge")  # error
    ex.with_options(timout=3.0)  # error

    assert_type(ex.schedule(spell, 3, "a", every="daily"), Schedule)
    ex.schedule(spell, x=3, word="a", loud=True, every="hourly", name="spelling", at_once=False)
    ex.schedule(print, "good morning", every="daily")
    ex.schedule(fetch, "https://fly.io", every="weekly")
    ex.schedule(double, "1", every="daily")  # error
    ex.schedule(double, 1, 2, every="daily")  # error
    ex.schedule(double, 1, every="dayly")  # error

    if call := current_call():
        assert_type(call.attempt, int)
