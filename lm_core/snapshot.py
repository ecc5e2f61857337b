"""A session as plain data, and back: what a store keeps is checked before it becomes a session."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lm_core.config import LlamaConfig
from lm_core.errors import InvalidParameter
from lm_core.schedule import Schedule, Span
from lm_core.turn import Turn

SNAPSHOT_VERSION = 2
"""Version 1 is read, too; its size grew with the square of the number of turns."""


@dataclass(frozen=True)
class Snapshot:
    """Everything that a session is, but its cache."""

    system: str | None
    prefill_chunk: int
    tokens: list[int]
    spans: tuple[Span, ...]
    turns: list[Turn]

    def to_dict(self) -> dict[str, Any]:
        """Plain data, fit for JSON."""
        return {
            "version": SNAPSHOT_VERSION,
            "system": self.system,
            "prefill_chunk": self.prefill_chunk,
            "tokens": list(self.tokens),
            "spans": [[span.kind, span.count] for span in self.spans],
            "turns": [turn.to_dict() for turn in self.turns],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], config: LlamaConfig) -> Snapshot:
        """The inverse of :meth:`to_dict`, also after a trip through JSON.

        Raises:
            InvalidParameter: the data is of another version, is not a snapshot, contradicts itself, or
                has tokens that a model of this configuration does not.
        """
        version = data.get("version") if isinstance(data, Mapping) else None
        if version not in (1, SNAPSHOT_VERSION):
            raise InvalidParameter(
                "snapshot",
                f"the snapshot has version {version!r}; this program reads up to {SNAPSHOT_VERSION}",
            )
        try:
            snapshot = cls(
                system=data["system"],
                prefill_chunk=data["prefill_chunk"],
                tokens=list(data["tokens"]),
                spans=tuple(Span(kind, count) for kind, count in data["spans"]),
                turns=[Turn.from_dict(turn) for turn in data["turns"]],
            )
        # What json makes of a damaged record can fail in each of these ways.
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise _damaged(f"{type(error).__name__}: {error}") from error
        snapshot._check(config)
        return snapshot

    def _check(self, config: LlamaConfig) -> None:
        if not (self.system is None or isinstance(self.system, str)):
            raise _damaged("its system message is not a text")
        if not _is_count(self.prefill_chunk) or self.prefill_chunk == 0:
            raise _damaged(f"its prefill_chunk is {self.prefill_chunk!r}")
        if len(self.tokens) > config.context_length:
            raise _damaged(f"it has {len(self.tokens)} tokens, more than the context holds")
        _check_tokens(self.tokens, config)
        schedule = Schedule()
        _continue(schedule, 0, self.spans, len(self.tokens))
        # Last to first, as a revert goes: each turn must lead back to something that can have been.
        length = len(self.tokens)
        for turn in reversed(self.turns):
            undo = turn.undo
            if not (_is_count(undo.kept_tokens) and _is_count(undo.cached_tokens)):
                raise _damaged("a turn has a count that is none")
            if not undo.cached_tokens <= undo.kept_tokens <= length:
                raise _damaged("a turn kept more tokens than there are")
            if not (isinstance(turn.text, str) and isinstance(turn.question, str | None)):
                raise _damaged("a turn has a text that is none")
            _check_tokens(undo.replaced_tokens, config)
            length = undo.kept_tokens + len(undo.replaced_tokens)
            _continue(schedule, undo.kept_spans, undo.replaced_spans, length)
        if length:
            raise _damaged(f"{length} of its tokens belong to no turn")


def _check_tokens(tokens: list[int], config: LlamaConfig) -> None:
    if not all(_is_count(token) and token < config.vocab_size for token in tokens):
        raise _damaged(f"it has tokens that are not in the vocabulary of {config.vocab_size}")


def _continue(schedule: Schedule, kept: int, spans: Sequence[Span], length: int) -> None:
    """Go on with the first ``kept`` spans and then ``spans``, for a transcript of ``length`` tokens."""
    for span in spans:
        if span.kind not in ("prefill", "decode") or not _is_count(span.count) or span.count == 0:
            raise _damaged(f"it has the span {span.kind!r} of {span.count!r} tokens")
    if not _is_count(kept) or kept > schedule.count:
        raise _damaged(f"a turn kept {kept!r} spans, but there were {schedule.count}")
    schedule.replace(kept, spans)
    if schedule.length > length:
        raise _damaged(f"its spans cover {schedule.length} tokens, but there are {length}")


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _damaged(how: str) -> InvalidParameter:
    return InvalidParameter("snapshot", f"the snapshot is damaged: {how}")
