"""Sessions that decode in company get the bits that they get alone (promise E2), schedule included."""

from __future__ import annotations

import pytest
from session_machine import cache_bits, clone
from shared_files import story_model

from lm_core.company import decode_together, misses_one_token
from lm_core.language_model import LanguageModel
from lm_core.sampler import SamplingParams
from lm_core.session import Session


@pytest.fixture(scope="module")
def language_model() -> LanguageModel:
    return LanguageModel.from_pretrained(story_model())


def begun(language_model: LanguageModel, text: str, seed: int) -> tuple[Session, object]:
    """A session whose prompt is computed and whose first token is chosen."""
    session = Session(language_model)
    turn = session.begin(text, SamplingParams(seed=seed), max_new_tokens=30)
    logits = None
    while logits is None:
        logits = session.compute()
    turn.accept(logits)
    return session, turn


@pytest.mark.parametrize("number", [1, 2, 3, 8])
def test_company_changes_nothing(language_model: LanguageModel, number: int) -> None:
    texts = ["Once", "Once upon a time", "Tom and Lily went to the park " * 3, "The big dog"] * 2
    together = [begun(language_model, text, seed) for seed, text in enumerate(texts[:number])]
    alone = [(clone(session), turn) for session, turn in together]
    for _ in range(9):
        rows = decode_together([session for session, _ in together])
        for row, (session, _), (single, _) in zip(rows, together, alone, strict=True):
            expected = single.compute()
            assert expected is not None and row.tobytes() == expected.tobytes()
            token = int(row.argmax())
            session.tokens.append(token)
            single.tokens.append(token)
    for (session, _), (single, _) in zip(together, alone, strict=True):
        assert session.schedule.spans == single.schedule.spans
        assert cache_bits(session) == cache_bits(single)


def test_only_sessions_that_miss_one_token_decode_together(language_model: LanguageModel) -> None:
    ready, _ = begun(language_model, "Once upon", 1)
    other = Session(language_model)
    other.begin("Once upon a time")
    assert misses_one_token(ready) and not misses_one_token(other)
    before = cache_bits(ready)
    with pytest.raises(ValueError, match="exactly one"):
        decode_together([ready, other])
    assert cache_bits(ready) == before and misses_one_token(ready)


def test_a_lost_cache_is_no_decode(language_model: LanguageModel) -> None:
    session, _ = begun(language_model, "Once upon", 1)
    session.evict()
    assert not misses_one_token(session)
