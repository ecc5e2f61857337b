"""The cache: slices without copies, truncation in no time, growth, limits, and nothing half done."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from checkpoints import KINDS, fixed_text
from comparisons import assert_same_bits
from conftest import OpenModel
from decoding import cached, in_chunks

from lm_core import kv_cache, model, ops
from lm_core.config import LlamaConfig
from lm_core.errors import ContextLengthExceeded, InvalidParameter
from lm_core.kv_cache import KVCache
from lm_core.model import Llama

TEXT = fixed_text()
CONFIG = LlamaConfig.from_dict({**KINDS["llama"].config, "max_position_embeddings": 128})


def filled(length: int, capacity: int | None = None) -> KVCache:
    """A cache of ``length`` tokens: token i has keys i + layer / 8 and values -i - layer / 8."""
    cache = KVCache(CONFIG, capacity)
    append(cache, length)
    return cache


def append(cache: KVCache, count: int) -> None:
    """Write ``count`` more such tokens, as a forward pass does."""
    start = cache.length
    cache.reserve(start + count)
    shape = (count, CONFIG.num_key_value_heads, CONFIG.head_dim)
    for layer in range(CONFIG.num_hidden_layers):
        positions = np.arange(start, start + count, dtype=np.float32)[:, None, None] + layer / 8
        keys = np.broadcast_to(positions, shape).astype(np.float32)
        cache.write(layer, start, keys, -keys)
    cache.advance(count)


def assert_filled(cache: KVCache, length: int) -> None:
    """The cache holds exactly what :func:`filled` wrote."""
    assert cache.length == length
    for layer in range(CONFIG.num_hidden_layers):
        keys, values = cache.view(layer, 0, length)
        expected = np.arange(length, dtype=np.float32)[None, :, None] + np.float32(layer / 8)
        np.testing.assert_array_equal(keys, np.broadcast_to(expected, keys.shape))
        np.testing.assert_array_equal(values, -keys)


def test_view_is_a_slice_and_no_copy() -> None:
    """The same memory at every look, and the positions that were asked for."""
    cache = filled(50)
    keys, values = cache.view(1, 10, 30)
    again, _ = cache.view(1, 0, 50)
    assert keys.shape == values.shape == (CONFIG.num_key_value_heads, 20, CONFIG.head_dim)
    assert keys.dtype == values.dtype == np.float32
    assert np.shares_memory(keys, again)
    assert not np.shares_memory(keys, values)
    assert_same_bits(keys, again[:, 10:30])
    np.testing.assert_array_equal(keys[:, 0, :], 10.125)
    np.testing.assert_array_equal(values[:, 0, :], -10.125)


def test_view_cannot_be_written() -> None:
    """History is not to be changed by who looks at it; the cache itself stays usable."""
    cache = filled(10)
    for array in cache.view(0, 0, 10):
        with pytest.raises(ValueError, match="read-only"):
            array[:] = 0
    append(cache, 5)
    assert_filled(cache, 15)


@pytest.mark.parametrize("span", [(-1, 3), (0, 11), (5, 4), (11, 11)])
def test_view_of_what_is_not_cached(span: tuple[int, int]) -> None:
    """Past the length there is scratch memory, which nobody may see."""
    with pytest.raises(InvalidParameter) as refused:
        filled(10).view(0, *span)
    assert refused.value.param == "stop"


@pytest.mark.parametrize("layer", [-1, CONFIG.num_hidden_layers])
def test_view_of_no_layer(layer: int) -> None:
    """Negative indices would silently count from the end."""
    with pytest.raises(InvalidParameter) as refused:
        filled(10).view(layer, 0, 5)
    assert refused.value.param == "layer"


def test_truncate_only_moves_the_end() -> None:
    """O(1): the same memory before and after, at the same capacity."""
    cache = filled(100)
    memory, _ = cache.view(0, 0, 100)
    capacity = cache.capacity
    cache.truncate(40)
    assert_filled(cache, 40)
    assert cache.capacity == capacity
    assert np.shares_memory(memory, cache.view(0, 0, 40)[0])
    append(cache, 10)
    assert_filled(cache, 50)
    cache.truncate(50)
    cache.truncate(0)
    assert_filled(cache, 0)


@pytest.mark.parametrize("length", [-1, 11, 128])
@pytest.mark.parametrize("method", [KVCache.truncate, KVCache.copy_prefix])
def test_lengths_that_are_not_cached(length: int, method: Callable[[KVCache, int], object]) -> None:
    """A negative length would cut from the end, a larger one would reveal scratch memory."""
    cache = filled(10)
    with pytest.raises(InvalidParameter) as refused:
        method(cache, length)
    assert refused.value.param == "length"
    assert_filled(cache, 10)


@pytest.mark.parametrize("length", [0, 1, 63, 64, 65, 100])
def test_copy_prefix(length: int) -> None:
    """The bits of the original, in memory of its own: neither can change the other."""
    original = filled(100)
    copy = original.copy_prefix(length)
    assert_filled(copy, length)
    if length:
        assert not np.shares_memory(copy.view(0, 0, length)[0], original.view(0, 0, length)[0])
    append(copy, 128 - length)
    assert_filled(copy, 128)
    original.truncate(0)
    append(original, 5)
    assert_filled(original, 5)
    assert_filled(copy, 128)
    with pytest.raises(ContextLengthExceeded):
        copy.reserve(129)


def test_growth_keeps_what_is_cached_and_stops_at_the_context() -> None:
    """Token by token from one to the end of the context: room at least doubles, and ends at 128."""
    cache = KVCache(CONFIG, 1)
    capacities = []
    for _ in range(128):
        append(cache, 1)
        capacities.append(cache.capacity)
    assert_filled(cache, 128)
    assert sorted(set(capacities)) == [1, 2, 4, 8, 16, 32, 64, 128]
    assert (
        cache.nbytes == 2 * 4 * 128 * CONFIG.num_hidden_layers * CONFIG.num_key_value_heads * CONFIG.head_dim
    )


def test_an_empty_cache_takes_little_memory() -> None:
    """A context of a million tokens costs nothing before it is used."""
    config = LlamaConfig.from_dict({**KINDS["llama"].config, "max_position_embeddings": 1 << 20})
    assert KVCache(config).capacity == kv_cache.SMALLEST_CAPACITY
    assert KVCache(config, 100).capacity == 100


@pytest.mark.parametrize("capacity", [0, -1, 129])
def test_capacities_out_of_range(capacity: int) -> None:
    """Room for nothing, or for more than the context."""
    with pytest.raises(InvalidParameter) as refused:
        KVCache(CONFIG, capacity)
    assert refused.value.param == "capacity"


@pytest.mark.parametrize("cached_tokens, new_tokens", [(0, 385), (384, 1), (380, 5), (384, 200)])
def test_the_context_length_is_enforced(cached_tokens: int, new_tokens: int, open_model: OpenModel) -> None:
    """The "dynamic" model has a context of 4 * 96 tokens; a refused call changes nothing."""
    engine = open_model("dynamic")
    tokens = (TEXT * 3)[:cached_tokens]
    cache = engine.new_cache()
    if tokens:
        engine.forward(tokens, cache)
    before = cached(engine, cache)
    for call in (engine.forward, engine.replay):
        with pytest.raises(ContextLengthExceeded) as refused:
            call((TEXT * 3)[:new_tokens], cache)
        assert (refused.value.tokens, refused.value.context_length) == (cached_tokens + new_tokens, 384)
        assert "384" in str(refused.value) and "\n" not in str(refused.value)
        assert cache.length == cached_tokens
    assert_same_bits(cached(engine, cache), before)


def test_the_last_token_of_the_context_fits(open_model: OpenModel) -> None:
    """Neither one too early nor one too late."""
    engine = open_model("dynamic")
    cache = engine.new_cache()
    engine.forward((TEXT * 2)[:383], cache)
    engine.forward([5], cache)
    assert cache.length == 384 == cache.capacity


def test_one_full_sequence_refuses_the_batch(open_model: OpenModel) -> None:
    """No cache of the step has moved, so the others can go on without it."""
    engine = open_model("dynamic")
    short, full = engine.new_cache(), engine.new_cache()
    engine.forward(TEXT[:10], short)
    engine.forward((TEXT * 2)[:384], full)
    before = cached(engine, short)
    with pytest.raises(ContextLengthExceeded) as refused:
        engine.forward_batch([3, 3], [short, full])
    assert (refused.value.tokens, refused.value.context_length) == (385, 384)
    assert (short.length, full.length) == (10, 384)
    assert_same_bits(cached(engine, short), before)


CALLS: dict[str, Callable[[Llama, KVCache], npt.NDArray[np.float32]]] = {
    "prefill": lambda engine, cache: engine.forward(TEXT[20:60], cache),
    "decode": lambda engine, cache: engine.forward([5], cache),
    "batch": lambda engine, cache: engine.forward_batch([5, 6], [cache, engine.new_cache()])[0],
    "replay": lambda engine, cache: engine.replay(TEXT[20:60], cache),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("interruption", [MemoryError, KeyboardInterrupt])
def test_a_failure_in_the_middle_leaves_the_cache_as_it_was(
    call: str, interruption: type[BaseException], open_model: OpenModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every point between two operators is tried, after the first chunk too; then the same call succeeds."""
    monkeypatch.setattr(model, "PREFILL_CHUNK", 16)
    monkeypatch.setattr(model, "REPLAY_ROWS", 16)
    engine = open_model("llama")
    undisturbed, cache = engine.new_cache(), engine.new_cache()
    for each in (undisturbed, cache):
        engine.forward(TEXT[:20], each)
    before = cached(engine, cache)
    expected = CALLS[call](engine, undisturbed)
    failures = 0
    swiglu = ops.swiglu
    while True:
        remaining = [failures]

        def fails_later(
            gate_up: npt.NDArray[np.float32], remaining: list[int] = remaining
        ) -> npt.NDArray[np.float32]:
            if remaining[0] == 0:
                raise interruption
            remaining[0] -= 1
            return swiglu(gate_up)

        monkeypatch.setattr(ops, "swiglu", fails_later)
        try:
            logits = CALLS[call](engine, cache)
            break
        except interruption:
            failures += 1
            assert cache.length == 20
            assert_same_bits(cached(engine, cache), before)
    assert failures == (6 if call in ("prefill", "replay") else 2), "one failure for each layer of each chunk"
    assert_same_bits(logits, expected)
    assert_same_bits(cached(engine, cache), cached(engine, undisturbed))


def test_long_prompts_go_in_chunks(open_model: OpenModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """A prompt longer than a chunk is the prompt in chunks, bit for bit, and all positions come back."""
    monkeypatch.setattr(model, "PREFILL_CHUNK", 64)
    engine = open_model("llama")
    whole, parts = engine.new_cache(), engine.new_cache()
    logits = engine.forward(TEXT, whole, all_positions=True)
    assert logits.shape == (200, engine.config.vocab_size)
    assert_same_bits(logits, in_chunks(engine, TEXT, [64, 64, 64, 8], parts))
    assert_same_bits(cached(engine, whole), cached(engine, parts))
