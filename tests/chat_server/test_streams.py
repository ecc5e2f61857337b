"""Event streams: comments while nothing comes, and what ends them."""

from __future__ import annotations

import asyncio
import json

import pytest
from starlette.types import Message

from chat_server import streams
from chat_server.errors import RequestError, Unavailable
from chat_server.jobs import Text
from chat_server.turns import Generation


class Watch:
    """Stands for a :class:`streams.DisconnectWatch` on a connection that stays."""

    def end(self) -> None:
        """Nothing to end."""


async def sent_by(generation: Generation) -> list[Message]:
    """Everything that a stream over ``generation`` sends."""
    messages: list[Message] = []

    async def send(message: Message) -> None:
        messages.append(message)

    async def receive() -> Message:
        raise AssertionError("a stream reads nothing")

    async def nothing() -> None:
        pass

    generation.run_as(nothing())
    await streams.EventStream(generation, Watch())({"type": "http"}, receive, send)  # type: ignore[arg-type]
    return messages


def test_silence_is_filled_with_comments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "KEEP_ALIVE_SECONDS", 0.01)

    async def talk() -> list[Message]:
        generation = Generation()
        loop = asyncio.get_running_loop()
        loop.call_later(0.1, generation.tell, Text("é"))
        loop.call_later(0.2, generation.fail, Unavailable("draining", "going away"))
        return await sent_by(generation)

    head, *chunks, last = asyncio.run(talk())
    assert head["status"] == 200 and dict(head["headers"])[b"content-type"].startswith(b"text/event-stream")
    assert not last["more_body"]
    bodies = [chunk["body"] for chunk in chunks]
    assert bodies.count(b": keep-alive\n\n") >= 2
    token, error = (body.decode() for body in bodies if not body.startswith(b":"))
    assert token == 'event: token\ndata: {"text": "é"}\n\n'
    name, data = error.split("\n")[:2]
    assert name == "event: error" and json.loads(data.removeprefix("data: "))["err_msg"] == "going away"


def test_a_line_break_in_the_text_stays_in_its_event() -> None:
    async def talk() -> list[Message]:
        generation = Generation()
        generation.tell(Text("a\n\nevent: done\r\ndata: {}\u2028"))
        generation.fail(RequestError("x", "y"))
        return await sent_by(generation)

    event = asyncio.run(talk())[1]["body"].decode()
    assert event.count("\n") == 3 and "\r" not in event
