"""Large bodies and texts: one at a time, a bounded number, and never in the way of others."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from chat_server.errors import Busy
from chat_server.large_work import MOST_WAITING, LargeWork
from chat_server.service import ChatService


def test_one_at_a_time_and_no_more_than_may_wait() -> None:
    """The next is told to come again, and once there is room it may."""
    running, seen, go_on = [0], [0], threading.Event()

    def work() -> None:
        running[0] += 1
        seen[0] = max(seen[0], running[0])
        go_on.wait(60)
        running[0] -= 1

    async def crowd() -> None:
        large = LargeWork("test")
        waiting = [asyncio.create_task(large.run(work)) for _ in range(MOST_WAITING)]
        await asyncio.sleep(0)
        with pytest.raises(Busy) as refused:
            await large.run(work)
        assert refused.value.headers["Retry-After"] == "1"
        go_on.set()
        await asyncio.gather(*waiting)
        assert await large.run(lambda: 5) == 5
        large.close()

    asyncio.run(crowd())
    assert seen == [1]


def test_others_get_as_much_time_as_the_work() -> None:
    """A piece that follows another at once waits as long as that one took."""

    async def two() -> float:
        large = LargeWork("test")
        (_, ended), (started, _) = await asyncio.gather(large.run(work), large.run(work))
        large.close()
        return started - ended

    def work() -> tuple[float, float]:
        started = time.monotonic()
        time.sleep(0.02)
        return started, time.monotonic()

    assert asyncio.run(two()) >= 0.02


class CountingStore:
    """A store of three sessions."""

    def count(self) -> int:
        return 3


def test_health_does_not_wait_for_work() -> None:
    """The threads for everything else may all be busy."""
    go_on = threading.Event()
    executor = ThreadPoolExecutor(1)
    executor.submit(go_on.wait, 60)

    async def ask() -> int:
        anything: Any = None
        service = ChatService(
            anything,
            anything,
            CountingStore(),  # type: ignore[arg-type]
            anything,
            anything,
            512,
            executor,
            executor,
            LargeWork("test"),
            anything,
        )
        async with asyncio.timeout(30):
            return await service.count()

    try:
        assert asyncio.run(ask()) == 3
    finally:
        go_on.set()
        executor.shutdown()
