"""One turn of a session: a prompt and what the model answered, with how to undo it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from lm_core.sampler import SamplingParams
from lm_core.schedule import Span

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True)
class Undo:
    """What a session was before a turn: everything that cannot be derived from what remains."""

    kept_tokens: int
    """Tokens that the turn left alone; it replaced or followed the rest."""
    replaced_tokens: list[int]
    """The tokens after those.  Empty unless the turn changed the past."""
    cached_tokens: int
    """Cached tokens that the turn left alone."""
    kept_spans: int
    """How the cached tokens had been computed: the first so many spans of the schedule, which the turn
    left alone, ..."""
    replaced_spans: tuple[Span, ...]
    """... and the spans after those."""


@dataclass(frozen=True)
class Turn:
    """A finished turn.  Counts are of tokens, durations of seconds."""

    question: str | None
    """The last message, or the text that was appended; None for token ids."""
    text: str
    """The answer as a person sees it: no control tokens, cut at a stop string."""
    rendered: str | None
    """The session's whole text after this turn, control tokens included, where a template made it."""
    finish_reason: FinishReason
    prompt_tokens: int
    """The whole context before the answer."""
    cached_tokens: int
    """How many of those did not have to be computed."""
    generated_tokens: int
    """The stop token included."""
    prompt_seconds: float
    generation_seconds: float
    params: SamplingParams
    """As used: ``seed`` is the one drawn where none was given."""
    undo: Undo = field(repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, fit for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Turn:
        """The inverse of :meth:`to_dict`, also after a trip through JSON."""
        undo = dict(data["undo"])
        if "spans" in undo:
            # Version 1 of snapshots had every span in every turn.
            undo |= {"kept_spans": 0, "replaced_spans": undo.pop("spans")}
        undo["replaced_spans"] = tuple(Span(**span) for span in undo["replaced_spans"])
        return cls(**{**data, "params": SamplingParams(**data["params"]), "undo": Undo(**undo)})
