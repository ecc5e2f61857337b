"""How much work the server takes on: beyond it, a request is refused at once instead of waiting."""

from __future__ import annotations

import math
from collections import deque
from itertools import count

from chat_server.errors import Busy, Unavailable

_REMEMBERED = 32
"""Turns whose duration makes the estimate of ``Retry-After``."""
_LONGEST_RETRY = 60


class Admission:
    """Counts the turns that run or wait.  Lives on the event loop's thread."""

    def __init__(self, max_running: int, max_queue: int) -> None:
        self._max_running = max_running
        self._limit = max_running + max_queue
        self._tickets = count(1)
        self._durations: deque[float] = deque(maxlen=_REMEMBERED)
        self.draining = False
        self.admitted = 0
        """Turns that run or wait."""

    def enter(self) -> int:
        """Take a turn on, and number it by its arrival.  Each ``enter`` needs one :meth:`leave`.

        Errors are those of :meth:`refuse_when_full`.
        """
        self.refuse_when_full()
        self.admitted += 1
        return next(self._tickets)

    def refuse_when_full(self) -> None:
        """See whether a turn could be taken on now.

        Raises:
            Unavailable: the server is shutting down.
            Busy: as many run and wait as may.
        """
        self.refuse_while_draining()
        if self.admitted >= self._limit:
            retry_after = str(self._retry_after())
            raise Busy(
                "queue_full",
                f"the server is busy with {self.admitted} requests; try again in {retry_after} s",
                headers={"Retry-After": retry_after},
            )

    def leave(self, seconds: float | None) -> None:
        """A turn has ended; ``seconds`` is how long it took, where that says something."""
        self.admitted -= 1
        if seconds is not None:
            self._durations.append(seconds)

    def refuse_while_draining(self) -> None:
        """Raises :class:`Unavailable` once the server is shutting down."""
        if self.draining:
            raise Unavailable(
                "draining", "the server is shutting down; try again later", headers={"Retry-After": "5"}
            )

    def _retry_after(self) -> int:
        """Seconds until a place is likely to be free: a mean turn, shared by those that run at once."""
        if not self._durations:
            return 1
        mean = sum(self._durations) / len(self._durations)
        return max(1, min(_LONGEST_RETRY, math.ceil(mean / self._max_running)))
