"""The weights of a GGUF file as ``model.safetensors``, and its blueprint as ``config.json``.

Sources: the GGUF specification (key and tensor names), and ``convert_hf_to_gguf.py`` of llama.cpp for
the order of the query and key rows.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lm_models.errors import ConversionError
from lm_models.gguf_file import GgufFile
from lm_models.progress import Progress
from lm_models.safetensors_writer import write_float32

_ARCHITECTURES = {
    "llama": {"architectures": ["LlamaForCausalLM"], "model_type": "llama"},
    "qwen2": {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2"},
}
_MODEL_TENSORS = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}
_LAYER_TENSORS = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_MODEL_TENSOR = re.compile(r"(token_embd|output_norm|output)\.(weight|bias)")
_LAYER_TENSOR = re.compile(r"blk\.(\d+)\.([a-z_]+)\.(weight|bias)")
_PIECE_ELEMENTS = 1 << 22


def model_config(gguf: GgufFile) -> dict[str, Any]:
    """The contents of ``config.json``.

    Raises:
        ConversionError: the model is of a kind that is not supported; the message names what is not.
    """
    architecture = gguf.architecture
    if architecture not in _ARCHITECTURES:
        raise ConversionError(
            f"{gguf.path.name} holds a model of architecture {architecture!r}; "
            f"supported are {', '.join(_ARCHITECTURES)}"
        )
    _refuse_scaled_rope(gguf, architecture)
    if gguf.metadata.get(f"{architecture}.attention.sliding_window"):
        raise ConversionError(
            f"{gguf.path.name} has a sliding window, which cannot be converted; "
            "pull the model from the hub instead"
        )
    hidden_size = gguf.count(f"{architecture}.embedding_length")
    heads = gguf.count(f"{architecture}.attention.head_count")
    head_dim = gguf.optional_count(f"{architecture}.attention.key_length") or hidden_size // heads
    rotated = gguf.optional_count(f"{architecture}.rope.dimension_count") or head_dim
    if rotated != head_dim:
        raise ConversionError(
            f"{gguf.path.name} rotates {rotated} of {head_dim} dimensions, which is not supported"
        )
    config: dict[str, Any] = {
        **_ARCHITECTURES[architecture],
        "hidden_act": "silu",
        "hidden_size": hidden_size,
        "intermediate_size": gguf.count(f"{architecture}.feed_forward_length"),
        "num_hidden_layers": gguf.count(f"{architecture}.block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": gguf.optional_count(f"{architecture}.attention.head_count_kv") or heads,
        "head_dim": head_dim,
        "max_position_embeddings": gguf.count(f"{architecture}.context_length"),
        # The shortest decimal that gives the same float32.
        "rms_norm_eps": float(
            str(np.float32(gguf.number(f"{architecture}.attention.layer_norm_rms_epsilon")))
        ),
        "rope_theta": float(gguf.metadata.get(f"{architecture}.rope.freq_base", 10000.0)),
        "tie_word_embeddings": "output.weight" not in gguf.tensors,
        "attention_bias": architecture == "llama" and "blk.0.attn_q.bias" in gguf.tensors,
        "mlp_bias": "blk.0.ffn_up.bias" in gguf.tensors,
        "vocab_size": _vocab_size(gguf),
        "torch_dtype": "float32",
        "use_cache": True,
    }
    return config


def write_weights(gguf: GgufFile, config: dict[str, Any], file: Path, progress: Progress) -> None:
    """Writes every tensor of ``gguf`` as float32, exactly as its storage type defines it.

    A tensor at most is in memory, and of the embedding and other large ones a piece.

    Raises:
        ConversionError: a tensor has no place in the model, or a storage type that is not supported.
    """
    names = {checkpoint_name(gguf, name): name for name in gguf.tensors}
    tensors = [
        (name, _shape(gguf.tensors[names[name]]), _pieces(gguf, names[name], config))
        for name in sorted(names, key=_position)
    ]
    total = sum(4 * int(tensor.n_elements) for tensor in gguf.tensors.values())
    with progress.bar("converting to model.safetensors", total) as advance:
        write_float32(file, tensors, advance)


def checkpoint_name(gguf: GgufFile, name: str) -> str:
    """The Hugging Face name of a tensor.

    Raises:
        ConversionError: a dense Llama has no such tensor.
    """
    if match := _MODEL_TENSOR.fullmatch(name):
        return f"{_MODEL_TENSORS[match[1]]}.{match[2]}"
    match = _LAYER_TENSOR.fullmatch(name)
    if match and match[2] in _LAYER_TENSORS:
        return f"model.layers.{int(match[1])}.{_LAYER_TENSORS[match[2]]}.{match[3]}"
    raise ConversionError(f"{gguf.path.name} holds the tensor {name!r}, which a dense Llama does not have")


def _refuse_scaled_rope(gguf: GgufFile, architecture: str) -> None:
    scaling = gguf.metadata.get(f"{architecture}.rope.scaling.type", "none")
    if scaling != "none" or "rope_freqs.weight" in gguf.tensors:
        kind = scaling if scaling != "none" else "llama3"
        raise ConversionError(
            f"{gguf.path.name} scales its rotary embedding ({kind}), which cannot be converted; "
            "pull the model from the hub instead"
        )


def _vocab_size(gguf: GgufFile) -> int:
    embedding = gguf.tensors.get("token_embd.weight")
    if embedding is None:
        raise ConversionError(f"{gguf.path.name} has no tensor token_embd.weight")
    return _shape(embedding)[0]


def _shape(tensor: Any) -> tuple[int, ...]:
    # GGUF lists dimensions from the innermost outwards.
    return tuple(int(size) for size in reversed(tensor.shape))


def _position(name: str) -> tuple[int, int, str]:
    match = re.match(r"model\.layers\.(\d+)\.", name)
    if match:
        return (1, int(match[1]), name)
    return (0 if name.startswith("model.embed_tokens") else 2, 0, name)


def _pieces(gguf: GgufFile, name: str, config: dict[str, Any]) -> Iterator[npt.NDArray[np.float32]]:
    tensor = gguf.tensors[name]
    match = _LAYER_TENSOR.fullmatch(name)
    if gguf.architecture == "llama" and match and match[2] in ("attn_q", "attn_k"):
        heads = config["num_attention_heads" if match[2] == "attn_q" else "num_key_value_heads"]
        yield split_rotary_rows(_float32(gguf, tensor, tensor.data), heads)
        return
    rows = tensor.data if tensor.data.ndim > 1 else tensor.data[None]
    step = max(1, _PIECE_ELEMENTS // (int(tensor.n_elements) // len(rows)))
    for start in range(0, len(rows), step):
        yield _float32(gguf, tensor, rows[start : start + step])


def split_rotary_rows(rows: npt.NDArray[np.float32], heads: int) -> npt.NDArray[np.float32]:
    """Undoes llama.cpp's order of query and key rows, ``[heads * d, ...] -> [heads * d, ...]``.

    There the two rows that rotate together are neighbours; in a Hugging Face checkpoint they are
    half a head apart.
    """
    head_dim = len(rows) // heads
    return rows.reshape(heads, head_dim // 2, 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def _float32(gguf: GgufFile, tensor: Any, data: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    from gguf.quants import dequantize

    try:
        values: npt.NDArray[np.float32] = dequantize(data, tensor.tensor_type)
    except NotImplementedError as error:
        raise ConversionError(
            f"{gguf.path.name} stores {tensor.name!r} as {tensor.tensor_type.name}, which cannot be converted"
        ) from error
    return values
