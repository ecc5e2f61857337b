"""Small random checkpoints of every supported kind, written as real Hugging Face folders.

The weights come from 53-bit uniform numbers of ``RandomState``, whose stream NumPy has frozen, by
arithmetic that rounds the same everywhere: the golden files of one machine fit all others.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from safetensors_file import write_safetensors

F32 = npt.NDArray[np.float32]

VOCAB_SIZE = 96
TEXT_LENGTH = 200
GREEDY_TOKENS = 64

BASE: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 64,
    "intermediate_size": 112,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
    "tie_word_embeddings": True,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
OLDER = {**BASE, "rope_theta": 10000.0, "rope_scaling": None, "torch_dtype": "float32"}
NEWER = {**BASE, "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}, "dtype": "float32"}
QWEN2 = {**OLDER, "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2"}
MISTRAL = {**OLDER, "architectures": ["MistralForCausalLM"], "model_type": "mistral"}


@dataclass(frozen=True)
class Kind:
    """One kind of checkpoint: its ``config.json``, and how its weights are stored."""

    config: Mapping[str, Any]
    seed: int
    storage: Literal["F32", "F16", "BF16"] = "F32"
    shards: int = 1
    golden: str | None = None
    """The golden file's name, where it is another kind's because only the files differ."""
    header_padding: int = 0


def _rope(theta: float = 10000.0, **scaling: Any) -> dict[str, Any]:
    return {**OLDER, "rope_theta": theta, "rope_scaling": scaling}


def _newer_rope(**parameters: Any) -> dict[str, Any]:
    return {**NEWER, "rope_parameters": {"rope_theta": 10000.0, **parameters}}


KINDS: dict[str, Kind] = {
    "llama": Kind(OLDER, seed=101),
    "newer_config": Kind(NEWER, seed=101, golden="llama"),
    "sharded": Kind(OLDER, seed=101, shards=3, golden="llama"),
    "misaligned": Kind(OLDER, seed=101, header_padding=3, golden="llama"),
    "f16": Kind({**OLDER, "torch_dtype": "float16"}, seed=2, storage="F16"),
    "bf16": Kind({**OLDER, "torch_dtype": "bfloat16"}, seed=3, storage="BF16"),
    "bf16_sharded": Kind({**NEWER, "dtype": "bfloat16"}, seed=3, storage="BF16", shards=2, golden="bf16"),
    "mistral": Kind(
        {
            **MISTRAL,
            "hidden_size": 78,
            "num_attention_heads": 3,
            "num_key_value_heads": 1,
            "sliding_window": 40,
            "tie_word_embeddings": False,
        },
        seed=304,
    ),
    "qwen2": Kind(
        {**QWEN2, "use_sliding_window": False, "sliding_window": 24, "max_window_layers": 1}, seed=505
    ),
    "qwen2_window": Kind(
        {
            **QWEN2,
            "num_hidden_layers": 3,
            "use_sliding_window": True,
            "sliding_window": 24,
            "max_window_layers": 1,
        },
        seed=306,
    ),
    "biased": Kind(
        {
            **NEWER,
            "attention_bias": True,
            "mlp_bias": True,
            "num_key_value_heads": 4,
            "tie_word_embeddings": False,
        },
        seed=207,
    ),
    "head_dim": Kind({**NEWER, "hidden_size": 48, "head_dim": 20}, seed=8),
    "odd_widths": Kind(
        {
            **NEWER,
            "hidden_size": 45,
            "num_attention_heads": 3,
            "num_key_value_heads": 1,
            "head_dim": 12,
            "intermediate_size": 75,
        },
        seed=9,
        storage="BF16",
    ),
    "linear": Kind(_rope(type="linear", factor=2.0), seed=210),
    "dynamic": Kind({**_rope(rope_type="dynamic", factor=4.0), "max_position_embeddings": 96}, seed=211),
    "dynamic_within": Kind(_newer_rope(rope_type="dynamic", factor=2.0), seed=12),
    "llama3": Kind(
        _rope(
            theta=500000.0,
            rope_type="llama3",
            factor=8.0,
            low_freq_factor=1.0,
            high_freq_factor=4.0,
            original_max_position_embeddings=64,
        ),
        seed=213,
    ),
    "yarn": Kind(_rope(rope_type="yarn", factor=4.0, original_max_position_embeddings=128), seed=14),
    "yarn_implicit": Kind(
        {**_newer_rope(rope_type="yarn", factor=4.0), "max_position_embeddings": 96}, seed=15
    ),
    "yarn_tuned": Kind(
        _newer_rope(
            rope_type="yarn",
            factor=4.0,
            original_max_position_embeddings=128,
            beta_fast=8.0,
            beta_slow=0.5,
            mscale=1.0,
            mscale_all_dim=0.5,
            truncate=False,
        ),
        seed=316,
    ),
}
"""Every kind that the engine claims to support, by name."""


@dataclass
class RandomCheckpoint:
    """The weights of one kind, as they are after rounding to their storage."""

    kind: Kind
    weights: dict[str, F32] = field(init=False)

    def __post_init__(self) -> None:
        random = np.random.RandomState(self.kind.seed)
        self.weights = {
            name: _round_to(self.kind.storage, _random_tensor(name, shape, random))
            for name, shape in tensor_shapes(self.kind.config).items()
        }

    def write(self, folder: Path) -> Path:
        """Write ``config.json`` and the weights, in one file or in shards with their index."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps(self.kind.config))
        stored = {name: _stored(self.kind.storage, tensor) for name, tensor in self.weights.items()}
        if self.kind.shards == 1:
            write_safetensors(folder / "model.safetensors", stored, padding=self.kind.header_padding)
            return folder
        weight_map = {}
        for shard in range(self.kind.shards):
            file = f"model-{shard + 1:05}-of-{self.kind.shards:05}.safetensors"
            names = list(stored)[shard :: self.kind.shards]
            write_safetensors(folder / file, {name: stored[name] for name in names})
            weight_map.update(dict.fromkeys(names, file))
        index = {
            "metadata": {"total_size": sum(array.nbytes for array in stored.values())},
            "weight_map": weight_map,
        }
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
        return folder


def tensor_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """The published tensor names of a checkpoint of this configuration, and their shapes."""
    hidden, inner, vocab = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    head_dim = config.get("head_dim") or hidden // config["num_attention_heads"]
    queries, keys = config["num_attention_heads"] * head_dim, config["num_key_value_heads"] * head_dim
    qkv_bias = config["model_type"] == "qwen2" or config.get("attention_bias", False)
    o_bias, mlp_bias = config.get("attention_bias", False), config.get("mlp_bias", False)
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocab, hidden)}
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        shapes[prefix + "input_layernorm.weight"] = (hidden,)
        for name, rows, columns, bias in (
            ("self_attn.q_proj", queries, hidden, qkv_bias),
            ("self_attn.k_proj", keys, hidden, qkv_bias),
            ("self_attn.v_proj", keys, hidden, qkv_bias),
            ("self_attn.o_proj", hidden, queries, o_bias),
            ("mlp.gate_proj", inner, hidden, mlp_bias),
            ("mlp.up_proj", inner, hidden, mlp_bias),
            ("mlp.down_proj", hidden, inner, mlp_bias),
        ):
            shapes[f"{prefix}{name}.weight"] = (rows, columns)
            if bias:
                shapes[f"{prefix}{name}.bias"] = (rows,)
        shapes[prefix + "post_attention_layernorm.weight"] = (hidden,)
    shapes["model.norm.weight"] = (hidden,)
    if not config["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (vocab, hidden)
    return shapes


def fixed_text() -> list[int]:
    """The 200 token ids that every golden file is about."""
    random = np.random.RandomState(2024)
    return [1, *(int(token) for token in 3 + random.random_sample(TEXT_LENGTH - 1) * (VOCAB_SIZE - 3))]


def _random_tensor(name: str, shape: tuple[int, ...], random: np.random.RandomState) -> F32:
    """Uniform numbers, scaled so that attention is selective and logits differ by several units."""
    uniform = 2 * random.random_sample(shape) - 1
    if "norm" in name:
        return (1.0 + 0.25 * uniform).astype(np.float32)
    if name.endswith("bias") or "embed_tokens" in name or "lm_head" in name:
        return (0.75 * uniform).astype(np.float32)
    gain = 3.0 if "q_proj" in name or "k_proj" in name else 2.0
    return (gain / np.sqrt(shape[1]) * uniform).astype(np.float32)


def _round_to(storage: str, tensor: F32) -> F32:
    if storage == "F16":
        return tensor.astype(np.float16).astype(np.float32)
    if storage == "BF16":
        return (tensor.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
    return tensor


def _stored(storage: str, tensor: F32) -> npt.NDArray[Any]:
    if storage == "F16":
        return tensor.astype(np.float16)
    if storage == "BF16":
        return (tensor.view(np.uint32) >> 16).astype(np.uint16)
    return tensor
