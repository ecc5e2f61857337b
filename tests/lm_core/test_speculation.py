"""Speculation changes no bit, ends where it would end anyway, and costs little where nothing repeats."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import asdict

import numpy as np
import pytest
from checkpoints import KINDS, VOCAB_SIZE
from comparisons import assert_same_bits
from conftest import OpenModel
from decoding import cached
from session_machine import cache_bits, clone, next_logits

from lm_core.company import decode_together
from lm_core.generation import generate
from lm_core.language_model import LanguageModel
from lm_core.model import Llama
from lm_core.sampler import SamplingParams
from lm_core.session import Session
from lm_core.speculation import MOST_ROWS, NgramDrafter, Speculation
from lm_core.turn import Turn

PARAMS = {
    "greedy": SamplingParams(temperature=0.0, seed=1),
    "penalized": SamplingParams(temperature=0.0, repetition_penalty=1.2, seed=1),
    "sampled": SamplingParams(temperature=0.7, seed=3, top_k=20, repetition_penalty=1.05),
    "wild": SamplingParams(temperature=1.5, seed=5, top_p=0.95),
}
REPEATS = [5, 9, 40, 41, 7, 8] * 5
RANDOM = np.random.RandomState(7).randint(3, VOCAB_SIZE, 45).tolist()
TEXT = "the cat and the dog and the cat and the dog and the"

Draft = Callable[[Sequence[int], int], list[int]]


def wrong(future: Sequence[int]) -> Draft:
    """A drafter that is wrong about the very next token."""
    return lambda tokens, most: [(future[len(tokens)] + 1) % VOCAB_SIZE] * min(most, 3)


def right(future: Sequence[int]) -> Draft:
    """One that knows the future, and what comes after it."""
    return lambda tokens, most: list(future[len(tokens) : len(tokens) + most])


def half_right(future: Sequence[int]) -> Draft:
    """One that is right twice, then wrong, and right again, which is too late."""

    def draft(tokens: Sequence[int], most: int) -> list[int]:
        guessed = list(future[len(tokens) : len(tokens) + most])
        guessed[2:3] = [(token + 1) % VOCAB_SIZE for token in guessed[2:3]]
        return guessed

    return draft


@pytest.fixture
def lavish(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every guess is paid for."""
    monkeypatch.setattr("lm_core.speculation.ROW_COST", 1e-9)


def use(monkeypatch: pytest.MonkeyPatch, draft: Draft) -> None:
    """Draft by this function instead of the text."""
    monkeypatch.setattr(NgramDrafter, "draft", lambda _, tokens, most: draft(tokens, most)[:most])


def generated(
    model: Llama, prompt: list[int], params: SamplingParams, count: int, speculate: bool | Speculation
) -> tuple[list[int], np.ndarray]:
    cache = model.new_cache()
    tokens = list(generate(model, prompt, params, max_new_tokens=count, cache=cache, speculate=speculate))
    assert cache.length == len(prompt) + len(tokens) - 1
    return tokens, cached(model, cache)


@pytest.mark.usefixtures("lavish")
@pytest.mark.parametrize("kind", KINDS)
def test_generation_is_the_same_on_every_kind(kind: str, open_model: OpenModel) -> None:
    """Tokens, keys and values, past sliding windows and trained lengths; guesses right and wrong."""
    model = open_model(kind, "bf16" if KINDS[kind].storage == "BF16" else "f32")
    drafted = 0
    for prompt, params in ((REPEATS, PARAMS["penalized"]), (RANDOM, PARAMS["greedy"])):
        tokens, bits = generated(model, prompt, params, 40, False)
        speculation = Speculation()
        found, found_bits = generated(model, prompt, params, 40, speculation)
        assert found == tokens
        assert_same_bits(found_bits, bits)
        drafted += speculation.drafted
    assert drafted > 0


@pytest.mark.usefixtures("lavish")
@pytest.mark.parametrize("drafter", [wrong, right, half_right])
@pytest.mark.parametrize("kind, dtype", [("dynamic", "f32"), ("mistral", "f32"), ("odd_widths", "bf16")])
def test_whatever_is_drafted(
    drafter: Callable[[Sequence[int]], Draft],
    kind: str,
    dtype: str,
    open_model: OpenModel,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Always wrong, always right up to the end and past it, or right by halves; to the end of the context."""
    model, count = open_model(kind, dtype), 100
    prompt = (RANDOM * 12)[: model.config.context_length - 60]
    for params in (PARAMS["wild"],):
        tokens, bits = generated(model, prompt, params, count, False)
        assert len(tokens) == 60
        speculation = Speculation()
        with monkeypatch.context() as patch:
            use(patch, drafter([*prompt, *tokens, *([3] * MOST_ROWS)]))
            found, found_bits = generated(model, prompt, params, count, speculation)
        assert found == tokens
        assert_same_bits(found_bits, bits)
        # Nothing is computed for a token that cannot come any more.
        accepted = {"wrong": 0, "right": 59 - 59 // MOST_ROWS - 1, "half_right": 2 * (60 // 3) - 1}
        assert speculation.accepted == accepted[drafter.__name__]


def taken(session: Session) -> list[dict[str, object]]:
    """The turns, without what a clock says."""

    def record(turn: Turn) -> dict[str, object]:
        return {name: value for name, value in asdict(turn).items() if not name.endswith("seconds")}

    return [record(turn) for turn in session.turns]


def assert_same(actual: Session, expected: Session) -> None:
    """Tokens, turns, undo records, schedule, cache and what follows, bit for bit."""
    assert actual.tokens == expected.tokens and taken(actual) == taken(expected)
    assert actual.schedule.spans == expected.schedule.spans
    assert cache_bits(actual) == cache_bits(expected)
    assert next_logits(actual) == next_logits(expected)


def pair(language_model: LanguageModel) -> tuple[Session, Session]:
    speculating, plain = Session(language_model), Session(language_model)
    speculating.speculate = True
    return speculating, plain


@pytest.mark.usefixtures("lavish")
@pytest.mark.parametrize("name", PARAMS)
def test_sessions_are_the_same_after_turns_reverts_forks_and_losses(
    name: str, chat_model: LanguageModel
) -> None:
    """With every way back, at every turn."""
    speculating, plain = pair(chat_model)
    for session in (speculating, plain):
        for question in (TEXT, "the dog and the", TEXT):
            for _ in session.ask(question, PARAMS[name], max_new_tokens=30):
                pass
        session.revert(2)
        for _ in session.generate(TEXT, PARAMS[name], max_new_tokens=20):
            pass
    assert_same(speculating, plain)
    forked = speculating.fork(1)
    assert forked.speculate
    for session in (forked, expected := plain.fork(1)):
        for _ in session.ask("the cat", PARAMS[name], max_new_tokens=25):
            pass
    assert_same(forked, expected)
    speculating.evict()
    speculating.restore()
    assert_same(speculating, plain)
    assert_same(Session.rebuild(chat_model, speculating.snapshot()), plain)


@pytest.mark.usefixtures("lavish")
@pytest.mark.parametrize("count", [1, 2, 3, 5, 8, 9, 10])
def test_a_turn_ends_in_the_middle_of_a_draft(
    count: int, chat_model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its length, by a stop token and by a stop text, anywhere in a draft; what follows is not kept."""
    plain = Session(chat_model)
    said = list(plain.ask(TEXT, PARAMS["sampled"], max_new_tokens=24))
    future = plain.tokens + [3] * MOST_ROWS
    use(monkeypatch, right(future))
    stop = next((text for token in said[count - 1 :] if (text := token.text.strip())), "\0")
    ends = said[count - 1].token_id
    stopping = LanguageModel(**{**vars(chat_model), "stop_token_ids": frozenset({ends})})
    for language_model, limit, stops in (
        (chat_model, count, ()),
        (stopping, 24, ()),
        (chat_model, 24, (stop,)),
    ):
        session, expected = pair(language_model)
        for one in (session, expected):
            found = list(one.ask(TEXT, PARAMS["sampled"], max_new_tokens=limit, stop=stops))
            assert len(found) == count or language_model is stopping or stops
        assert_same(session, expected)
        assert session.speculation is None


@pytest.mark.usefixtures("lavish")
@pytest.mark.parametrize("count", [0, 1, 2, 5, 8, 9])
def test_cancelling_in_the_middle_of_a_draft(
    count: int, chat_model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The session is as it was, and takes its next turn as if nothing had been."""
    speculating, plain = pair(chat_model)
    for session in (speculating, plain):
        for _ in session.ask(TEXT, PARAMS["greedy"], max_new_tokens=9):
            pass
    future = clone(plain)
    for _ in future.ask("the dog", PARAMS["greedy"], max_new_tokens=20):
        pass
    with monkeypatch.context() as patch:
        use(patch, right(future.tokens))
        generation = speculating.ask("the dog", PARAMS["greedy"], max_new_tokens=20)
        for _ in itertools.islice(generation, count):
            pass
        generation.close()
    assert_same(speculating, plain)
    for session in (speculating, plain):
        for _ in session.ask("the cat", PARAMS["sampled"], max_new_tokens=9):
            pass
    assert_same(speculating, plain)


@pytest.mark.usefixtures("lavish")
def test_between_tokens_a_session_is_what_it_is_without(
    chat_model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also while tokens are ahead: it can be copied and looked at; and it may lose or grow its cache."""
    speculating, plain = pair(chat_model)
    full = clone(plain)
    for _ in full.ask(TEXT, PARAMS["greedy"], max_new_tokens=40):
        pass
    use(monkeypatch, right(full.tokens))
    ahead = 0
    tokens = zip(
        speculating.ask(TEXT, PARAMS["greedy"], max_new_tokens=40),
        plain.ask(TEXT, PARAMS["greedy"], max_new_tokens=40),
        strict=True,
    )
    for number, (token, expected) in enumerate(tokens):
        assert token == expected
        if speculating.speculation is None or plain.cache.length < plain.schedule.length:
            continue
        ahead += speculating.speculation.ahead > 0
        assert speculating.tokens == plain.tokens and speculating.schedule.spans == plain.schedule.spans
        if number % 12 == 11:
            speculating.evict()
        elif number % 12 == 5:
            speculating.cache.reserve(speculating.cache.capacity + 1)
        else:
            assert cache_bits(speculating.fork()) == cache_bits(plain)
    assert ahead > 20
    assert_same(speculating, plain)


@pytest.mark.parametrize("method", ["forward", "forward_batch"])
def test_an_error_leaves_the_cache_as_it_was(
    method: str, open_model: OpenModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the pass over a draft, after some layers were written."""
    model, cache, tokens = open_model("llama"), open_model("llama").new_cache(), REPEATS.copy()
    model.forward(tokens[:-1], cache)
    before = cached(model, cache)
    if method == "forward":
        monkeypatch.setattr(NgramDrafter, "draft", lambda *_: [])
    speculation = Speculation()

    def broken(*_: object) -> None:
        raise MemoryError("no room")

    with monkeypatch.context() as patch:
        patch.setattr(type(model._weights.lm_head), "decode", broken)
        with pytest.raises(MemoryError):
            speculation.next_logits(model, tokens, cache)
    assert_same_bits(cached(model, cache), before)
    again = model.new_cache()
    model.forward(tokens[:-1], again)
    assert_same_bits(speculation.next_logits(model, tokens, cache), model.forward(tokens[-1:], again))
    assert speculation.ahead == (1 if method == "forward_batch" else 0)


@pytest.mark.usefixtures("lavish")
@pytest.mark.parametrize("number", [1, 2, 3, 5, 9])
def test_company_shares_the_rows_of_a_pass(
    number: int, chat_model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each gets the bits it gets alone; where they are few, a pass has rows to spare for several tokens."""
    passes: list[int] = []
    forward_batch = Llama.forward_batch

    def counted(self: Llama, token_ids: Sequence[int], caches: Sequence[object]) -> np.ndarray:
        passes.append(len(token_ids))
        return forward_batch(self, token_ids, caches)  # type: ignore[arg-type]

    monkeypatch.setattr(Llama, "forward_batch", counted)
    running, expected = [], []
    for seed in range(number):
        speculating, plain = pair(chat_model)
        speculating.speculate = seed != 1
        params = SamplingParams(temperature=0.3, seed=seed)
        for _ in plain.generate(TEXT + " cat" * seed, params, max_new_tokens=20):
            pass
        expected.append(plain)
        running.append((speculating, speculating.begin(TEXT + " cat" * seed, params, max_new_tokens=20)))

    def known(tokens: Sequence[int], most: int) -> list[int]:
        futures = [plain.tokens for plain in expected if plain.tokens[: len(tokens)] == tokens]
        return right(futures[0])(tokens, most)

    use(monkeypatch, known)
    for session, turn in running:
        while (logits := session.compute()) is None:
            pass
        turn.accept(logits)
    while going := [(session, turn) for session, turn in running if not turn.ended]:
        for (session, turn), row in zip(
            going, decode_together([session for session, _ in going]), strict=True
        ):
            logits = row
            while logits is not None:
                turn.accept(logits)
                logits = None if turn.ended else session.foreseen()
        assert len(going) <= passes[-1] <= max(MOST_ROWS, len(going))
    accepted = [session.speculation.accepted for session, _ in running if session.speculation is not None]
    assert all(accepted) if number <= MOST_ROWS / 2 else number < MOST_ROWS or not any(accepted)
    for (session, turn), plain in zip(running, expected, strict=True):
        session.finish(turn)
        assert_same(session, plain)
    assert (max(passes) > number) == (number < MOST_ROWS / 2 + 2)
