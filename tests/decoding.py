"""The ways to run a text through the engine that several tests compare."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from lm_core.kv_cache import KVCache
from lm_core.model import Llama

F32 = npt.NDArray[np.float32]


def in_chunks(model: Llama, text: Sequence[int], chunks: Sequence[int], cache: KVCache | None = None) -> F32:
    """Logits ``[T, V]`` of a text that is computed in calls of these sizes."""
    cache = model.new_cache() if cache is None else cache
    logits, start = [], 0
    for chunk in chunks:
        logits.append(model.forward(text[start : start + chunk], cache, all_positions=True))
        start += chunk
    assert start == len(text)
    return np.concatenate(logits)


def greedy(model: Llama, text: Sequence[int], count: int) -> list[int]:
    """The ``count`` most likely tokens that follow a text."""
    cache, tokens = model.new_cache(), list(text)
    while len(tokens) < len(text) + count:
        tokens.append(int(model.forward(tokens[cache.length :], cache).argmax()))
    return tokens[len(text) :]


def cached(model: Llama, cache: KVCache) -> F32:
    """All keys and values that a cache holds, ``[L, 2, K, S, d]``, as a copy."""
    return np.array([cache.view(layer, 0, cache.length) for layer in range(model.config.num_hidden_layers)])
