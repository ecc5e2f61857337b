"""Sessions and turns without a model, for tests of what keeps them: any tokens, any texts, any schedule."""

from __future__ import annotations

from dataclasses import asdict
from types import SimpleNamespace
from typing import Any, cast

from lm_core.language_model import LanguageModel
from lm_core.sampler import SamplingParams
from lm_core.schedule import Schedule, Span
from lm_core.session import Session
from lm_core.turn import Turn

Snapshot = dict[str, Any]


def empty_snapshot(system: str | None, prefill_chunk: int) -> Snapshot:
    """A session without turns."""
    return {
        "version": 2,
        "system": system,
        "prefill_chunk": prefill_chunk,
        "tokens": [],
        "spans": [],
        "turns": [],
    }


def plain_snapshot(before: Snapshot, tokens: list[int], text: str = "An answer.") -> Snapshot:
    """What a session is after a turn that appended ``tokens`` and answered ``text``."""
    rendered = (before["turns"][-1]["rendered"] or "") if before["turns"] else ""
    turn = {
        "question": "A question.",
        "text": text,
        "rendered": f"{rendered}<user>A question.{text}",
        "finish_reason": "stop",
        "prompt_tokens": len(before["tokens"]) + len(tokens) - 1,
        "cached_tokens": len(before["tokens"]),
        "generated_tokens": 1,
        "prompt_seconds": 0.25,
        "generation_seconds": 0.125,
        "params": asdict(SamplingParams(temperature=0.65, top_k=35, top_p=0.55, seed=7)),
        "undo": {
            "kept_tokens": len(before["tokens"]),
            "replaced_tokens": [],
            "cached_tokens": len(before["tokens"]),
            "kept_spans": len(before["spans"]),
            "replaced_spans": (),
        },
    }
    return {
        **before,
        "tokens": before["tokens"] + tokens,
        "spans": [*before["spans"], ["prefill", len(tokens)]],
        "turns": [*before["turns"], turn],
    }


def in_full(snapshot: Snapshot) -> Snapshot:
    """The same as version 1 of snapshots had it: every turn has all spans from before it."""
    spans = [{"kind": kind, "count": count} for kind, count in snapshot["spans"]]
    turns: list[dict[str, Any]] = []
    for turn in reversed(snapshot["turns"]):
        undo = dict(turn["undo"])
        if "spans" in undo:
            spans = list(undo["spans"])
        else:
            spans = [*spans[: undo.pop("kept_spans")], *undo.pop("replaced_spans")]
        turns.insert(0, {**turn, "undo": {**undo, "spans": spans}})
    return {**snapshot, "version": 1, "turns": turns}


def session_of(snapshot: Snapshot) -> Session:
    """The session of a snapshot, which can go back but not generate.

    Unlike ``Session.from_snapshot`` it takes what no model has: a store keeps what it is given.
    """
    llama = SimpleNamespace(new_cache=lambda: SimpleNamespace(length=0, truncate=lambda _: None))
    session = Session(cast(LanguageModel, SimpleNamespace(llama=llama)), snapshot["system"])
    session.prefill_chunk = snapshot["prefill_chunk"]
    session.tokens = snapshot["tokens"].copy()
    session.schedule = Schedule(Span(kind, count) for kind, count in snapshot["spans"])
    session.turns = [Turn.from_dict(turn) for turn in snapshot["turns"]]
    return session
