"""HTTP connections with bounds: how many, how slowly a request may come and an answer be read."""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from typing import Any
from urllib.parse import unquote

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from chat_server.errors import InvalidRequest, RequestError, Unavailable
from chat_server.exchange import Exchange
from chat_server.gate import error_answer
from chat_server.heads import (
    LARGEST_HEAD,
    check_head,
    head_too_large,
    invalid_http,
    path_and_query,
    without_upgrade,
    written,
)

MOST_UNANSWERED = 64
"""Requests that a client may send on one connection before the first of them is answered."""


class BoundedProtocol(HttpToolsProtocol):
    """uvicorn's protocol, with what it leaves unbounded."""

    def __init__(self, *arguments: Any, request_timeout: float, max_connections: int, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._request_timeout = request_timeout
        self._max_connections = max_connections
        self._head_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None
        self._unused = 0
        """Bytes that came since they last made up a whole head, a piece of a body, or its end."""
        self._unanswered: deque[Exchange] = deque()
        """In their order: the first is being answered, and the body of the last may still be coming."""
        self._last_word: RequestError | None = None
        """What ends the connection, once all that is unanswered is answered."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Refuse one connection too many; expect a request on the others."""
        full = len(self.connections) >= self._max_connections
        super().connection_made(transport)
        sock = transport.get_extra_info("socket")
        if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if full:
            self._end(
                Unavailable(
                    "too_many_connections",
                    f"the server has {self._max_connections} connections already; try again later",
                    headers={"Retry-After": "1"},
                )
            )
        else:
            self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the timers; what is not answered need not be."""
        self._head_timer = _cancelled(self._head_timer)
        self._write_timer = _cancelled(self._write_timer)
        for exchange in self._unanswered:
            exchange.disconnect()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """The head of a request has to be complete in time, from its first byte on."""
        if self.transport.is_closing() or self._last_word is not None:
            return
        self._unset_keepalive_if_required()
        try:
            self._parse(data)
        except RequestError as error:
            self._end(error)
        if self._unanswered or self.transport.is_closing():
            self._head_timer = _cancelled(self._head_timer)
        elif self._head_timer is None:
            self._expect_head()

    def _parse(self, data: bytes) -> None:
        """Raises :class:`RequestError` for what is no request."""
        self._unused += len(data)
        while data:
            try:
                self.parser.feed_data(data)
                break
            except httptools.HttpParserUpgrade as upgrade:
                # What follows, even a body, it leaves to another protocol, which nobody here speaks.
                head = without_upgrade(
                    self.parser.get_method(), self.url, self.parser.get_http_version(), self.headers
                )
                data = head + data[upgrade.args[0] :]
                self.parser = httptools.HttpRequestParser(self)
                self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
            except httptools.HttpParserError as error:
                if isinstance(error.__context__, RequestError):
                    raise error.__context__ from None
                raise invalid_http("Invalid HTTP request received.") from error
        if self._unused > LARGEST_HEAD:
            raise head_too_large()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep one of the head; those that follow a body in pieces are nothing to anybody."""
        if not (self._unanswered and self._unanswered[-1].more_body):
            super().on_header(name, value.rstrip(b" \t"))

    def on_headers_complete(self) -> None:
        """Begin to answer, or wait until what came before is answered."""
        self._unused = 0
        method = self.parser.get_method()
        version = self.parser.get_http_version()
        check_head(method, self.url, version, self.headers)
        if self.parser.should_upgrade():
            return
        if len(self._unanswered) >= MOST_UNANSWERED:
            raise Unavailable(
                "too_much_at_once",
                f"{MOST_UNANSWERED} requests on this connection are not answered yet; try again in 1 s",
                headers={"Retry-After": "1"},
            )
        path, query = path_and_query(self.url)
        self.scope["http_version"] = version
        self.scope["method"] = method.decode("ascii")
        self.scope["path"] = unquote(path.decode("ascii"))
        self.scope["raw_path"] = path
        self.scope["query_string"] = query
        exchange = self.cycle = Exchange(
            scope=self.scope,
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=self.access_log,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=self.expect_100_continue and version == "1.1",
            keep_alive=version == "1.1" and self.parser.should_keep_alive(),
            on_response=self.on_response_complete,
        )
        if self._unanswered:
            self.flow.pause_reading()
            self.pipeline.appendleft((exchange, self.app))
        else:
            task = self.loop.create_task(exchange.run_asgi(self.app))
            task.add_done_callback(self.tasks.discard)
            self.tasks.add(task)
        self._unanswered.append(exchange)

    def on_body(self, body: bytes) -> None:
        """Keep a piece, unless the answer needed none; who sends it unasked need not be asked for it."""
        self._unused = 0
        self.cycle.waiting_for_100_continue = False
        if not self.cycle.response_started:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """A request is whole, and whatever is next begins anew."""
        self._unused = 0
        if not self.parser.should_upgrade():
            self.cycle.waiting_for_100_continue = False
            super().on_message_complete()

    def on_response_complete(self) -> None:
        """The next, or the last word."""
        self._unanswered.popleft()
        super().on_response_complete()
        if self._last_word is not None:
            self._end(self._last_word)

    def pause_writing(self) -> None:
        """A client that does not read its answer is cut off in time."""
        super().pause_writing()
        if self._write_timer is None:
            self._write_timer = self.loop.call_later(self._request_timeout, self.transport.abort)

    def resume_writing(self) -> None:
        """It reads again."""
        super().resume_writing()
        self._write_timer = _cancelled(self._write_timer)

    def _expect_head(self) -> None:
        self._head_timer = self.loop.call_later(self._request_timeout, self._head_is_late)

    def _head_is_late(self) -> None:
        self._head_timer = None
        message = f"the request did not arrive within {self._request_timeout:g} s"
        self._end(InvalidRequest("request_timeout", message, status=408))

    def _end(self, error: RequestError) -> None:
        """Read nothing more; answer what was whole, then this error, and close."""
        self._last_word = error
        self._head_timer = _cancelled(self._head_timer)
        if self._unanswered and self._unanswered[-1].more_body:
            # The error is about this one's body.
            broken = self._unanswered.pop()
            broken.disconnect()
            if self.pipeline:
                self.pipeline.popleft()
            if broken.response_started:
                self.transport.close()
        if self._unanswered or self.transport.is_closing():
            return
        body, headers = error_answer(error)
        head = written(STATUS_LINE[error.status], [*headers, (b"connection", b"close")])
        self.transport.write(head + body)
        self.transport.close()


def _cancelled(timer: asyncio.TimerHandle | None) -> asyncio.TimerHandle | None:
    """Cancels a timer; what takes its place is none."""
    if timer is not None:
        timer.cancel()
    return None
