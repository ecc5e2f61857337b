"""What goes into the store and what comes out of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from os.path import commonprefix
from typing import Any, Literal

from lm_core.sampler import SamplingParams
from lm_core.schedule import Span
from lm_core.session import Session
from lm_core.turn import FinishReason, Turn

PromptKind = Literal["messages", "text", "tokens"]
"""A question put to the conversation, a text that was appended, or the whole context as token ids."""


@dataclass(frozen=True)
class StoredSession:
    """What the store knows of a session, without its turns."""

    id: str
    owner: str
    """Who may see it: the hash of an API key, or "" where there are no keys."""
    model: str
    created_at: datetime
    """In UTC."""
    system: str | None
    sampling: Mapping[str, Any]
    """The session's own defaults, as they were given to :meth:`Store.create`."""
    turns: int
    """Turns that are in force: reverted ones do not count."""
    tokens: int
    """Length of the transcript."""
    version: int
    """Grows with each change, and is what the next one must be told.  Its value means nothing else."""
    parent: str | None
    """The id that the session it was forked from had."""
    parent_turn: int | None
    """It was forked from the state before this turn of its parent."""


@dataclass(frozen=True)
class StoredTurn:
    """What the store knows of a turn, without its tokens.  Counts and durations are :class:`Turn`'s."""

    index: int
    """Its place in the conversation, from 0 on."""
    created_at: datetime
    """When it was stored, in UTC."""
    request_id: str | None
    request_hash: str | None
    """A hash of the request's body, to tell a repeated request from a different one of the same id."""
    prompt_kind: PromptKind
    question: str | None
    text: str
    finish_reason: FinishReason
    prompt_tokens: int
    cached_tokens: int
    generated_tokens: int
    prompt_seconds: float
    generation_seconds: float
    params: SamplingParams
    """As used, with the seed that was drawn."""


@dataclass(frozen=True)
class FoundRequest:
    """The turn that a ``request_id`` belongs to."""

    turn: StoredTurn
    reverted: bool
    """Whether it has been reverted since, and is no longer part of the conversation."""


@dataclass(frozen=True)
class NewTurn:
    """The last turn of a live session as the difference from the turn before, which is all that is stored.

    Make it by :meth:`last_of` where the session cannot change meanwhile; it shares nothing with it.
    """

    turn: Turn
    index: int
    prompt_kind: PromptKind
    request_id: str | None
    request_hash: str | None
    prefill_chunk: int
    """The session's, which its next turn is computed with."""
    added_tokens: tuple[int, ...]
    """What follows the first ``turn.undo.kept_tokens`` tokens."""
    kept_spans: int
    """Spans at the beginning of the schedule that are those of the turn before."""
    added_spans: tuple[Span, ...]
    kept_rendered: int
    """Characters at the beginning of ``turn.rendered`` that are those of the turn before."""
    added_rendered: str | None
    """The characters after them; None where ``turn.rendered`` is."""

    @classmethod
    def last_of(
        cls,
        session: Session,
        prompt_kind: PromptKind,
        request_id: str | None = None,
        request_hash: str | None = None,
    ) -> NewTurn:
        """The turn that ``session`` finished last.  It must not have computed anything since.

        Raises:
            ValueError: the session has no turns.
        """
        if not session.turns:
            raise ValueError("the session has no turn that could be stored")
        turn = session.turns[-1]
        rendered_before = session.turns[-2].rendered if len(session.turns) > 1 else None
        kept_rendered = len(commonprefix([rendered_before or "", turn.rendered or ""]))
        return cls(
            turn=turn,
            index=len(session.turns) - 1,
            prompt_kind=prompt_kind,
            request_id=request_id,
            request_hash=request_hash,
            prefill_chunk=session.prefill_chunk,
            added_tokens=tuple(session.tokens[turn.undo.kept_tokens :]),
            kept_spans=turn.undo.kept_spans,
            added_spans=session.schedule.spans_from(turn.undo.kept_spans),
            kept_rendered=kept_rendered,
            added_rendered=None if turn.rendered is None else turn.rendered[kept_rendered:],
        )
