"""The peer's file holds the same weights, as the project's own GGUF reading understands them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from checkpoints import OLDER, Kind, RandomCheckpoint

from bench.gguf_export import write_gguf
from lm_core import bfloat16
from lm_core.checkpoint import Checkpoint
from lm_models.gguf_weights import split_rotary_rows

gguf = pytest.importorskip("gguf")

HEADS, KV_HEADS = OLDER["num_attention_heads"], OLDER["num_key_value_heads"]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return RandomCheckpoint(Kind(OLDER, seed=3)).write(tmp_path / "model")


@pytest.mark.parametrize("dtype", ["f32", "bf16"])
def test_every_tensor_comes_back(model: Path, tmp_path: Path, dtype: str) -> None:
    file = tmp_path / "model.gguf"
    write_gguf(model, dtype, file)
    stored = {tensor.name: tensor for tensor in gguf.GGUFReader(file).tensors}
    checkpoint = Checkpoint.open(model)
    assert len(stored) == len(checkpoint.tensors)
    for name, of_gguf, heads in [
        ("model.embed_tokens", "token_embd", 0),
        ("model.norm", "output_norm", 0),
        ("model.layers.1.self_attn.q_proj", "blk.1.attn_q", HEADS),
        ("model.layers.1.self_attn.k_proj", "blk.1.attn_k", KV_HEADS),
        ("model.layers.0.self_attn.v_proj", "blk.0.attn_v", 0),
        ("model.layers.0.mlp.down_proj", "blk.0.ffn_down", 0),
    ]:
        expected = checkpoint[f"{name}.weight"]
        tensor = stored[f"{of_gguf}.weight"]
        read = gguf.dequantize(tensor.data, tensor.tensor_type)
        if heads:
            read = split_rotary_rows(read, heads)
        if dtype == "bf16" and expected.ndim == 2:
            assert tensor.tensor_type == gguf.GGMLQuantizationType.BF16
            expected = bfloat16.widen(bfloat16.narrow(expected))
        np.testing.assert_array_equal(read, expected)


def test_what_cannot_be_exported_is_refused(tmp_path: Path) -> None:
    scaled = Kind({**OLDER, "rope_scaling": {"type": "linear", "factor": 2.0}}, seed=3)
    with pytest.raises(ValueError, match="without biases and RoPE scaling"):
        write_gguf(RandomCheckpoint(scaled).write(tmp_path / "model"), "f32", tmp_path / "model.gguf")
