"""asyncio: calls are awaited, and neither submit nor cancel keeps the loop waiting."""

import asyncio

import pytest

from flyexecutor import RedisUnavailableError
from tests import tasks

WAIT = 30.0


def test_a_call_can_be_awaited(executor):
    async def main():
        loop = asyncio.get_running_loop()
        one = loop.run_in_executor(executor, tasks.increment, 1)
        two = asyncio.wrap_future(executor.submit(tasks.increment, 2))
        return await asyncio.wait_for(asyncio.gather(one, two), WAIT)

    assert asyncio.run(main()) == [2, 3]


def test_a_future_is_awaited_as_it_is(executor):
    async def main():
        one, two = executor.submit(tasks.increment, 1), executor.submit(tasks.raise_value_error, "no good")
        return await asyncio.wait_for(asyncio.gather(one, two, return_exceptions=True), WAIT), await one, one

    (one, two), again, future = asyncio.run(main())
    assert (one, again, str(two), future.result()) == (2, 2, "no good", 2)


def test_a_task_that_awaits_a_queued_call_cancels_it_when_it_is_cancelled(make_executor, tmp_path):
    executor = make_executor(max_workers=1)
    gate = tasks.Gate.make(tmp_path)
    running, queued = executor.submit(gate.enter), executor.submit(tasks.increment, 1)

    async def wait_for(future):
        await future

    async def main():
        waiting = [asyncio.create_task(wait_for(future)) for future in (running, queued)]
        await asyncio.to_thread(gate.wait_for_entry)
        for task in waiting:
            task.cancel()
        return await asyncio.gather(*waiting, return_exceptions=True)

    assert [type(one) for one in asyncio.run(main())] == [asyncio.CancelledError] * 2
    assert (running.cancelled(), queued.cancelled()) == (False, True)
    gate.open()
    assert running.result(WAIT)


def test_an_exception_of_a_call_is_raised_by_await(executor):
    async def main():
        await asyncio.get_running_loop().run_in_executor(executor, tasks.raise_value_error, "no good")

    with pytest.raises(ValueError, match="no good"):
        asyncio.run(main())


def test_a_task_that_is_cancelled_cancels_its_queued_call(make_executor, tmp_path):
    executor = make_executor(max_workers=1)
    gate = tasks.Gate.make(tmp_path)
    running = executor.submit(gate.enter)
    gate.wait_for_entry()
    queued = executor.submit(tasks.append_line, tmp_path / "ran", "x")
    executor.flush(WAIT)

    async def main():
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.wrap_future(queued), 0.05)

    asyncio.run(main())
    assert queued.cancelled()
    gate.open()
    assert running.result(WAIT)
    assert executor.submit(tasks.increment, 1).result(WAIT) == 2
    assert not (tmp_path / "ran").exists()


def test_the_loop_goes_on_while_redis_is_away(make_executor, closed_port, monkeypatch):
    monkeypatch.setattr("flyexecutor.client.outbox.FIRST_CONTACT", 1.0)
    executor = make_executor(redis_url=f"redis://127.0.0.1:{closed_port}/0")

    async def main():
        turns = 0

        async def turn():
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        turning = asyncio.create_task(turn())
        futures = [asyncio.wrap_future(executor.submit(tasks.increment, n)) for n in range(20)]
        await asyncio.sleep(0)
        before = turns
        for future in futures[:10]:
            future.cancel()
            await asyncio.sleep(0)
        after = turns
        with pytest.raises(RedisUnavailableError):
            await asyncio.wait_for(futures[-1], WAIT)
        turning.cancel()
        return after - before

    assert asyncio.run(main()) >= 10
