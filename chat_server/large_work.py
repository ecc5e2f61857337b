"""What large bodies cost, one after the other: side by side they would take memory and stop everyone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
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
    """One thread: several would hold Python's lock in turn, and the event loop would wait for them all."""

    def __init__(self, name: str) -> None:
        self._executor = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._waiting = 0

    async def run(self, work: Callable[..., Result], *arguments: Any) -> Result:
        """What ``work`` gives.

        Raises:
            Busy: too much waits already.
        """
        if self._waiting >= MOST_WAITING:
            raise Busy(
                "too_much_at_once",
                "the server is reading as many large texts as it can; try again in 1 s",
                headers={"Retry-After": "1"},
            )
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._executor, work, *arguments)
        finally:
            self._waiting -= 1

    def close(self) -> None:
        """End the thread."""
        self._executor.shutdown()
