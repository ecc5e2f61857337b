"""What clients get: the objects of the contract, made from what the store knows."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel

from chat_server.store import StoredSession, StoredTurn


class SessionObject(BaseModel):
    """A session, without its turns."""

    id: str
    model: str
    created_at: str
    turns: int
    tokens: int
    context_length: int
    system: str | None
    parent: str | None = None
    """The session it was forked from."""
    parent_turn: int | None = None
    """It was forked from the state before this turn."""


class Usage(BaseModel):
    """Counts of tokens."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int


class Timings(BaseModel):
    """Milliseconds, and tokens per second."""

    prompt_ms: float
    prompt_per_second: float
    predicted_ms: float
    predicted_per_second: float


class TurnObject(BaseModel):
    """A turn that has been stored."""

    turn: int
    content: str
    finish_reason: Literal["stop", "length"]
    usage: Usage
    timings: Timings
    request_id: str | None
    seed: int | None


class HistoryTurn(BaseModel):
    """A turn in a session's history."""

    index: int
    user: str | None
    """None where the context came as token ids."""
    assistant: str
    finish_reason: Literal["stop", "length"]
    usage: Usage
    created_at: str


class HistoryObject(BaseModel):
    """A session with its turns."""

    id: str
    model: str
    created_at: str
    turns: list[HistoryTurn]
    tokens: int
    context_length: int
    system: str | None
    parent: str | None = None
    parent_turn: int | None = None


class SessionList(BaseModel):
    """All sessions of a key, newest first."""

    sessions: list[SessionObject]


class RemovedObject(BaseModel):
    """A session that is gone."""

    id: str
    removed: Literal[True] = True


class TokensObject(BaseModel):
    """Token ids of a text."""

    tokens: list[int]


class ContentObject(BaseModel):
    """The text of token ids."""

    content: str


class HealthObject(BaseModel):
    """What the server is doing."""

    status: Literal["ok", "loading", "draining"]
    model: str | None
    dtype: str | None
    threads: int
    sessions: int
    kv_bytes: int
    queue: int


class ErrorDetail(BaseModel):
    """What went wrong.  ``context_length_exceeded`` also has ``prompt_tokens`` and ``context_length``."""

    message: str
    type: str
    param: str | None
    code: str
    prompt_tokens: int | None = None
    context_length: int | None = None


class ErrorObject(BaseModel):
    """The body of every answer that is an error."""

    error: ErrorDetail
    err_msg: str


def session_fields(stored: StoredSession, context_length: int) -> dict[str, Any]:
    """The session object."""
    fields = {
        "id": stored.id,
        "model": stored.model,
        "created_at": _timestamp(stored.created_at),
        "turns": stored.turns,
        "tokens": stored.tokens,
        "context_length": context_length,
        "system": stored.system,
    }
    if stored.parent is not None:
        fields |= {"parent": stored.parent, "parent_turn": stored.parent_turn}
    return fields


def history_fields(stored: StoredSession, turns: list[StoredTurn], context_length: int) -> dict[str, Any]:
    """The session object with its turns."""
    return session_fields(stored, context_length) | {
        "turns": [
            {
                "index": turn.index,
                "user": turn.question,
                "assistant": turn.text,
                "finish_reason": turn.finish_reason,
                "usage": _usage(turn),
                "created_at": _timestamp(turn.created_at),
            }
            for turn in turns
        ]
    }


def turn_fields(turn: StoredTurn) -> dict[str, Any]:
    """The turn object."""
    computed = turn.prompt_tokens - turn.cached_tokens
    # The first answer token comes out of the prompt's computation; the others take the time after it.
    predicted = max(turn.generated_tokens - 1, 0)
    return {
        "turn": turn.index,
        "content": turn.text,
        "finish_reason": turn.finish_reason,
        "usage": _usage(turn),
        "timings": {
            "prompt_ms": turn.prompt_seconds * 1e3,
            "prompt_per_second": _rate(computed, turn.prompt_seconds),
            "predicted_ms": turn.generation_seconds * 1e3,
            "predicted_per_second": _rate(predicted, turn.generation_seconds),
        },
        "request_id": turn.request_id,
        "seed": turn.params.seed,
    }


def _usage(turn: StoredTurn) -> dict[str, int]:
    return {
        "prompt_tokens": turn.prompt_tokens,
        "completion_tokens": turn.generated_tokens,
        "cached_tokens": turn.cached_tokens,
    }


def _rate(tokens: int, seconds: float) -> float:
    return tokens / seconds if seconds > 0 else 0.0


def _timestamp(moment: datetime) -> str:
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")
