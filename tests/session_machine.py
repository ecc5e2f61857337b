"""The exactness contract as a state machine: whatever happens to a session, it stays the session
that only ever took the turns that survived."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass, replace

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from lm_core.errors import ContextLengthExceeded
from lm_core.language_model import LanguageModel
from lm_core.prompt import Prompt
from lm_core.sampler import SamplingParams
from lm_core.session import Session

QUESTIONS = st.sampled_from(
    ["Tom and Lily", "Why?", "A big dog", "", "Once upon a time there was a <|end|> and a </s>", "é 你好 🙂"]
)
PARAMS = st.sampled_from(
    [
        SamplingParams(temperature=0.0),
        SamplingParams(temperature=0.0, repetition_penalty=1.3),
        SamplingParams(temperature=1.5, seed=11),
        SamplingParams(temperature=0.8, top_k=5, top_p=0.9, seed=3, repetition_penalty=1.1),
        SamplingParams(temperature=1.0, min_p=0.05, seed=1 << 40),
    ]
)
NEW_TOKENS = st.integers(1, 24)
SPECULATE = st.booleans()


@dataclass(frozen=True)
class TurnTaken:
    """A turn that can be taken again by another session, exactly."""

    prompt: Prompt | None
    question: str
    params: SamplingParams
    new_tokens: int
    speculate: bool = False

    def start(self, session: Session):  # type: ignore[no-untyped-def]  # noqa: ANN201
        """The iterator of its tokens."""
        session.speculate = self.speculate
        prompt = session.messages(self.question) if self.prompt is None else self.prompt
        return session.generate(prompt, self.params, max_new_tokens=self.new_tokens)


def clone(session: Session) -> Session:
    """A deep copy that uses none of the code under test."""
    shared = session.language_model
    return copy.deepcopy(session, {id(shared): shared})


def cache_bits(session: Session) -> list[bytes]:
    """Every cached key and value, as bytes, layer by layer."""
    layers = range(session.language_model.llama.config.num_hidden_layers)
    views = [session.cache.view(layer, 0, session.cache.length) for layer in layers]
    return [array.tobytes() for pair in views for array in pair]


def next_logits(session: Session) -> bytes:
    """The bits of the logits after the last token, computed on a clone."""
    probe, logits = clone(session), None
    while logits is None:
        logits = probe.compute()
    return logits.tobytes()


class SessionMachine(RuleBasedStateMachine):
    """Subclasses say which models; hypothesis does the rest."""

    language_models: list[LanguageModel]
    prefill_chunks: list[int]

    @initialize(data=st.data())
    def begin(self, data: st.DataObject) -> None:
        language_model = data.draw(st.sampled_from(self.language_models))
        self.session = Session(language_model, system=data.draw(st.sampled_from([None, "Be kind."])))
        self.session.prefill_chunk = data.draw(st.sampled_from(self.prefill_chunks))
        # expected[n] only ever took the first n surviving turns.
        self.expected = [clone(self.session)]

    def take(self, turn: TurnTaken) -> None:
        before = self.session.tokens.copy()
        try:
            for _ in turn.start(self.session):
                pass
        except ContextLengthExceeded:
            assert self.session.tokens == before
            return
        expected = clone(self.expected[-1])
        # What is expected never speculates.
        for _ in replace(turn, speculate=False).start(expected):
            pass
        self.expected.append(expected)

    @rule(question=QUESTIONS, params=PARAMS, new_tokens=NEW_TOKENS, speculate=SPECULATE)
    def ask(self, question: str, params: SamplingParams, new_tokens: int, speculate: bool) -> None:
        self.take(TurnTaken(None, question, params, new_tokens, speculate))

    @rule(text=QUESTIONS, params=PARAMS, new_tokens=NEW_TOKENS, speculate=SPECULATE)
    def append_text(self, text: str, params: SamplingParams, new_tokens: int, speculate: bool) -> None:
        self.take(TurnTaken(text, text, params, new_tokens, speculate))

    @precondition(lambda self: self.session.tokens)
    @rule(cut=st.floats(0, 1), added=st.lists(st.integers(3, 200), min_size=1, max_size=40), params=PARAMS)
    def change_the_past(self, cut: float, added: list[int], params: SamplingParams) -> None:
        kept = self.session.tokens[: int(cut * len(self.session.tokens))]
        self.take(TurnTaken(kept + added, "", params, 3))

    @rule(question=QUESTIONS, params=PARAMS, tokens=st.integers(0, 5), speculate=SPECULATE)
    def cancel(self, question: str, params: SamplingParams, tokens: int, speculate: bool) -> None:
        try:
            generation = TurnTaken(None, question, params, 6, speculate).start(self.session)
        except ContextLengthExceeded:
            return
        taken = 0
        for _ in generation:
            taken += 1
            if taken > tokens:
                break
        else:
            # It ended by itself before it could be cancelled.
            self.session.revert(len(self.session.turns) - 1)
        generation.close()

    @precondition(lambda self: self.session.turns)
    @rule(data=st.data())
    def revert(self, data: st.DataObject) -> None:
        turn = data.draw(st.integers(0, len(self.session.turns) - 1))
        self.session.revert(turn)
        del self.expected[turn + 1 :]

    @rule(data=st.data())
    def fork(self, data: st.DataObject) -> None:
        turn = data.draw(st.integers(0, len(self.session.turns)))
        original, tokens = self.session, self.session.tokens.copy()
        self.session = original.fork(turn)
        # The fork must not feel what happens to its origin from now on.
        original.tokens.clear()
        original.cache.truncate(0)
        assert self.session.tokens == tokens[: len(self.session.tokens)] or turn < len(original.turns)
        del self.expected[turn + 1 :]

    @rule()
    def evict(self) -> None:
        self.session.evict()

    @rule()
    def crash(self) -> None:
        snapshot = json.loads(json.dumps(self.session.snapshot()))
        self.session = Session.rebuild(self.session.language_model, snapshot)

    @invariant()
    def is_what_it_claims_to_be(self) -> None:
        expected = self.expected[-1]
        assert len(self.session.turns) == len(self.expected) - 1
        assert self.session.tokens == expected.tokens
        assert self.session.schedule.spans == expected.schedule.spans
        restored = clone(self.session)
        restored.restore()
        assert restored.cache.length == expected.cache.length
        assert cache_bits(restored) == cache_bits(expected)
        if expected.tokens:
            assert next_logits(self.session) == next_logits(expected)
