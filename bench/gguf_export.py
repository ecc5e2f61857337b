"""A model folder as a GGUF file, so that ``llama.cpp`` is measured on the same weights.

``python -m bench.gguf_export MODEL DTYPE FILE``
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lm_core import bfloat16
from lm_core.checkpoint import Checkpoint
from lm_core.config import LlamaConfig

LAYER_NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def write_gguf(model: Path, dtype: str, file: Path) -> None:
    """Write the weights as ``dtype`` ("f32" or "bf16"), without a tokenizer.

    Raises:
        ValueError: the model has something that this export does not know.
    """
    import gguf

    config, checkpoint = LlamaConfig.from_pretrained(model), Checkpoint.open(model)
    if config.rope.rope_type != "default" or config.qkv_bias or config.o_bias or config.mlp_bias:
        raise ValueError("only models without biases and RoPE scaling are exported to GGUF")
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_context_length(config.context_length)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope.rope_theta)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("no_vocab")
    for name in checkpoint.tensors:
        target = _gguf_name(name)
        tensor = _as_float32(checkpoint[name])
        if target.endswith(("attn_q.weight", "attn_k.weight")):
            tensor = _interleaved(tensor, config.head_dim)
        if dtype == "bf16" and tensor.ndim == 2:
            bits = bfloat16.narrow(tensor).view(np.uint8)
            writer.add_tensor(target, bits, raw_dtype=gguf.GGMLQuantizationType.BF16)
        else:
            writer.add_tensor(target, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _gguf_name(name: str) -> str:
    whole = {
        "model.embed_tokens.weight": "token_embd.weight",
        "model.norm.weight": "output_norm.weight",
        "lm_head.weight": "output.weight",
    }
    if name in whole:
        return whole[name]
    _, _, layer, rest = name.split(".", 3)
    return f"blk.{layer}.{LAYER_NAMES[rest.removesuffix('.weight')]}.weight"


def _as_float32(stored: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    return bfloat16.widen(stored) if stored.dtype == np.uint16 else np.asarray(stored, dtype=np.float32)


def _interleaved(rows: npt.NDArray[np.float32], head_dim: int) -> npt.NDArray[np.float32]:
    """Rows of each head in the order of ``llama.cpp``, whose rotary pairs are neighbours."""
    halves = rows.reshape(-1, 2, head_dim // 2, rows.shape[1])
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(rows.shape)


if __name__ == "__main__":
    write_gguf(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
