"""An answer while it is being made: pieces of text, then the turn that was stored."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
from httpx_sse import EventSource

from chat_cli.errors import ConnectionLost, UnexpectedReply, refusal
from chat_cli.records import Turn


class AnswerStream:
    """Iterate over it for the text; afterwards ``turn`` is what the server has stored.

    Leaving it early (closing the response) stops the answer on the server, and nothing is stored.
    """

    def __init__(self, response: httpx.Response) -> None:
        self._response = response
        self.turn: Turn | None = None
        """None until the server has said that the turn is stored."""

    def __iter__(self) -> Iterator[str]:
        """The text, piece by piece.

        Raises:
            RequestRefused: the answer failed; nothing was stored.
            ConnectionLost: the stream ended before the server said that the turn is stored.
            UnexpectedReply: the stream is not what the contract says.
        """
        if not self._response.headers.get("content-type", "").startswith("text/event-stream"):
            # A request_id that was seen before may be answered by the stored turn at once.
            self.turn = Turn.from_json(_json(self._response.read()))
            yield self.turn.content
            return
        for event in EventSource(self._response).iter_sse():
            body = _json(event.data)
            if event.event == "token":
                yield _text(body)
            elif event.event == "done":
                self.turn = Turn.from_json(body)
                return
            elif event.event == "error":
                raise refusal(body)
        raise ConnectionLost("the connection to the server was lost in mid-answer")

    def read(self) -> Turn:
        """The turn, once it is stored.  Raises what iterating raises."""
        for _ in self:
            pass
        if self.turn is None:
            raise ConnectionLost("the connection to the server was lost in mid-answer")
        return self.turn


def _json(data: str | bytes) -> Any:
    try:
        return json.loads(data)
    except ValueError as error:
        raise UnexpectedReply(f"the server sent something that is not JSON: {error}") from error


def _text(body: Any) -> str:
    text = body.get("text") if isinstance(body, dict) else None
    if not isinstance(text, str):
        raise UnexpectedReply("the server sent a token event without text")
    return text
