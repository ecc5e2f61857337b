"""Real sessions through the store: what comes back continues with the same bits."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from session_machine import PARAMS, QUESTIONS, cache_bits, next_logits
from shared_files import story_model

from chat_server.store import NewTurn, PromptKind, Store
from lm_core.errors import ContextLengthExceeded
from lm_core.language_model import LanguageModel
from lm_core.prompt import Prompt
from lm_core.sampler import SamplingParams
from lm_core.session import Session

SEEDED = SamplingParams(seed=5)
TEMPLATE = """\
{% for message in messages %}<{{ message['role'] }}>{{ message['content'] }}
{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"""


@pytest.fixture(scope="module")
def language_model(tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    """The story model, which has learnt no conversation, with a template that makes it hold one."""
    folder = tmp_path_factory.mktemp("story")
    for file in story_model().iterdir():
        if file.is_file():
            (folder / file.name).symlink_to(file)
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return LanguageModel.from_pretrained(folder)


def test_session_survives_its_store(store: Store, language_model: LanguageModel) -> None:
    # Real tokens take their time; each kind of database gets a quarter of the examples.
    @settings(max_examples=settings().max_examples // 4)
    @given(data=st.data())
    def check(data: st.DataObject) -> None:
        for stored in store.sessions(""):
            store.remove("", stored.id)
        take_turns_in_both(store, language_model, data)

    check()


def take_turns_in_both(store: Store, language_model: LanguageModel, data: st.DataObject) -> None:
    """Turns of every kind, reverts and forks, in memory and in the store alike."""
    live = Session(language_model, system=data.draw(st.sampled_from([None, "Be kind."])))
    live.prefill_chunk = data.draw(st.sampled_from([8, 256]))
    stored = store.create("", "0", model="story", system=live.system, prefill_chunk=live.prefill_chunk)
    for step in range(6):
        action = data.draw(st.sampled_from(["turn", "turn", "turn", "revert", "fork", "replace"]))
        if action == "revert" and live.turns:
            turn = data.draw(st.integers(0, len(live.turns) - 1))
            live.revert(turn)
            stored = store.revert("", stored.id, stored.version, turn)
        elif action == "fork":
            turn = data.draw(st.integers(0, len(live.turns)))
            live = live.fork(turn)
            stored = store.fork("", stored.id, str(step + 1), turn)
        elif take_turn(live, data):
            kind: PromptKind = data.draw(st.sampled_from(["messages", "text", "tokens"]))
            stored, _ = store.append_turn("", stored.id, stored.version, NewTurn.last_of(live, kind))
        if action == "replace":
            # As a server that has been restarted: what continues is what the store gave.
            live = Session.from_snapshot(language_model, store.snapshot("", stored.id)[1])
        assert store.snapshot("", stored.id)[1] == live.snapshot()
    check_same_bits(live, Session.rebuild(language_model, store.snapshot("", stored.id)[1]))


def take_turn(live: Session, data: st.DataObject) -> bool:
    """Take a turn of any kind; whether there was room for it."""
    question = data.draw(QUESTIONS)
    prompts: list[Prompt] = [live.messages(question), question or "And"]
    if live.tokens:
        # The whole context anew, from somewhere in the past on.
        kept = data.draw(st.integers(0, len(live.tokens) - 1))
        prompts.append(live.tokens[:kept] + [5, 6, 7])
    try:
        tokens = live.generate(
            data.draw(st.sampled_from(prompts)),
            data.draw(PARAMS),
            max_new_tokens=data.draw(st.integers(1, 4)),
        )
    except ContextLengthExceeded:
        return False
    return sum(1 for _ in tokens) > 0


def check_same_bits(live: Session, rebuilt: Session) -> None:
    live.restore()
    assert rebuilt.cache.length == live.cache.length
    assert cache_bits(rebuilt) == cache_bits(live)
    if live.tokens:
        assert next_logits(rebuilt) == next_logits(live)


def test_rebuilt_session_makes_the_same_turns(store: Store, language_model: LanguageModel) -> None:
    """Also those that follow a revert, which needs what the last turn replaced."""
    live = Session(language_model)
    stored = store.create("", "user0", model="story")
    for prompt in ("Tom and Lily", live.messages("Why?"), "A big dog"):
        for _ in live.generate(prompt, SEEDED, max_new_tokens=6):
            pass
        stored, _ = store.append_turn("", "user0", stored.version, NewTurn.last_of(live, "text"))
    rebuilt = Session.rebuild(language_model, store.snapshot("", "user0")[1])
    for turn in (2, 1):
        for session in (live, rebuilt):
            session.revert(turn)
            for _ in session.ask("And then?", SEEDED, max_new_tokens=6):
                pass
        assert rebuilt.tokens == live.tokens
        check_same_bits(live, rebuilt)


def test_only_what_a_turn_changes_is_stored(store: Store, language_model: LanguageModel) -> None:
    """A long conversation costs what its turns say, not their number squared."""
    live = Session(language_model)
    stored = store.create("", "user0", model="story")
    for _ in range(6):
        for _ in live.ask("Why?", SEEDED, max_new_tokens=4):
            pass
        new = NewTurn.last_of(live, "messages")
        stored, _ = store.append_turn("", "user0", stored.version, new)
        turn = live.turns[-1]
        assert new.kept_rendered == (len(live.turns[-2].rendered or "") if len(live.turns) > 1 else 0)
        assert len(new.added_tokens) == len(live.tokens) - turn.undo.kept_tokens
        # The last span before the turn, which might have grown, and those of question and answer.
        assert len(new.added_spans) <= 3
    assert json.loads(json.dumps(store.snapshot("", "user0")[1])) == json.loads(json.dumps(live.snapshot()))
