"""Who runs, who waits, and whose cache is dropped: bookkeeping without tensors, clocks or threads.

A request is a *ticket*: a number that grows with the order of arrival.  It belongs to a session,
named by any hashable key, and needs so many bytes of cache.  A session has one ticket at a time;
whoever calls sees to that.
"""

from __future__ import annotations

from bisect import insort
from collections import OrderedDict, deque
from collections.abc import Hashable
from dataclasses import dataclass, field

Key = Hashable


@dataclass(frozen=True, order=True)
class Waiting:
    """A ticket in the queue."""

    ticket: int
    key: Key = field(compare=False)
    nbytes: int = field(compare=False)
    """Bytes of cache that it will hold at most."""


@dataclass(frozen=True)
class Start:
    """A ticket that may run now, once these sessions' caches have been dropped."""

    ticket: int
    evicted: list[Key]


class Scheduler:
    """First come, first served: nobody overtakes, so nobody waits for ever.

    The byte budget holds for all caches together.  Caches of running sessions are never dropped;
    idle ones are, least recently used first.  A ticket that does not fit beside those that run
    waits until it does; one that would run alone always may.
    """

    def __init__(self, max_running: int, kv_budget: int) -> None:
        self._max_running = max_running
        self._kv_budget = kv_budget
        self._waiting: list[Waiting] = []
        self._running: dict[int, Waiting] = {}
        self._idle: OrderedDict[Key, int] = OrderedDict()
        self._prefilling: deque[int] = deque()

    @property
    def waiting(self) -> int:
        """Tickets in the queue."""
        return len(self._waiting)

    @property
    def running(self) -> list[int]:
        """Tickets that run, in order of arrival."""
        return sorted(self._running)

    @property
    def kv_bytes(self) -> int:
        """Bytes of cache, idle and running; what runs counts with all it may come to hold."""
        return sum(self._idle.values()) + sum(ticket.nbytes for ticket in self._running.values())

    @property
    def idle(self) -> int:
        """Sessions whose cache is kept although nothing runs there."""
        return len(self._idle)

    def enqueue(self, ticket: int, key: Key, nbytes: int) -> None:
        """Let a ticket wait for its turn.  One that arrived earlier takes its place before later ones."""
        insort(self._waiting, Waiting(ticket, key, nbytes))

    def next_start(self) -> Start | None:
        """Let the first in the queue run, if it may; call again until it is None."""
        if not self._waiting or len(self._running) >= self._max_running:
            return None
        first = self._waiting[0]
        room = self._kv_budget - first.nbytes - sum(ticket.nbytes for ticket in self._running.values())
        if room < 0 and self._running:
            return None
        del self._waiting[0]
        self._idle.pop(first.key, None)
        self._running[first.ticket] = first
        self._prefilling.append(first.ticket)
        return Start(first.ticket, self._evict_to(room))

    def next_prefill(self) -> int | None:
        """The running ticket whose prompt is computed next.  They take turns, chunk by chunk."""
        if not self._prefilling:
            return None
        self._prefilling.rotate(-1)
        return self._prefilling[-1]

    def decoding(self) -> list[int]:
        """Running tickets whose prompt has been computed, in order of arrival."""
        return sorted(self._running.keys() - set(self._prefilling))

    def prefilled(self, ticket: int) -> None:
        """A ticket's prompt has been computed: from now on it decodes."""
        self._prefilling.remove(ticket)

    def withdraw(self, ticket: int) -> bool:
        """Take a ticket out of the queue; False if it is not there."""
        for index, waiting in enumerate(self._waiting):
            if waiting.ticket == ticket:
                del self._waiting[index]
                return True
        return False

    def end(self, ticket: int, nbytes: int) -> list[Key]:
        """A running ticket has ended and its session holds ``nbytes`` (0: none) of cache from now on.

        Returns:
            The sessions whose caches have to be dropped now, which may include its own.
        """
        ended = self._running.pop(ticket)
        if ticket in self._prefilling:
            self._prefilling.remove(ticket)
        return self.keep(ended.key, nbytes)

    def keep(self, key: Key, nbytes: int) -> list[Key]:
        """An idle session holds ``nbytes`` of cache from now on; returns what has to be dropped."""
        self._idle.pop(key, None)
        if nbytes:
            self._idle[key] = nbytes
        return self._evict_to(self._kv_budget - sum(ticket.nbytes for ticket in self._running.values()))

    def forget(self, key: Key) -> None:
        """An idle session is gone, with its cache."""
        self._idle.pop(key, None)

    def _evict_to(self, room: int) -> list[Key]:
        """Drop the least recently used until the idle ones take at most ``room`` bytes."""
        evicted, held = [], sum(self._idle.values())
        while self._idle and held > room:
            key, nbytes = self._idle.popitem(last=False)
            held -= nbytes
            evicted.append(key)
        return evicted
