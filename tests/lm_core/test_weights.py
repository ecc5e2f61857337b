"""Weights in memory: which storage, which parts together, and what is shared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import KINDS, NEWER, Kind, RandomCheckpoint
from comparisons import assert_same_bits
from conftest import CheckpointFolder

from lm_core import weights
from lm_core.bfloat16 import narrow, widen
from lm_core.checkpoint import Checkpoint
from lm_core.config import LlamaConfig
from lm_core.errors import CheckpointError, InvalidParameter
from lm_core.linear import Bfloat16Linear, Float32Linear
from lm_core.weights import ModelWeights, load_weights


def load(folder: Path, dtype: str = "f32") -> ModelWeights:
    return load_weights(Checkpoint.open(folder), LlamaConfig.from_pretrained(folder), dtype)


def everything(loaded: ModelWeights) -> np.ndarray[Any, Any]:
    """The embedding table as float32."""
    return loaded.embed_tokens.rows(np.arange(loaded.embed_tokens.out_features))


@pytest.mark.parametrize("kind", ["llama", "sharded", "biased", "mistral", "qwen2_window"])
def test_every_matrix_is_where_it_belongs(kind: str, checkpoint_folder: CheckpointFolder) -> None:
    """By the published names; projections of the same input are rows of one layer, in order."""
    loaded, tensors = load(checkpoint_folder(kind)), RandomCheckpoint(KINDS[kind]).weights
    config = LlamaConfig.from_dict(KINDS[kind].config)
    assert_same_bits(loaded.norm, tensors["model.norm.weight"])
    assert_same_bits(everything(loaded), tensors["model.embed_tokens.weight"])
    for index, layer in enumerate(loaded.layers):
        prefix = f"model.layers.{index}."
        assert_same_bits(layer.input_layernorm, tensors[prefix + "input_layernorm.weight"])
        assert_same_bits(layer.post_attention_layernorm, tensors[prefix + "post_attention_layernorm.weight"])
        assert layer.sliding_window == config.sliding_windows[index]
        for linear, names in (
            (layer.qkv_proj, ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"]),
            (layer.o_proj, ["self_attn.o_proj"]),
            (layer.gate_up_proj, ["mlp.gate_proj", "mlp.up_proj"]),
            (layer.down_proj, ["mlp.down_proj"]),
        ):
            expected = np.concatenate([tensors[f"{prefix}{name}.weight"] for name in names])
            assert_same_bits(np.concatenate([part for part, _ in linear._parts]), expected)
            biases = [tensors[f"{prefix}{name}.bias"] for name in names if f"{prefix}{name}.bias" in tensors]
            assert (linear._bias is None) == (not biases)
            if biases:
                assert_same_bits(linear._bias, np.concatenate(biases))


def test_a_tied_head_is_the_embedding_and_counted_once(checkpoint_folder: CheckpointFolder) -> None:
    """An untied one is a matrix of its own, and the embedding's other rows are not read for a token."""
    tied, untied = load(checkpoint_folder("llama")), load(checkpoint_folder("biased"))
    assert tied.lm_head is tied.embed_tokens and untied.lm_head is not untied.embed_tokens
    for kind, loaded in (("llama", tied), ("biased", untied)):
        matrices = {
            name: tensor for name, tensor in RandomCheckpoint(KINDS[kind]).weights.items() if tensor.ndim == 2
        }
        every = sum(tensor.nbytes for tensor in matrices.values())
        unread = 0 if kind == "llama" else matrices["model.embed_tokens.weight"].nbytes
        assert loaded.nbytes == every - unread


@pytest.mark.parametrize(
    ("kind", "dtype", "storage", "layer"),
    [
        ("llama", "f32", "f32", Float32Linear),
        ("llama", "bf16", "bf16", Bfloat16Linear),
        ("llama", "auto", "f32", Float32Linear),
        ("bf16", "f32", "f32", Float32Linear),
        ("bf16", "bf16", "bf16", Bfloat16Linear),
        ("bf16", "auto", "f32", Float32Linear),
        ("f16", "f32", "f32", Float32Linear),
        ("f16", "bf16", "bf16", Bfloat16Linear),
        ("f16", "auto", "f32", Float32Linear),
    ],
)
def test_storage(
    kind: str, dtype: str, storage: str, layer: type, checkpoint_folder: CheckpointFolder
) -> None:
    """What was asked for; every number is that of the file, or its nearest bf16."""
    loaded = load(checkpoint_folder(kind), dtype)
    assert loaded.storage == storage and type(loaded.embed_tokens) is layer
    table = RandomCheckpoint(KINDS[kind]).weights["model.embed_tokens.weight"]
    assert_same_bits(everything(loaded), widen(narrow(table)) if storage == "bf16" else table)
    assert loaded.norm.dtype == np.float32


@pytest.mark.parametrize(
    ("kind", "limit", "storage"),
    [
        ("bf16", 0, "bf16"),
        ("bf16", 10**9, "f32"),
        ("llama", 0, "f32"),
        ("f16", 0, "f32"),
        ("odd_widths", 0, "f32"),
    ],
)
def test_auto(
    kind: str, limit: int, storage: str, checkpoint_folder: CheckpointFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """bf16 stays bf16 where it is large and of even width; nothing else becomes bf16 unasked."""
    monkeypatch.setattr(weights, "WIDENED_BYTES", limit)
    assert load(checkpoint_folder(kind), "auto").storage == storage


def test_the_limit_of_auto_is_of_widened_bytes(
    checkpoint_folder: CheckpointFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exactly at it a model is widened."""
    matrices = [tensor for tensor in RandomCheckpoint(KINDS["bf16"]).weights.values() if tensor.ndim == 2]
    widened = sum(tensor.nbytes for tensor in matrices)
    for limit, storage in ((widened, "f32"), (widened - 1, "bf16")):
        monkeypatch.setattr(weights, "WIDENED_BYTES", limit)
        assert load(checkpoint_folder("bf16"), "auto").storage == storage


def test_matrices_of_odd_width_are_float32_inside_a_bf16_model(tmp_path: Path) -> None:
    """Pairs of bf16 weights need an even width: here the feed-forward's way back has none."""
    kind = Kind({**NEWER, "intermediate_size": 45}, seed=1, storage="BF16")
    loaded = load(RandomCheckpoint(kind).write(tmp_path), "bf16")
    assert loaded.storage == "bf16"
    assert type(loaded.layers[0].down_proj) is Float32Linear
    assert type(loaded.layers[0].gate_up_proj) is Bfloat16Linear


def test_unknown_storage_is_refused_before_the_weights_are_looked_at(tmp_path: Path) -> None:
    """And wrong weights before any is loaded."""
    (tmp_path / "config.json").write_text(json.dumps(NEWER))
    empty = Checkpoint({})
    config = LlamaConfig.from_pretrained(tmp_path)
    with pytest.raises(InvalidParameter, match="auto, f32, bf16"):
        load_weights(empty, config, "int8")
    with pytest.raises(CheckpointError, match="lack"):
        load_weights(empty, config, "f32")
