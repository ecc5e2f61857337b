"""Many requests at one moment, by a client that costs little: one thread, and nothing around its sockets."""

from __future__ import annotations

import json
import selectors
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter

LOOK_SECONDS = 0.002
HEALTH_SECONDS = 0.01
"""Between an answer of ``/health`` and the next question."""
MOST_SECONDS = 300.0
"""A server that has not answered everybody by then hangs."""

Address = tuple[str, int]


@dataclass(frozen=True)
class Burst:
    """What became of it, in seconds from each request's first step to the first byte of its answer."""

    refusals: tuple[float, ...]
    """Of those that got 429."""
    health: tuple[float, ...]
    """Of ``/health``, asked again and again meanwhile."""
    others: frozenset[int]
    """Statuses of all other answers."""


class _Request:
    """One request on a connection of its own, whose end is that of the answer."""

    def __init__(self, selector: selectors.BaseSelector, address: Address, head: str, body: bytes) -> None:
        self.started = perf_counter()
        self.seconds = 0.0
        self.status = 0
        lines = (
            f"{head} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: close\r\n"
        )
        self._unsent = f"{lines}Content-Length: {len(body)}\r\n\r\n".encode() + body
        self._received = b""
        self._selector = selector
        self._socket = socket.socket()
        self._socket.setblocking(False)
        self._socket.connect_ex(address)
        selector.register(self._socket, selectors.EVENT_WRITE, self)

    def go_on(self, events: int) -> bool:
        """Send or receive what can be; whether the answer is there, whole."""
        if events & selectors.EVENT_WRITE:
            self._unsent = self._unsent[self._socket.send(self._unsent) :]
            if not self._unsent:
                self._selector.modify(self._socket, selectors.EVENT_READ, self)
            return False
        piece = self._socket.recv(1 << 16)
        if not self._received:
            self.seconds = perf_counter() - self.started
        self._received += piece
        if piece:
            return False
        self.status = int(self._received.split(b" ", 2)[1])
        self._selector.unregister(self._socket)
        self._socket.close()
        return True


def burst(address: Address, sessions: Sequence[str], tokens: int) -> Burst:
    """Ask for a turn in each of ``sessions`` at once, and wait for all answers.

    Raises:
        TimeoutError: they do not all come.
        OSError: a connection broke.
    """
    body = json.dumps({"content": "Hello", "max_tokens": tokens}).encode()
    refusals, health, others = [], [], set()
    with selectors.DefaultSelector() as selector:
        left = {_Request(selector, address, f"PUT /generate/{name}", body) for name in sessions}
        deadline = perf_counter() + MOST_SECONDS
        check: _Request | None = None
        next_check = perf_counter()
        while left or check:
            if left and check is None and perf_counter() >= next_check:
                check = _Request(selector, address, "GET /health", b"")
            for key, events in selector.select(LOOK_SECONDS):
                request: _Request = key.data
                if not request.go_on(events):
                    continue
                if request is check:
                    health.append(request.seconds)
                    check, next_check = None, perf_counter() + HEALTH_SECONDS
                    continue
                left.discard(request)
                if request.status == 429:
                    refusals.append(request.seconds)
                else:
                    others.add(request.status)
            if perf_counter() > deadline:
                raise TimeoutError(f"{len(left)} requests were not answered in {MOST_SECONDS:g} s")
    return Burst(tuple(refusals), tuple(health), frozenset(others))
