"""Rotary position embeddings (Su et al., 2021) and the ways to stretch them.

The frequency formulas follow ``transformers.modeling_rope_utils``, which is the tests' oracle.
They are computed in float64 and rounded once, to the float32 tables that the operators use.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from lm_core.config import LlamaConfig

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]


def inverse_frequencies(config: LlamaConfig, sequence_length: int = 0) -> tuple[F64, float]:
    """``([d/2] float64 radians per position, attention factor)`` for one model.

    ``sequence_length`` matters to ``dynamic`` scaling alone: past the trained length the base
    grows with the sequence.
    """
    rope, d = config.rope, config.head_dim
    theta = rope.rope_theta
    exponents = np.arange(0, d, 2, dtype=np.float64) / d
    if rope.rope_type == "dynamic":
        trained = config.max_position_embeddings
        stretch = rope.factor * max(sequence_length, trained) / trained - (rope.factor - 1)
        return 1.0 / (theta * stretch ** (d / (d - 2))) ** exponents, 1.0
    frequencies = 1.0 / theta**exponents
    if rope.rope_type == "linear":
        return frequencies / rope.factor, 1.0
    if rope.rope_type == "llama3":
        return _llama3(config, frequencies), 1.0
    if rope.rope_type == "yarn":
        return _yarn(config, frequencies), _yarn_attention_factor(config)
    return frequencies, 1.0


def _llama3(config: LlamaConfig, frequencies: F64) -> F64:
    """Llama 3.1: long wavelengths are divided by the factor, short ones kept, the rest blended."""
    rope = config.rope
    turns = rope.original_max_position_embeddings * frequencies / (2 * math.pi)
    blend = (turns - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor)
    blend = np.clip(blend, 0.0, 1.0)
    return (1 - blend) * frequencies / rope.factor + blend * frequencies


def _yarn(config: LlamaConfig, frequencies: F64) -> F64:
    """YaRN (Peng et al., 2023): extrapolate what turns often, interpolate what turns seldom."""
    rope, d = config.rope, config.head_dim

    def dimension_that_turns(times: float) -> float:
        ratio = rope.original_max_position_embeddings / (times * 2 * math.pi)
        return d * math.log(ratio) / (2 * math.log(rope.rope_theta))

    low, high = dimension_that_turns(rope.beta_fast), dimension_that_turns(rope.beta_slow)
    if rope.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, d - 1)
    if low == high:
        high += 0.001
    interpolated: F64 = np.clip((np.arange(d // 2) - low) / (high - low), 0.0, 1.0)
    return interpolated * frequencies / rope.factor + (1 - interpolated) * frequencies


def _yarn_attention_factor(config: LlamaConfig) -> float:
    rope = config.rope
    if rope.attention_factor is not None:
        return rope.attention_factor

    def temperature(mscale: float) -> float:
        return 1.0 if rope.factor <= 1 else 0.1 * mscale * math.log(rope.factor) + 1.0

    if rope.mscale and rope.mscale_all_dim:
        return temperature(rope.mscale) / temperature(rope.mscale_all_dim)
    return temperature(1.0)


class RotaryTables:
    """Cosines and sines for every position, computed once per model and grown on demand.

    Dynamic scaling has no fixed table past the trained length: there the frequencies depend on
    the length of the sequence when a token is computed, so they are made for each call.
    """

    def __init__(self, config: LlamaConfig) -> None:
        self._config = config
        self._cos, self._sin = self._tables(0, min(config.context_length, 512), 0)

    def rows(self, start: int, stop: int, sequence_length: int) -> tuple[F32, F32]:
        """``(cos, sin)``, each ``[stop - start, d/2]`` float32, for a span of one sequence.

        ``sequence_length`` is how many tokens the sequence has once this call is done.
        """
        config = self._config
        if config.rope.rope_type == "dynamic" and sequence_length > config.max_position_embeddings:
            return self._tables(start, stop, sequence_length)
        cos, sin = self._cos, self._sin
        if stop > len(cos):
            # Bound to locals and stored whole: another thread may be reading the old tables.
            cos, sin = self._tables(0, min(config.context_length, max(stop, 2 * len(cos))), 0)
            self._cos, self._sin = cos, sin
        return cos[start:stop], sin[start:stop]

    def _tables(self, start: int, stop: int, sequence_length: int) -> tuple[F32, F32]:
        frequencies, attention_factor = inverse_frequencies(self._config, sequence_length)
        angles = np.arange(start, stop, dtype=np.float64)[:, None] * frequencies
        return (
            (np.cos(angles) * attention_factor).astype(np.float32),
            (np.sin(angles) * attention_factor).astype(np.float32),
        )
