"""Turns on the wire while they are made: server-sent events, and noticing that nobody listens any more."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from chat_server.answers import turn_fields
from chat_server.errors import RequestError
from chat_server.service import CLIENT_GONE
from chat_server.turns import Done, Generation

MEDIA_TYPE = "text/event-stream"
KEEP_ALIVE_SECONDS = 5.0
"""Silence after which a comment keeps the connection alive."""


class DisconnectWatch:
    """Cancels a generation as soon as its client goes away."""

    def __init__(self, request: Request, generation: Generation) -> None:
        self._task = asyncio.get_running_loop().create_task(self._watch(request.receive, generation))

    async def _watch(self, receive: Receive, generation: Generation) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        generation.cancel(CLIENT_GONE)

    def end(self) -> None:
        """Watch no longer."""
        self._task.cancel()


class EventStream(Response):
    """The answer to a request that wants a turn as it is made."""

    media_type = MEDIA_TYPE

    def __init__(self, generation: Generation, watch: DisconnectWatch) -> None:
        super().__init__(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._generation = generation
        self._watch = watch

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        """Send events until the turn has ended."""
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            async for event in _events(self._generation):
                await send({"type": "http.response.body", "body": event, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            self._generation.cancel(CLIENT_GONE)
            self._watch.end()


async def _events(generation: Generation) -> AsyncIterator[bytes]:
    while True:
        try:
            # Once a token: no task is made for it.  What comes while time runs out is not lost.
            async with asyncio.timeout(KEEP_ALIVE_SECONDS):
                piece = await generation.next()
        except TimeoutError:
            yield b": keep-alive\n\n"
            continue
        except RequestError as error:
            yield _event("error", error.body())
            return
        if isinstance(piece, Done):
            if not piece.new_tokens:
                # A turn of an earlier request, which was never streamed here.
                yield _event("token", {"text": piece.turn.text})
            yield _event("done", turn_fields(piece.turn))
            return
        yield _event("token", {"text": piece.text})


def _event(name: str, data: dict[str, Any]) -> bytes:
    return f"event: {name}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n".encode()
