"""What large bodies cost, one after the other: side by side they would take memory and stop everyone."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

from chat_server.errors import Busy

LARGE_BODY = 1 << 14
"""Bytes.  Whatever a smaller body holds, it is read in two milliseconds."""
LARGE_TEXT = 1 << 16
"""Characters.  Tokenizing takes some 200 bytes of memory for each, for a moment."""
MOST_WAITING = 16
"""Pieces of work that wait.  The worst body takes half a second to read, a text some milliseconds."""

Result = TypeVar("Result")


class LargeWork:
    """One thread: several would hold Python's lock in turn, and the event loop would wait for them all.

    It rests after each piece as long as that took, so that the lock is everybody's half of the time.
    """

    def __init__(self, name: str) -> None:
        self._executor = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._waiting = 0
        self._rested = 0.0
        """When the thread may go on, by the monotonic clock."""

    @contextmanager
    def place(self) -> Iterator[None]:
        """One of the places for what is to be worked on, or is on its way here.

        Raises:
            Busy: all are taken.
        """
        if self._waiting >= MOST_WAITING:
            raise Busy(
                "too_much_at_once",
                "the server is reading as many large texts as it can; try again in 1 s",
                headers={"Retry-After": "1"},
            )
        self._waiting += 1
        try:
            yield
        finally:
            self._waiting -= 1

    async def run(self, work: Callable[..., Result], *arguments: Any) -> Result:
        """What ``work`` gives; raises what it raises, and the error of :meth:`place`."""
        with self.place():
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._executor, self._rest_and_work, work, *arguments)

    def _rest_and_work(self, work: Callable[..., Result], *arguments: Any) -> Result:
        time.sleep(max(0.0, self._rested - time.monotonic()))
        started = time.monotonic()
        try:
            return work(*arguments)
        finally:
            ended = time.monotonic()
            self._rested = ended + (ended - started)

    def close(self) -> None:
        """End the thread."""
        self._executor.shutdown()
