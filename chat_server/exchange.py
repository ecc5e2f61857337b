"""A request and its answer: uvicorn's, which writes an answer of known length in one piece."""

from __future__ import annotations

from typing import Any

from uvicorn._types import ASGISendEvent
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from chat_server.heads import written

BODILESS = (204, 304)


class Exchange(RequestResponseCycle):
    """One request and its answer."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._head = b""
        """Of an answer, until its body comes: one packet for the client, one call for the system."""

    async def send(self, message: ASGISendEvent) -> None:
        """Send what the app answers."""
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        if self.disconnected:
            return
        if message["type"] == "http.response.start":
            self._begin(message["status"], list(message.get("headers", [])))
        elif message["type"] == "http.response.body":
            self._continue(message.get("body", b""), more=message.get("more_body", False))

    def disconnect(self) -> None:
        """Whoever reads or answers it learns that nobody is there any more."""
        self.disconnected = True
        self.message_event.set()

    def _begin(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        self.response_started = True
        self.waiting_for_100_continue = False
        names = [name.lower() for name, _ in headers]
        has_body = self.scope["method"] != "HEAD" and status not in BODILESS
        has_length = b"content-length" in names
        # HTTP/1.0 knows no chunks: there, the connection's end is that of a body of unknown length.
        self.chunked_encoding = has_body and not has_length and self.scope["http_version"] == "1.1"
        if self.chunked_encoding:
            headers.append((b"transfer-encoding", b"chunked"))
        if b"connection" in names:
            self.keep_alive = False
        elif not self.keep_alive:
            headers.append((b"connection", b"close"))
        self._head = written(STATUS_LINE[status], headers)
        if not (has_body and has_length):
            self._write(b"")

    def _continue(self, body: bytes, *, more: bool) -> None:
        if self.scope["method"] == "HEAD":
            body = b""
        elif self.chunked_encoding:
            body = (b"%x\r\n%s\r\n" % (len(body), body) if body else b"") + (b"" if more else b"0\r\n\r\n")
        self._write(body)
        if not more:
            self.response_complete = True
            self.message_event.set()
            if not self.keep_alive:
                self.transport.close()
            self.on_response()

    def _write(self, body: bytes) -> None:
        self.transport.write(self._head + body)
        self._head = b""
