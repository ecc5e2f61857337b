"""A Llama in float64 without cache, chunks, tiles or blocks: token after token, head after head.

Nothing of the engine's arithmetic is used here; the configuration's fields are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from lm_core.config import LlamaConfig

F64 = npt.NDArray[np.float64]


class ReferenceLlama:
    """Weights by their published names, in float64."""

    def __init__(self, config: LlamaConfig, weights: Mapping[str, npt.NDArray[Any]]) -> None:
        self.config = config
        self.weights = {name: tensor.astype(np.float64) for name, tensor in weights.items()}

    def forward(self, token_ids: Sequence[int], sequence_lengths: Sequence[int] | None = None) -> F64:
        """Logits ``[T, V]``.

        ``sequence_lengths[i]`` is how long the sequence was at the end of the call that computed
        token *i*, which ``dynamic`` RoPE depends on; by default all were computed in one call.
        """
        lengths = [len(token_ids)] * len(token_ids) if sequence_lengths is None else sequence_lengths
        hidden_states = self.weights["model.embed_tokens.weight"][list(token_ids)]
        for layer in range(self.config.num_hidden_layers):
            prefix = f"model.layers.{layer}."
            normed = self._rms_norm(hidden_states, prefix + "input_layernorm")
            hidden_states = hidden_states + self._attention(normed, layer, prefix + "self_attn.", lengths)
            normed = self._rms_norm(hidden_states, prefix + "post_attention_layernorm")
            gate, up = (
                self._linear(normed, prefix + "mlp.gate_proj"),
                self._linear(normed, prefix + "mlp.up_proj"),
            )
            hidden_states = hidden_states + self._linear(
                gate / (1 + np.exp(-gate)) * up, prefix + "mlp.down_proj"
            )
        head = "model.embed_tokens.weight" if self.config.tie_word_embeddings else "lm_head.weight"
        return self._rms_norm(hidden_states, "model.norm") @ self.weights[head].T

    def _linear(self, x: F64, name: str) -> F64:
        return x @ self.weights[f"{name}.weight"].T + self.weights.get(f"{name}.bias", 0.0)

    def _rms_norm(self, x: F64, name: str) -> F64:
        return (
            x
            / np.sqrt((x**2).mean(axis=-1, keepdims=True) + self.config.rms_norm_eps)
            * self.weights[f"{name}.weight"]
        )

    def _attention(self, x: F64, layer: int, prefix: str, lengths: Sequence[int]) -> F64:
        config = self.config
        T, d = len(x), config.head_dim
        query = self._linear(x, prefix + "q_proj").reshape(T, config.num_attention_heads, d)
        keys = self._linear(x, prefix + "k_proj").reshape(T, config.num_key_value_heads, d)
        values = self._linear(x, prefix + "v_proj").reshape(T, config.num_key_value_heads, d)
        for position in range(T):
            query[position] = rotate(config, query[position], position, lengths[position])
            keys[position] = rotate(config, keys[position], position, lengths[position])
        window = config.sliding_windows[layer] or T
        heads_per_key = config.num_attention_heads // config.num_key_value_heads
        out = np.empty_like(query)
        for position in range(T):
            seen = slice(max(0, position + 1 - window), position + 1)
            for head in range(config.num_attention_heads):
                scores = keys[seen, head // heads_per_key] @ query[position, head] / math.sqrt(d)
                exponentials = np.exp(scores - scores.max())
                out[position, head] = exponentials / exponentials.sum() @ values[seen, head // heads_per_key]
        return self._linear(out.reshape(T, -1), prefix + "o_proj")


def rotate(config: LlamaConfig, heads: F64, position: int, sequence_length: int) -> F64:
    """``heads [N, d]`` at ``position``: element *i* turns with element *i + d/2*, as one complex number."""
    d = config.head_dim
    frequencies = np.array([frequency(config, pair, sequence_length) for pair in range(d // 2)])
    turned = (heads[:, : d // 2] + 1j * heads[:, d // 2 :]) * np.exp(1j * position * frequencies)
    return np.concatenate((turned.real, turned.imag), axis=-1) * attention_factor(config)


def frequency(config: LlamaConfig, pair: int, sequence_length: int) -> float:
    """Radians per position of one pair, by the papers' formulas."""
    rope, d = config.rope, config.head_dim
    theta = rope.rope_theta
    trained = config.max_position_embeddings
    if rope.rope_type == "dynamic" and sequence_length > trained:
        theta *= (rope.factor * sequence_length / trained - (rope.factor - 1)) ** (d / (d - 2))
    plain = theta ** (-2 * pair / d)
    if rope.rope_type == "linear":
        return plain / rope.factor
    if rope.rope_type == "llama3":
        wavelength, original = 2 * math.pi / plain, rope.original_max_position_embeddings
        if wavelength < original / rope.high_freq_factor:
            return plain
        if wavelength > original / rope.low_freq_factor:
            return plain / rope.factor
        smooth = (original / wavelength - rope.low_freq_factor) / (
            rope.high_freq_factor - rope.low_freq_factor
        )
        return (1 - smooth) * plain / rope.factor + smooth * plain
    if rope.rope_type == "yarn":
        low = (
            d
            * math.log(rope.original_max_position_embeddings / (rope.beta_fast * 2 * math.pi))
            / (2 * math.log(theta))
        )
        high = (
            d
            * math.log(rope.original_max_position_embeddings / (rope.beta_slow * 2 * math.pi))
            / (2 * math.log(theta))
        )
        if rope.truncate:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, d - 1)
        # As published, so that no division is by zero.
        high += 0.001 if low == high else 0
        ramp = min(1.0, max(0.0, (pair - low) / (high - low)))
        return ramp * plain / rope.factor + (1 - ramp) * plain
    return plain


def attention_factor(config: LlamaConfig) -> float:
    """By how much YaRN scales queries and keys; 1 for every other type."""
    rope = config.rope
    if rope.rope_type != "yarn":
        return 1.0
    if rope.attention_factor is not None:
        return rope.attention_factor
    if rope.mscale and rope.mscale_all_dim:
        return (0.1 * rope.mscale * math.log(rope.factor) + 1) / (
            0.1 * rope.mscale_all_dim * math.log(rope.factor) + 1
        )
    return 0.1 * math.log(rope.factor) + 1
