"""Snapshots: plain data, equal after JSON, and refused in one sentence where they are damaged."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from session_machine import cache_bits, next_logits
from stand_in_turns import in_full
from tiny_language_model import answer

from lm_core.errors import InvalidParameter
from lm_core.language_model import LanguageModel
from lm_core.sampler import SamplingParams
from lm_core.session import Session
from lm_core.turn import Turn

SEEDED = SamplingParams(
    temperature=1.5, top_k=40, top_p=0.9, min_p=0.01, seed=1 << 62, repetition_penalty=1.2
)


@pytest.fixture(scope="module")
def talked(chat_model: LanguageModel) -> Session:
    """Two turns, and a third that replaced some of the past.  Read only."""
    session = Session(chat_model, system="Be kind.")
    session.prefill_chunk = 9
    for question in ("and the", "好"):
        list(session.ask(question, SEEDED, max_new_tokens=12))
    list(session.generate(session.tokens[:20] + [7, 8, 9], SEEDED, max_new_tokens=3))
    return session


@pytest.fixture
def snapshot(talked: Session) -> dict[str, Any]:
    """After a trip through JSON; to be damaged by a test."""
    read: dict[str, Any] = json.loads(json.dumps(talked.snapshot()))
    return read


def read(model: LanguageModel, snapshot: Any) -> str:
    """Reading it is refused in one sentence, which is returned."""
    with pytest.raises(InvalidParameter) as refused:
        Session.from_snapshot(model, snapshot)
    assert refused.value.param == "snapshot"
    message = str(refused.value)
    assert message.startswith("the snapshot ") and "\n" not in message
    return message


def test_a_session_comes_back(talked: Session, snapshot: dict[str, Any], chat_model: LanguageModel) -> None:
    """Everything but the cache at once, and the cache when it is needed or asked for."""
    lazy = Session.from_snapshot(chat_model, snapshot)
    assert lazy.snapshot() == talked.snapshot()
    assert lazy.turns == talked.turns and lazy.cache.length == 0
    assert next_logits(lazy) == next_logits(talked)
    rebuilt = Session.rebuild(chat_model, snapshot)
    assert cache_bits(rebuilt) == cache_bits(talked)
    assert rebuilt.schedule.spans == talked.schedule.spans


def test_a_snapshot_is_no_part_of_the_session(talked: Session, chat_model: LanguageModel) -> None:
    """Neither can change the other."""
    snapshot = talked.snapshot()
    session = Session.from_snapshot(chat_model, snapshot)
    kept = copy.deepcopy(snapshot)
    list(session.generate("the", SEEDED, max_new_tokens=3))
    session.revert(0)
    assert snapshot == kept
    snapshot["tokens"].clear()
    snapshot["turns"].clear()
    assert talked.snapshot() == kept


def test_an_empty_session(chat_model: LanguageModel) -> None:
    """Is one too."""
    empty = json.loads(json.dumps(Session(chat_model).snapshot()))
    session = Session.rebuild(chat_model, empty)
    assert (session.tokens, session.turns, session.system) == ([], [], None)


def test_reverting_a_session_that_came_back(
    talked: Session, snapshot: dict[str, Any], chat_model: LanguageModel
) -> None:
    """What a turn replaced is in the snapshot: going back needs nothing else."""
    for turn in range(3):
        original, rebuilt = talked.fork(), Session.rebuild(chat_model, snapshot)
        original.revert(turn)
        rebuilt.revert(turn)
        assert rebuilt.snapshot() == original.snapshot()


def test_a_turn_is_plain_data(talked: Session) -> None:
    """Equal after JSON: seeds keep all their bits, durations too."""
    for turn in talked.turns:
        assert Turn.from_dict(json.loads(json.dumps(turn.to_dict()))) == turn
    assert talked.turns[0].params == SEEDED


@pytest.mark.parametrize("version", [None, 0, 3, "1", [1]])
def test_another_version(version: Any, snapshot: dict[str, Any], chat_model: LanguageModel) -> None:
    """Both versions are told."""
    message = read(chat_model, {**snapshot, "version": version})
    assert repr(version) in message and message.endswith("reads up to 2")


def test_version_1_is_read(talked: Session, snapshot: dict[str, Any], chat_model: LanguageModel) -> None:
    """It had all spans in every turn; what it leads back to is the same."""
    for turn in range(3):
        original, old = talked.fork(), Session.rebuild(chat_model, in_full(snapshot))
        assert cache_bits(old) == cache_bits(talked)
        original.revert(turn)
        old.revert(turn)
        assert (old.tokens, old.schedule.spans) == (original.tokens, original.schedule.spans)


def test_a_snapshot_grows_with_its_turns_and_no_faster(chat_model: LanguageModel) -> None:
    """A turn tells of the spans that it changed, not of all that were there."""
    session, sizes = Session(chat_model), []
    for turns in (20, 40):
        while len(session.turns) < turns:
            context = [*session.tokens, 5, 6, 7, 8]
            list(session.generate(context, SEEDED, max_new_tokens=2))
        sizes.append(len(json.dumps(session.snapshot())))
    assert sizes[1] < 2.2 * sizes[0]


@pytest.mark.parametrize("data", [None, [], "text", 7, {}])
def test_what_is_no_snapshot(data: Any, chat_model: LanguageModel) -> None:
    """It has no version."""
    assert "version None" in read(chat_model, data)


def test_missing_fields(snapshot: dict[str, Any], chat_model: LanguageModel) -> None:
    """Of the session, of a turn, and of what undoes it: each is named."""
    for name in snapshot.keys() - {"version"}:
        without = {key: value for key, value in snapshot.items() if key != name}
        assert name in read(chat_model, without)
    for name in snapshot["turns"][1]:
        damaged = copy.deepcopy(snapshot)
        del damaged["turns"][1][name]
        assert name in read(chat_model, damaged)
    for name in snapshot["turns"][1]["undo"]:
        damaged = copy.deepcopy(snapshot)
        del damaged["turns"][1]["undo"][name]
        assert name in read(chat_model, damaged)


Damage = Callable[[dict[str, Any]], Any]

DAMAGES: dict[str, Damage] = {
    "system": lambda s: s.update(system=5),
    "no_chunk": lambda s: s.update(prefill_chunk=0),
    "chunk_is_text": lambda s: s.update(prefill_chunk="9"),
    "tokens_none": lambda s: s.update(tokens=None),
    "tokens_text": lambda s: s.update(tokens="abc"),
    "token_negative": lambda s: s["tokens"].__setitem__(3, -1),
    "token_past_the_vocabulary": lambda s: s["tokens"].__setitem__(3, 266),
    "token_fraction": lambda s: s["tokens"].__setitem__(3, 5.0),
    "tokens_cut": lambda s: s.update(tokens=s["tokens"][:5]),
    "tokens_too_many": lambda s: s["tokens"].extend([5] * 512),
    "spans_none": lambda s: s.update(spans=None),
    "span_of_unknown_kind": lambda s: s["spans"].__setitem__(0, ["guess", 5]),
    "span_of_nothing": lambda s: s["spans"].__setitem__(0, ["decode", 0]),
    "span_negative": lambda s: s["spans"].append(["decode", -1]),
    "span_text": lambda s: s["spans"].append("decode"),
    "span_too_long": lambda s: s["spans"].append(["decode", 99]),
    "turns_none": lambda s: s.update(turns=None),
    "turn_lost": lambda s: s["turns"].pop(0),
    "turn_text": lambda s: s["turns"].__setitem__(0, "turn"),
    "turn_unknown_field": lambda s: s["turns"][0].update(more=1),
    "turn_text_missing": lambda s: s["turns"][0].update(text=None),
    "turn_question": lambda s: s["turns"][0].update(question=5),
    "turn_params": lambda s: s["turns"][0].update(params={"temperature": -1}),
    "turn_params_unknown": lambda s: s["turns"][0].update(params={"heat": 1}),
    "undo_keeps_too_much": lambda s: s["turns"][1]["undo"].update(kept_tokens=500),
    "undo_keeps_negative": lambda s: s["turns"][1]["undo"].update(kept_tokens=-1),
    "undo_reuses_too_much": lambda s: s["turns"][1]["undo"].update(cached_tokens=500),
    "undo_reuses_text": lambda s: s["turns"][1]["undo"].update(cached_tokens="0"),
    "undo_token": lambda s: s["turns"][2]["undo"]["replaced_tokens"].append(999),
    "undo_span": lambda s: s["turns"][2]["undo"]["replaced_spans"].append({"kind": "decode", "count": 99}),
    "undo_span_field": lambda s: s["turns"][2]["undo"]["replaced_spans"].append({"sort": "decode"}),
    "undo_keeps_too_many_spans": lambda s: s["turns"][2]["undo"].update(kept_spans=99),
    "undo_keeps_no_number_of_spans": lambda s: s["turns"][2]["undo"].update(kept_spans="1"),
    "first_turn_follows_something": lambda s: s["turns"][0]["undo"].update(kept_tokens=1),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage(damage: str, snapshot: dict[str, Any], chat_model: LanguageModel) -> None:
    """None of it becomes a session that fails later, or goes back to what never was."""
    DAMAGES[damage](snapshot)
    assert "the snapshot is damaged: " in read(chat_model, snapshot)


def test_another_model(
    snapshot: dict[str, Any], sentence_model: LanguageModel, chat_model: LanguageModel
) -> None:
    """Tokens that it does not have, or more than its context holds."""
    config = replace(chat_model.llama.config, max_position_embeddings=20)
    small = replace(chat_model, llama=type(chat_model.llama)(config, chat_model.llama._weights))
    assert "more than the context holds" in read(small, snapshot)
    config = replace(chat_model.llama.config, vocab_size=100)
    few = replace(chat_model, llama=type(chat_model.llama)(config, chat_model.llama._weights))
    assert "vocabulary of 100" in read(few, snapshot)
    assert sentence_model.llama.config.vocab_size == 275


def test_a_turn_in_progress_is_not_in_a_snapshot(chat_model: LanguageModel) -> None:
    """Its tokens are, as a caller would find them: such a snapshot is refused, not half believed."""
    session = Session(chat_model)
    turn = session.begin("and")
    answer(session, turn, [2])
    assert "belong to no turn" in read(chat_model, session.snapshot())
    session.finish(turn)
    assert Session.from_snapshot(chat_model, session.snapshot()).tokens == session.tokens
