"""The generation loop: what it computes, what it yields, and where it ends."""

from __future__ import annotations

from typing import Any

import pytest
from checkpoints import fixed_text
from conftest import OpenModel
from decoding import greedy

from lm_core.errors import ContextLengthExceeded, InvalidParameter
from lm_core.generation import generate
from lm_core.model import Llama
from lm_core.sampler import SamplingParams

TEXT = fixed_text()
GREEDY = SamplingParams(temperature=0.0)
DYNAMIC_CONTEXT = 384


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """The token ids of each forward pass, as they are made."""
    calls: list[list[int]] = []
    forward = Llama.forward

    def spy(self: Llama, token_ids: Any, *arguments: Any, **keywords: Any) -> Any:
        calls.append(list(token_ids))
        return forward(self, token_ids, *arguments, **keywords)

    monkeypatch.setattr(Llama, "forward", spy)
    return calls


def test_greedy_tokens_follow_the_prompt(open_model: OpenModel) -> None:
    """The most likely token each time, as many as were asked for."""
    model = open_model("llama")
    expected = greedy(model, TEXT[:20], 30)
    assert list(generate(model, TEXT[:20], GREEDY, max_new_tokens=30)) == expected
    assert list(generate(model, TEXT[:20], GREEDY, max_new_tokens=1)) == expected[:1]


def test_each_token_is_computed_once_and_only_when_asked_for(
    open_model: OpenModel, computed: list[list[int]]
) -> None:
    """Streaming: the first token comes after the prompt alone, and the last one is never computed."""
    generation = generate(open_model("llama"), TEXT[:20], GREEDY, max_new_tokens=3)
    assert computed == []
    tokens = [next(generation)]
    assert computed == [TEXT[:20]]
    tokens += list(generation)
    assert computed == [TEXT[:20], tokens[:1], tokens[1:2]]


def test_the_caller_may_keep_the_prompt_and_the_cache(open_model: OpenModel) -> None:
    """The list is not appended to; the cache holds all but the last token and can be continued."""
    model, prompt = open_model("llama"), TEXT[:20]
    cache = model.new_cache()
    first = list(generate(model, prompt, GREEDY, max_new_tokens=5, cache=cache))
    assert prompt == TEXT[:20] and cache.length == 24
    second = list(generate(model, prompt + first, GREEDY, max_new_tokens=5, cache=cache))
    assert first + second == greedy(model, prompt, 10)


def test_a_cached_prefix_is_not_computed_again(open_model: OpenModel, computed: list[list[int]]) -> None:
    """Only what is missing, down to a single token."""
    model = open_model("llama")
    for cached in (5, 19):
        cache = model.new_cache()
        model.forward(TEXT[:cached], cache)
        computed.clear()
        next(generate(model, TEXT[:20], GREEDY, cache=cache))
        assert computed == [TEXT[cached:20]]


@pytest.mark.parametrize("position", [0, 1, 7])
def test_a_stop_token_is_yielded_and_ends_it(
    position: int, open_model: OpenModel, computed: list[list[int]]
) -> None:
    """At its first occurrence, and nothing is computed after it."""
    model = open_model("llama")
    tokens = greedy(model, TEXT[:20], 12)
    computed.clear()
    stop = tokens[position]
    ends = tokens.index(stop) + 1
    assert list(generate(model, TEXT[:20], GREEDY, stop_token_ids={stop, 95})) == tokens[:ends]
    assert len(computed) == ends


def test_it_ends_where_the_context_is_full(open_model: OpenModel) -> None:
    """The last token of the context is made; a prompt of one less yields one."""
    model = open_model("dynamic")
    assert model.config.context_length == DYNAMIC_CONTEXT
    prompt = (TEXT * 2)[: DYNAMIC_CONTEXT - 3]
    assert len(list(generate(model, prompt, GREEDY))) == 3
    assert len(list(generate(model, prompt, GREEDY, max_new_tokens=99))) == 3
    assert len(list(generate(model, (TEXT * 2)[: DYNAMIC_CONTEXT - 1], GREEDY))) == 1


def test_seeded_generation_repeats(open_model: OpenModel) -> None:
    """By its seed, and from the middle: the random numbers belong to positions."""
    model, params = open_model("llama"), SamplingParams(temperature=2.0, seed=5)
    tokens = list(generate(model, TEXT[:20], params, max_new_tokens=20))
    assert list(generate(model, TEXT[:20], params, max_new_tokens=20)) == tokens
    other = SamplingParams(temperature=2.0, seed=6)
    assert list(generate(model, TEXT[:20], other, max_new_tokens=20)) != tokens
    cache = model.new_cache()
    model.forward(TEXT[:20], cache)
    for token in tokens[:7]:
        model.forward([token], cache)
    cache.truncate(cache.length - 1)
    middle = [*TEXT[:20], *tokens[:7]]
    assert list(generate(model, middle, params, max_new_tokens=13, cache=cache)) == tokens[7:]


def test_without_parameters_it_samples(open_model: OpenModel) -> None:
    """From the model's own distribution, differently each time."""
    model = open_model("llama")
    assert list(generate(model, TEXT[:5], max_new_tokens=40)) != list(
        generate(model, TEXT[:5], max_new_tokens=40)
    )


def test_the_repetition_penalty_sees_the_prompt(open_model: OpenModel) -> None:
    """A model that repeats itself stops doing so."""
    model = open_model("llama")
    prompt = TEXT[:20]
    favourite = greedy(model, prompt, 1)
    prompt = [*prompt, *favourite, *greedy(model, prompt + favourite, 40)]
    plain = greedy(model, prompt, 40)
    penalized = list(
        generate(model, prompt, SamplingParams(temperature=0, repetition_penalty=100.0), max_new_tokens=40)
    )
    assert penalized != plain
    assert len(set(penalized) - set(prompt)) > len(set(plain) - set(prompt))


@pytest.mark.parametrize("count", [0, -1])
def test_no_new_tokens_are_refused(count: int, open_model: OpenModel) -> None:
    """Rather than silently made none."""
    with pytest.raises(InvalidParameter, match="at least 1") as refused:
        next(generate(open_model("llama"), TEXT[:5], max_new_tokens=count))
    assert refused.value.param == "max_new_tokens"


def test_a_prompt_that_the_cache_holds_already(open_model: OpenModel) -> None:
    """At least its last token must be computed, for its logits."""
    model = open_model("llama")
    cache = model.new_cache()
    model.forward(TEXT[:9], cache)
    for prompt in ([], TEXT[:8], TEXT[:9]):
        with pytest.raises(InvalidParameter, match="9 are cached") as refused:
            next(generate(model, prompt, cache=cache))
        assert refused.value.param == "prompt" and cache.length == 9
    with pytest.raises(InvalidParameter, match="has 0 tokens"):
        next(generate(model, []))


@pytest.mark.parametrize("length", [DYNAMIC_CONTEXT, DYNAMIC_CONTEXT + 1])
def test_a_prompt_that_fills_the_context(length: int, open_model: OpenModel) -> None:
    """Refused before anything is computed."""
    model = open_model("dynamic")
    cache = model.new_cache()
    with pytest.raises(ContextLengthExceeded) as refused:
        next(generate(model, (TEXT * 2)[:length], cache=cache))
    assert (refused.value.tokens, refused.value.context_length) == (length, DYNAMIC_CONTEXT)
    assert cache.length == 0


def test_a_token_that_is_not_in_the_vocabulary(open_model: OpenModel) -> None:
    """The model's own error."""
    with pytest.raises(InvalidParameter, match="96 is not in the vocabulary"):
        next(generate(open_model("llama"), [5, 96]))
