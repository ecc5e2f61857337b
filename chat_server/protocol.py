"""HTTP connections with bounds: how many, how slowly a request may come and an answer be read."""

from __future__ import annotations

import asyncio
import json
import socket
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from chat_server.errors import InvalidRequest, RequestError, Unavailable


class BoundedProtocol(H11Protocol):
    """uvicorn's protocol, with what it leaves unbounded."""

    def __init__(self, *arguments: Any, request_timeout: float, max_connections: int, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._request_timeout = request_timeout
        self._max_connections = max_connections
        self._head_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Refuse one connection too many; expect a request on the others."""
        full = len(self.connections) >= self._max_connections
        super().connection_made(transport)
        sock = transport.get_extra_info("socket")
        if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if full:
            self._answer(
                Unavailable(
                    "too_many_connections",
                    f"the server has {self._max_connections} connections already; try again later",
                    headers={"Retry-After": "1"},
                )
            )
        else:
            self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the timers."""
        self._head_timer = _cancelled(self._head_timer)
        self._write_timer = _cancelled(self._write_timer)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """The head of a request has to be complete in time, from its first byte on."""
        if self.transport.is_closing():
            return
        super().data_received(data)
        if self.transport.is_closing() or self.conn.their_state is not h11.IDLE:
            self._head_timer = _cancelled(self._head_timer)
        elif self._head_timer is None:
            self._expect_head()

    def pause_writing(self) -> None:
        """A client that does not read its answer is cut off in time."""
        super().pause_writing()
        if self._write_timer is None:
            self._write_timer = self.loop.call_later(self._request_timeout, self.transport.abort)

    def resume_writing(self) -> None:
        """It reads again."""
        super().resume_writing()
        self._write_timer = _cancelled(self._write_timer)

    def send_400_response(self, msg: str) -> None:
        """What is no HTTP is told so in the form of all errors."""
        self._answer(InvalidRequest("invalid_http", msg))

    def _expect_head(self) -> None:
        self._head_timer = self.loop.call_later(self._request_timeout, self._head_is_late)

    def _head_is_late(self) -> None:
        self._head_timer = None
        if self.conn.their_state is h11.IDLE and not self.transport.is_closing():
            message = f"the request did not arrive within {self._request_timeout:g} s"
            self._answer(InvalidRequest("request_timeout", message, status=408))

    def _answer(self, error: RequestError) -> None:
        """Answer outside of any request, and close."""
        body = json.dumps(error.body()).encode()
        headers = [
            ("content-type", "application/json"),
            ("content-length", str(len(body))),
            ("connection", "close"),
            *error.headers.items(),
        ]
        self._head_timer = _cancelled(self._head_timer)
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            for event in (
                h11.Response(status_code=error.status, headers=headers),
                h11.Data(data=body),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()


def _cancelled(timer: asyncio.TimerHandle | None) -> asyncio.TimerHandle | None:
    """Cancels a timer; what takes its place is none."""
    if timer is not None:
        timer.cancel()
    return None
