"""A session as its caller sees it: asking, cancelling, going back, forking.

That all of this is exact, bit for bit and in any order, is ``test_session_exactness.py``'s business.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from session_machine import cache_bits, clone, next_logits
from tiny_language_model import CONTEXT_LENGTH, END, answer

from lm_core.errors import ContextLengthExceeded, InvalidParameter, TemplateError
from lm_core.generation import generate
from lm_core.language_model import LanguageModel
from lm_core.model import Llama
from lm_core.sampler import SamplingParams
from lm_core.schedule import Span
from lm_core.session import Session

GREEDY = SamplingParams(temperature=0.0)
SEEDED = SamplingParams(temperature=1.5, top_p=0.9, seed=11, repetition_penalty=1.2)


@pytest.fixture
def session(chat_model: LanguageModel) -> Session:
    """Without a turn."""
    return Session(chat_model)


@pytest.fixture
def talked(session: Session) -> Session:
    """With two turns, one ended by its end token and one by its length."""
    tokenizer = session.language_model.tokenizer
    for question, said in (("and the", "the<|im_end|>"), ("好", "and and the")):
        tokens = tokenizer.encode(said, add_special_tokens=False)
        turn = session.begin(session.messages(question), SEEDED, max_new_tokens=len(tokens))
        answer(session, turn, tokens)
        session.finish(turn)
    return session


def state(session: Session) -> dict[str, Any]:
    """Everything that a turn that never was must have left alone.

    Keys and values that a turn replaced are gone when it is undone, and come back when they are needed.
    """
    restored = clone(session)
    restored.restore()
    return {**session.snapshot(), "cache": cache_bits(restored), "length": restored.cache.length}


class TestAsking:
    """Turns by question, text, ids and messages."""

    def test_a_question(self, session: Session) -> None:
        """The system's message, all turns so far, and the answer piece by piece."""
        session.system = "Be kind."
        pieces = [token.text for token in session.ask("and", SEEDED, max_new_tokens=9)]
        (turn,) = session.turns
        assert "".join(pieces) == turn.text and turn.question == "and"
        expected = session.language_model.render(
            [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "and"}]
        )
        assert session.tokens[: turn.prompt_tokens] == session.language_model.encode_rendered(expected)
        assert session.messages("the") == [
            {"role": "system", "content": "Be kind."},
            {"role": "user", "content": "and"},
            {"role": "assistant", "content": turn.text},
            {"role": "user", "content": "the"},
        ]

    @pytest.mark.parametrize("params", [GREEDY, SEEDED])
    @pytest.mark.parametrize("form", ["text", "ids", "messages"])
    def test_the_tokens_are_those_of_plain_generation(
        self, form: str, params: SamplingParams, chat_model: LanguageModel
    ) -> None:
        """A session adds nothing to the model's choices, in the first turn and in the second."""
        session, context = Session(chat_model), [0]
        for question in ("and the", " the"):
            if form == "messages":
                prompt: Any = session.messages(question)
                text = chat_model.render(prompt)
                kept = session.turns[-1].rendered or "" if session.turns else ""
                if text.startswith(kept) and kept:
                    context += chat_model.encode_rendered(text[len(kept) :])
                else:
                    context = chat_model.encode_rendered(text)
            else:
                context += chat_model.tokenizer.encode(question, False)
                prompt = question if form == "text" else context.copy()
            expected = generate(
                chat_model.llama, context, params, max_new_tokens=15, stop_token_ids=chat_model.stop_token_ids
            )
            made = [token.token_id for token in session.generate(prompt, params, max_new_tokens=15)]
            assert made == list(expected)
            context += made
            assert session.tokens == context
            assert session.turns[-1].generated_tokens == len(made)

    def test_a_second_turn_computes_only_what_is_new(self, talked: Session) -> None:
        """All but the last token of the first turn is in the cache already."""
        first, second = talked.turns
        assert first.cached_tokens == 0
        assert second.cached_tokens == first.prompt_tokens + first.generated_tokens - 1
        assert second.prompt_tokens > second.cached_tokens

    def test_an_empty_text_begins_or_continues(self, session: Session) -> None:
        """From the beginning token, and later from where the answer was cut."""
        turn = session.begin("", max_new_tokens=2)
        answer(session, turn, [10, 11])
        session.finish(turn)
        assert session.tokens == [0, 10, 11]
        turn = session.begin("", max_new_tokens=1)
        answer(session, turn, [12])
        assert session.finish(turn).prompt_tokens == 3
        assert session.tokens == [0, 10, 11, 12]

    def test_long_prompts_are_computed_in_chunks(self, session: Session) -> None:
        """Between two of them other sessions may have their turn."""
        session.prefill_chunk = 7
        turn = session.begin([5] * 18)
        results = [session.compute() for _ in range(3)]
        assert [result is None for result in results] == [True, True, False]
        assert session.schedule.spans == (Span("prefill", 7), Span("prefill", 7), Span("prefill", 4))
        session.abort(turn)

    @pytest.mark.parametrize("left", [0, 1, 3])
    def test_a_prompt_that_is_known_already(self, left: int, talked: Session) -> None:
        """Its last token is computed again, for the logits; or the last chunk, which is never cut."""
        prompt = talked.tokens[: len(talked.tokens) - left]
        cached = talked.turns[1].prompt_tokens - 1 if left < 3 else talked.turns[1].cached_tokens
        turn = talked.begin(prompt, GREEDY)
        assert talked.tokens == prompt and cached <= talked.cache.length < len(prompt)
        assert (talked.cache.length == len(prompt) - 1) == (left < 3)
        logits = talked.compute()
        assert logits is not None
        llama = talked.language_model.llama
        np.testing.assert_allclose(logits, llama.forward(prompt, llama.new_cache()), rtol=1e-3, atol=1e-3)
        talked.abort(turn)


class TestRefusals:
    """What cannot be asked leaves everything as it was, and says so when it is asked."""

    @pytest.mark.parametrize(
        ("arguments", "keywords", "error", "words"),
        [
            (([],), {}, InvalidParameter, "no tokens"),
            (([5] * CONTEXT_LENGTH,), {}, ContextLengthExceeded, f"{CONTEXT_LENGTH} tokens"),
            (("and " * CONTEXT_LENGTH,), {}, ContextLengthExceeded, "shorten"),
            (("a\ud800",), {}, InvalidParameter, "not valid Unicode"),
            (("and",), {"max_new_tokens": 0}, InvalidParameter, "max_new_tokens is 0"),
            (("and",), {"max_new_tokens": -3}, InvalidParameter, "max_new_tokens is -3"),
            (("and",), {"stop": ["x", ""]}, InvalidParameter, "stop text is empty"),
            (([{"role": 5}],), {}, InvalidParameter, "role"),
            (([{"role": "user", "content": 5}],), {}, TemplateError, "template"),
        ],
    )
    def test_at_the_call(
        self, arguments: Any, keywords: Any, error: type[Exception], words: str, talked: Session
    ) -> None:
        """Before the first token is asked for."""
        before = state(talked)
        with pytest.raises(error, match=words):
            talked.generate(*arguments, **keywords)
        assert state(talked) == before

    @pytest.mark.parametrize("wrong", [[5, 266], [-1], [5, 1 << 70], [5, True], [False]])
    def test_ids_that_are_not_in_the_vocabulary(self, wrong: list[int], talked: Session) -> None:
        """Before anything is given up for them."""
        before, length = state(talked), talked.cache.length
        with pytest.raises(InvalidParameter, match="vocabulary") as refused:
            talked.generate(wrong)
        assert refused.value.param == "prompt"
        assert state(talked) == before and talked.cache.length == length


class TestCancelling:
    """A turn that is given up has never been."""

    @pytest.mark.parametrize("prompt", ["messages", "text", "replacing"])
    @pytest.mark.parametrize("taken", [0, 1, 2, 6])
    def test_between_tokens(self, prompt: str, taken: int, talked: Session) -> None:
        """After any number of tokens, none included, for prompts that extend and prompts that replace."""
        before, future = state(talked), next_logits(talked)
        generation = talked.generate(
            {"messages": talked.messages("the"), "text": "the", "replacing": talked.tokens[:9] + [7, 8]}[
                prompt
            ],
            SEEDED,
            max_new_tokens=9,
        )
        for _ in range(taken):
            next(generation)
        generation.close()  # type: ignore[attr-defined]
        assert state(talked) == before
        assert next_logits(talked) == future
        assert (talked.cache.length == before["length"]) == (prompt != "replacing")

    def test_by_letting_go(self, talked: Session) -> None:
        """An iterator that nobody holds any more is closed."""
        before = state(talked)
        generation = talked.ask("the")
        assert len(talked.tokens) > len(before["tokens"])
        del generation
        assert state(talked) == before

    @pytest.mark.parametrize("failing", [1, 2, 4])
    @pytest.mark.parametrize("error", [MemoryError, KeyboardInterrupt])
    def test_by_a_failure(
        self, failing: int, error: type[BaseException], talked: Session, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """In the prompt or in a later token; then the same question gets the answer it would have got."""
        undisturbed = clone(talked)
        expected = [token for token in undisturbed.ask("the", SEEDED, max_new_tokens=9)]
        before, forward, calls = state(talked), Llama.forward, [0]

        def fails(self: Llama, *arguments: Any) -> Any:
            calls[0] += 1
            if calls[0] == failing:
                raise error
            return forward(self, *arguments)

        with monkeypatch.context() as patch:
            patch.setattr(Llama, "forward", fails)
            with pytest.raises(error):
                list(talked.ask("the", SEEDED, max_new_tokens=9))
        assert state(talked) == before
        assert list(talked.ask("the", SEEDED, max_new_tokens=9)) == expected
        assert talked.tokens == undisturbed.tokens

    def test_a_turn_begun_by_hand(self, talked: Session) -> None:
        """For callers that run many sessions in step."""
        before = state(talked)
        turn = talked.begin("the", SEEDED)
        while (logits := talked.compute()) is None:
            pass
        turn.accept(logits)
        talked.abort(turn)
        assert state(talked) == before


class TestGoingBack:
    """Revert and fork."""

    def test_revert(self, session: Session) -> None:
        """To before any turn, in one step or in several."""
        states = [state(session)]
        for question in ("and", "the", "好"):
            list(session.ask(question, SEEDED, max_new_tokens=8))
            states.append(state(session))
        other = clone(session)
        for turn in (2, 1, 0):
            session.revert(turn)
            assert state(session) == states[turn]
        other.revert(0)
        assert state(other) == states[0] and other.tokens == []

    @pytest.mark.parametrize("turn", [-1, 2, 3, True, 1.0, "1", None])
    def test_turns_that_are_none(self, turn: Any, talked: Session) -> None:
        """Refused by name; the two turns are 0 and 1."""
        before = state(talked)
        with pytest.raises(InvalidParameter, match="2 turns, from 0 on") as refused:
            talked.revert(turn)
        assert refused.value.param == "turn" and state(talked) == before

    def test_an_empty_session_has_nothing_to_revert(self, session: Session) -> None:
        with pytest.raises(InvalidParameter, match="has 0 turns"):
            session.revert(0)

    @pytest.mark.parametrize("turn", [None, 0, 1, 2])
    def test_fork(self, turn: int | None, talked: Session) -> None:
        """From before any turn, or from now: the same past and the same future, and nothing shared."""
        before = state(talked)
        expected = clone(talked)
        if turn is not None and turn < 2:
            expected.revert(turn)
        fork = talked.fork(turn)
        assert state(fork) == state(expected)
        made = list(fork.ask("the", SEEDED, max_new_tokens=9))
        assert made == list(expected.ask("the", SEEDED, max_new_tokens=9))
        assert state(fork)["cache"] == state(expected)["cache"]
        assert state(talked) == before
        list(talked.ask("other", SEEDED, max_new_tokens=9))
        assert fork.turns[-1].question == "the" and fork.tokens == expected.tokens

    @pytest.mark.parametrize("turn", [-1, 3, True, "0"])
    def test_forks_from_turns_that_are_none(self, turn: Any, talked: Session) -> None:
        """Refused, and the session is as it was."""
        before = state(talked)
        with pytest.raises(InvalidParameter) as refused:
            talked.fork(turn)
        assert refused.value.param == "turn" and state(talked) == before

    def test_a_fork_has_the_settings_of_its_origin(self, talked: Session) -> None:
        """Its system message, and the chunks in which it is computed."""
        talked.system, talked.prefill_chunk = "Be kind.", 3
        fork = talked.fork()
        assert (fork.system, fork.prefill_chunk, fork.language_model) == (
            "Be kind.",
            3,
            talked.language_model,
        )

    def test_going_back_computes_nothing(self, talked: Session, monkeypatch: pytest.MonkeyPatch) -> None:
        """Not a single forward pass, in either direction."""

        def never(*_: Any) -> Any:
            raise AssertionError("something was computed")

        for name in ("forward", "replay", "forward_batch"):
            monkeypatch.setattr(Llama, name, never)
        talked.fork(1)
        talked.revert(1)
        talked.revert(0)


class TestLosing:
    """The cache is a cache."""

    def test_evict_and_restore(self, talked: Session) -> None:
        """Every bit comes back, and only what was there."""
        before, future = state(talked), next_logits(talked)
        talked.evict()
        assert talked.cache.length == 0
        assert next_logits(talked) == future
        talked.restore()
        assert state(talked) == before

    def test_a_lost_cache_comes_back_with_the_next_turn(self, talked: Session) -> None:
        """And the turn is the one that it would have been."""
        expected = clone(talked)
        talked.evict()
        made = list(talked.ask("the", SEEDED, max_new_tokens=9))
        assert made == list(expected.ask("the", SEEDED, max_new_tokens=9))
        assert state(talked)["cache"] == state(expected)["cache"]

    def test_the_memory_is_given_back(self, talked: Session) -> None:
        """That is what eviction is for."""
        talked.cache.reserve(CONTEXT_LENGTH)
        held = talked.cache.nbytes
        talked.evict()
        assert talked.cache.nbytes < held


def test_logits_are_those_of_the_model(talked: Session) -> None:
    """``compute`` gives what ``forward`` gives for the same tokens, within rounding."""
    llama = talked.language_model.llama
    expected = llama.forward(talked.tokens, llama.new_cache())
    found = np.frombuffer(next_logits(talked), dtype=np.float32)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)


def test_the_end_token_ends_a_session_turn(session: Session) -> None:
    """Of a real generation, not of one by hand: among many seeds some answer ends by itself."""
    reasons = set()
    for seed in range(12):
        list(session.ask("and", SamplingParams(temperature=3.0, seed=seed), max_new_tokens=60))
        turn = session.turns[-1]
        assert (session.tokens[-1] == END) == (turn.finish_reason == "stop")
        reasons.add(turn.finish_reason)
        session.revert(0)
    assert reasons == {"stop", "length"}
