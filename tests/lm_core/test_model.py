"""The engine's public face: what it accepts, what it refuses, and what it returns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import KINDS, RandomCheckpoint, fixed_text
from comparisons import assert_same_bits
from conftest import CheckpointFolder, OpenModel

import lm_core
from lm_core.errors import InvalidParameter, ModelNotFound
from lm_core.model import Llama

TEXT = fixed_text()


def test_forward_returns_the_last_position(open_model: OpenModel) -> None:
    """``[V]`` float32 by default, ``[T, V]`` for all positions, for one token and for several."""
    engine = open_model("llama")
    for tokens in (TEXT[:1], TEXT[:9]):
        last = engine.forward(tokens, engine.new_cache())
        every = engine.forward(tokens, engine.new_cache(), all_positions=True)
        assert last.shape == (engine.config.vocab_size,)
        assert every.shape == (len(tokens), engine.config.vocab_size)
        assert last.dtype == every.dtype == np.float32
        np.testing.assert_allclose(last, every[-1], atol=1e-4)


def test_logits_belong_to_the_caller(open_model: OpenModel) -> None:
    """The next call must not overwrite them."""
    engine = open_model("llama")
    cache = engine.new_cache()
    first = engine.forward([5], cache)
    kept = first.copy()
    engine.forward([6], cache)
    assert_same_bits(first, kept)


@pytest.mark.parametrize(
    "ids", [[3, 4], (3, 4), np.array([3, 4]), np.array([3, 4], dtype=np.uint8), range(3, 5)]
)
def test_token_ids_of_any_integer_kind(ids: Any, open_model: OpenModel) -> None:
    """Lists, tuples, ranges and arrays mean the same."""
    engine = open_model("llama")
    assert_same_bits(engine.forward(ids, engine.new_cache()), engine.forward([3, 4], engine.new_cache()))


@pytest.mark.parametrize(
    "ids",
    [
        [],
        [96],
        [-1],
        [5, 1 << 40],
        [5, 1 << 63],
        [5, 1 << 70],
        [1.0],
        [True],
        ["5"],
        [[5, 6]],
        5,
        [None],
        [float("nan")],
    ],
)
def test_bad_token_ids(ids: Any, open_model: OpenModel) -> None:
    """Refused by name, before the cache is touched: NumPy would index from the end, or truncate."""
    engine = open_model("llama")
    cache = engine.new_cache()
    for call in (engine.forward, engine.replay, lambda ids, cache: engine.forward_batch(ids, [cache])):
        with pytest.raises(InvalidParameter) as refused:
            call(ids, cache)
        assert refused.value.param == "token_ids"
        assert cache.length == 0


def test_a_batch_needs_a_cache_for_each_token(open_model: OpenModel) -> None:
    """One token too many, or one cache."""
    engine = open_model("llama")
    for tokens, caches in (([1], 2), ([1, 2], 1)):
        with pytest.raises(InvalidParameter) as refused:
            engine.forward_batch(tokens, [engine.new_cache() for _ in range(caches)])
        assert refused.value.param == "caches"


@pytest.mark.parametrize("dtype", ["", "F32", "f16", "int8", "bfloat16", None])
def test_unknown_storage(dtype: Any, checkpoint_folder: CheckpointFolder) -> None:
    """The message names the choices."""
    with pytest.raises(InvalidParameter, match="auto, f32, bf16") as refused:
        Llama.from_pretrained(checkpoint_folder("llama"), dtype=dtype)
    assert refused.value.param == "dtype"


def test_auto_keeps_large_bf16_weights(
    checkpoint_folder: CheckpointFolder, open_model: OpenModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Small bf16 models are widened for speed, large ones stay half the size; others are float32."""
    from lm_core import weights

    assert open_model("bf16", "auto").dtype == "f32"
    monkeypatch.setattr(weights, "WIDENED_BYTES", 1000)
    for kind, dtype in (("bf16", "bf16"), ("f16", "f32"), ("llama", "f32")):
        assert Llama.from_pretrained(checkpoint_folder(kind), dtype="auto").dtype == dtype
    assert Llama.from_pretrained(checkpoint_folder("bf16"), dtype="f32").dtype == "f32"
    assert 2 * open_model("bf16", "bf16").nbytes == open_model("bf16", "f32").nbytes


def test_missing_folder_and_files(tmp_path: Path) -> None:
    """Each says which."""
    with pytest.raises(ModelNotFound, match="nowhere"):
        Llama.from_pretrained(tmp_path / "nowhere")
    with pytest.raises(ModelNotFound, match=r"config\.json"):
        Llama.from_pretrained(tmp_path)
    folder = RandomCheckpoint(KINDS["llama"]).write(tmp_path)
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelNotFound, match=r"model\.safetensors"):
        Llama.from_pretrained(folder)


def test_public_names() -> None:
    """Everything in ``__all__`` is there, and nothing else is invented."""
    for name in lm_core.__all__:
        assert getattr(lm_core, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'Lama'"):
        _ = lm_core.Lama
