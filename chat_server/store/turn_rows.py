"""A turn as a row of the database, and a chain of rows as the session that they made."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from typing import Any

import numpy as np

from chat_server.store.errors import StoreDamaged
from chat_server.store.records import NewTurn, StoredTurn
from lm_core.errors import InvalidParameter
from lm_core.sampler import SamplingParams
from lm_core.schedule import Span
from lm_core.snapshot import SNAPSHOT_VERSION

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

CHECKED_COLUMNS = (
    "position",
    "created_at",
    "request_id",
    "request_hash",
    "prompt_kind",
    "question",
    "answer",
    "finish_reason",
    "prompt_tokens",
    "cached_tokens",
    "generated_tokens",
    "prompt_seconds",
    "generation_seconds",
    "params",
    "kept_tokens",
    "added_tokens",
    "kept_spans",
    "added_spans",
    "kept_rendered",
    "added_rendered",
    "tokens",
)
"""What a checksum covers: everything that was given.  A migration that adds to it computes them anew."""


def turn_values(new: NewTurn, created_at: datetime, previous_checksum: bytes) -> dict[str, Any]:
    """The columns of a new turn but for its place in the tree."""
    turn = new.turn
    values: dict[str, Any] = {
        "position": new.index,
        "created_at": to_microseconds(created_at),
        "request_id": new.request_id,
        "request_hash": new.request_hash,
        "prompt_kind": new.prompt_kind,
        "question": turn.question,
        "answer": turn.text,
        "finish_reason": turn.finish_reason,
        "prompt_tokens": turn.prompt_tokens,
        "cached_tokens": turn.cached_tokens,
        "generated_tokens": turn.generated_tokens,
        "prompt_seconds": float(turn.prompt_seconds),
        "generation_seconds": float(turn.generation_seconds),
        "params": json.dumps(asdict(turn.params)),
        "kept_tokens": turn.undo.kept_tokens,
        "added_tokens": pack(new.added_tokens),
        "kept_spans": new.kept_spans,
        "added_spans": pack(_span_numbers(new.added_spans)),
        "kept_rendered": new.kept_rendered,
        "added_rendered": new.added_rendered,
        "tokens": turn.undo.kept_tokens + len(new.added_tokens),
    }
    values["checksum"] = checksum(values, previous_checksum)
    return values


def stored_turn(row: Mapping[str, Any]) -> StoredTurn:
    """What a row says of its turn."""
    return StoredTurn(
        index=row["position"],
        created_at=from_microseconds(row["created_at"]),
        request_id=row["request_id"],
        request_hash=row["request_hash"],
        prompt_kind=row["prompt_kind"],
        question=row["question"],
        text=row["answer"],
        finish_reason=row["finish_reason"],
        prompt_tokens=row["prompt_tokens"],
        cached_tokens=row["cached_tokens"],
        generated_tokens=row["generated_tokens"],
        prompt_seconds=row["prompt_seconds"],
        generation_seconds=row["generation_seconds"],
        params=SamplingParams(**json.loads(row["params"])),
    )


def check_chain(session_id: str, rows: Sequence[Mapping[str, Any]], length: int) -> None:
    """See that ``rows`` are the first ``length`` turns of a conversation, and as they were written.

    Raises:
        StoreDamaged: they are not.
    """
    if len(rows) != length:
        raise broken_chain(session_id)
    previous = b""
    for position, row in enumerate(rows):
        if row["checksum"] != checksum(row, previous):
            raise StoreDamaged(
                f"turn {position} of session {session_id!r} is damaged: it is not what was written; "
                f"revert the session to {position}, or restore the store from a backup"
            )
        previous = row["checksum"]


def broken_chain(session_id: str) -> StoreDamaged:
    """A turn leads to one that is not there."""
    return StoreDamaged(
        f"session {session_id!r} is damaged: some of its turns cannot be found; "
        "revert the session to 0, or restore the store from a backup"
    )


def checksum(values: Mapping[str, Any], previous: bytes) -> bytes:
    """16 bytes that a turn's content and all turns before it decide.

    SQLite has no checksums of its own, and one flipped bit in a token would be another conversation.
    """
    content = [values[name] for name in CHECKED_COLUMNS]
    return blake2b(previous + json.dumps(content, default=_hexadecimal).encode(), digest_size=16).digest()


def _hexadecimal(value: object) -> str:
    if isinstance(value, bytes | memoryview):
        return value.hex()
    raise TypeError(f"{type(value)} is not stored in turns")


def snapshot(session: Mapping[str, Any], rows: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """What ``Session.snapshot`` gave after the last of the turns in ``rows``, first to last."""
    tokens: list[int] = []
    spans: list[dict[str, Any]] = []
    rendered: str | None = None
    turns: list[dict[str, Any]] = []
    for row in rows:
        kept = row["kept_tokens"]
        undo = {
            "kept_tokens": kept,
            "replaced_tokens": tokens[kept:],
            "cached_tokens": row["cached_tokens"],
            "kept_spans": row["kept_spans"],
            "replaced_spans": tuple(spans[row["kept_spans"] :]),
        }
        tokens[kept:] = unpack(row["added_tokens"])
        spans[row["kept_spans"] :] = [asdict(span) for span in _spans(unpack(row["added_spans"]))]
        added = row["added_rendered"]
        rendered = None if added is None else (rendered or "")[: row["kept_rendered"]] + added
        turns.append(
            {
                "question": row["question"],
                "text": row["answer"],
                "rendered": rendered,
                "finish_reason": row["finish_reason"],
                "prompt_tokens": row["prompt_tokens"],
                "cached_tokens": row["cached_tokens"],
                "generated_tokens": row["generated_tokens"],
                "prompt_seconds": row["prompt_seconds"],
                "generation_seconds": row["generation_seconds"],
                "params": json.loads(row["params"]),
                "undo": undo,
            }
        )
    return {
        "version": SNAPSHOT_VERSION,
        "system": session["system"],
        "prefill_chunk": session["prefill_chunk"],
        "tokens": tokens,
        "spans": [[span["kind"], span["count"]] for span in spans],
        "turns": turns,
    }


def pack(numbers: Sequence[int]) -> bytes:
    """Numbers as int32, least significant byte first."""
    return np.asarray(numbers, dtype="<i4").tobytes()


def unpack(blob: bytes) -> list[int]:
    """The inverse of :func:`pack`."""
    numbers: list[int] = np.frombuffer(blob, dtype="<i4").tolist()
    return numbers


def _span_numbers(spans: Iterable[Span]) -> list[int]:
    """A chunk of n tokens is n, and n tokens decoded one by one are -n."""
    return [span.count if span.kind == "prefill" else -span.count for span in spans]


def _spans(numbers: Iterable[int]) -> list[Span]:
    return [Span("prefill", number) if number > 0 else Span("decode", -number) for number in numbers]


def to_microseconds(time: datetime) -> int:
    """Since 1970, exactly."""
    return (time - EPOCH) // timedelta(microseconds=1)


def from_microseconds(count: int) -> datetime:
    """The inverse of :func:`to_microseconds`, in UTC."""
    return EPOCH + timedelta(microseconds=count)


def check_text(param: str, text: str | None, nul: bool = True) -> None:
    """See that a database can hold ``text``.

    Raises:
        InvalidParameter: it has half of a surrogate pair, or U+0000 where ``nul`` is false.
    """
    if text is None:
        return
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidParameter(param, f"{param} is not valid Unicode: {error}") from error
    if not nul and "\0" in text:
        raise InvalidParameter(param, f"{param} contains the character U+0000; leave it out")
