"""A Llama: token ids in, float32 logits out.  Read :meth:`Llama._layers` first; the rest is set-up."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lm_core import ops
from lm_core.checkpoint import Checkpoint
from lm_core.config import LlamaConfig
from lm_core.errors import ContextLengthExceeded, InvalidParameter
from lm_core.kv_cache import KVCache
from lm_core.rotary import RotaryTables
from lm_core.step import DecodeStep, PrefillStep, Step
from lm_core.weights import ModelWeights, Storage, load_weights
from lm_core.workspace import Workspace

F32 = npt.NDArray[np.float32]
TokenIds = Sequence[int] | npt.NDArray[np.integer]

PREFILL_CHUNK = 512
"""Tokens that go through the layers at once, which bounds the memory of a long prompt."""

REPLAY_ROWS = 64
"""Rows that :meth:`Llama.replay` runs at once."""


class Llama:
    """A model of the Llama family.  Weights are shared and read-only: any thread may call ``forward``.

    >>> model = Llama.from_pretrained("models/story")
    >>> cache = model.new_cache()
    >>> logits = model.forward([1, 5, 9], cache)  # [V] float32
    """

    def __init__(self, config: LlamaConfig, weights: ModelWeights) -> None:
        self.config = config
        self._weights = weights
        self._rotary = RotaryTables(config)
        self._workspace = Workspace()

    @classmethod
    def from_pretrained(cls, path: str | Path, dtype: str = "auto") -> Llama:
        """Open a Hugging Face model folder.  Takes milliseconds: weights are mapped, not read.

        Args:
            path: the folder, with ``config.json`` and safetensors.
            dtype: how weights are kept in memory: "f32", "bf16", or "auto" (see ``load_weights``).

        Raises:
            ModelNotFound: the folder or a file of it is not there.
            ConfigError, CheckpointError: it is damaged, or of a kind that is not supported.
            InvalidParameter: ``dtype`` is unknown.
        """
        config = LlamaConfig.from_pretrained(path)
        return cls(config, load_weights(Checkpoint.open(path), config, dtype))

    @property
    def dtype(self) -> Storage:
        """How the matrices are kept in memory.  Arithmetic is float32 either way."""
        return self._weights.storage

    @property
    def nbytes(self) -> int:
        """Bytes of weights that decoding one token reads."""
        return self._weights.nbytes

    def new_cache(self, capacity: int | None = None) -> KVCache:
        """An empty cache for one sequence, with room for ``capacity`` tokens before it grows."""
        return KVCache(self.config, capacity)

    def forward(self, token_ids: TokenIds, cache: KVCache, all_positions: bool = False) -> F32:
        """Continue the sequence in ``cache`` by ``token_ids`` and add them to it.

        One token goes through the per-row kernel, several through GEMM in chunks of
        ``PREFILL_CHUNK``.  On any error the cache is as it was.

        Returns:
            float32 logits ``[V]`` of the last position, or ``[T, V]`` with ``all_positions``.

        Raises:
            InvalidParameter: there is no token, or one that is not in the vocabulary.
            ContextLengthExceeded: the sequence would not fit into the context.
        """
        ids = self._checked(token_ids)
        before, after = cache.length, cache.length + len(ids)
        self._check_context(after)
        if len(ids) == 1:
            logits = self._decode(ids, [cache])
            return logits if all_positions else logits[0]
        logits = np.empty((len(ids), self.config.vocab_size) if all_positions else (0, 0), dtype=np.float32)
        try:
            for start in range(0, len(ids), PREFILL_CHUNK):
                chunk = ids[start : start + PREFILL_CHUNK]
                step = PrefillStep(cache, len(chunk), after, self._rotary, self._workspace)
                hidden_states = self._layers(chunk, step)
                if all_positions:
                    logits[start : start + len(chunk)] = self._weights.lm_head.prefill(
                        hidden_states, self._workspace
                    )
                step.commit()
        except BaseException:
            cache.truncate(before)
            raise
        return logits if all_positions else self._next_logits(hidden_states)

    def forward_batch(self, token_ids: TokenIds, caches: Sequence[KVCache]) -> F32:
        """Decode one token for each of B sequences together; each gets the bits it would get alone.

        Returns:
            float32 logits ``[B, V]``.

        Raises:
            InvalidParameter: as for :meth:`forward`, or the numbers of tokens and caches differ.
            ContextLengthExceeded: one of the sequences is full; no cache has changed.
        """
        ids = self._checked(token_ids)
        if len(ids) != len(caches):
            raise InvalidParameter("caches", f"there are {len(ids)} tokens for {len(caches)} caches")
        return self._decode(ids, caches)

    def replay(self, token_ids: TokenIds, cache: KVCache) -> F32:
        """Add tokens that were once decoded one by one, many at a time and with the same bits.

        Returns:
            float32 logits ``[V]`` of the last position.

        Raises:
            InvalidParameter, ContextLengthExceeded: as for :meth:`forward`; the cache is as it was.
        """
        ids = self._checked(token_ids)
        before = cache.length
        self._check_context(before + len(ids))
        try:
            for start in range(0, len(ids), REPLAY_ROWS):
                rows = ids[start : start + REPLAY_ROWS]
                step = DecodeStep([cache] * len(rows), self._rotary, self._workspace)
                hidden_states = self._layers(rows, step)
                step.commit()
        except BaseException:
            cache.truncate(before)
            raise
        return self._next_logits(hidden_states)

    def _decode(self, ids: npt.NDArray[np.int64], caches: Sequence[KVCache]) -> F32:
        """One token for each cache, through the per-row kernel: ``[B]`` ids ``-> [B, V]`` logits."""
        step = DecodeStep(caches, self._rotary, self._workspace)
        hidden_states = self._layers(ids, step)
        logits = self._weights.lm_head.decode(hidden_states, self._workspace)
        step.commit()
        return logits

    def _layers(self, ids: npt.NDArray[np.int64], step: Step) -> F32:
        """``[T]`` token ids ``-> [T, D]`` final hidden states, ready for the output head."""
        config, weights = self.config, self._weights
        T, d, eps = len(ids), config.head_dim, config.rms_norm_eps
        H, K = config.num_attention_heads, config.num_key_value_heads
        hidden_states = weights.embed_tokens.rows(ids)
        for index, layer in enumerate(weights.layers):
            normed = ops.rms_norm(hidden_states, layer.input_layernorm, eps)
            heads = step.project(layer.qkv_proj, normed).reshape(T, H + 2 * K, d)
            rotated = ops.apply_rotary(heads[:, : H + K], *step.rotary_factors)
            query, keys, values = rotated[:, :H], rotated[:, H:], heads[:, H + K :]
            attended = step.attend(index, query, keys, values, layer.sliding_window)
            hidden_states += step.project(layer.o_proj, attended)

            normed = ops.rms_norm(hidden_states, layer.post_attention_layernorm, eps)
            gate_up = step.project(layer.gate_up_proj, normed)
            hidden_states += step.project(layer.down_proj, ops.swiglu(gate_up))
        return ops.rms_norm(hidden_states, weights.norm, eps)

    def _next_logits(self, hidden_states: F32) -> F32:
        """``[T, D]`` final hidden states ``-> [V]`` logits of the last."""
        logits: F32 = self._weights.lm_head.decode(hidden_states[-1:], self._workspace)[0]
        return logits

    def _checked(self, token_ids: TokenIds) -> npt.NDArray[np.int64]:
        ids = np.asarray(token_ids)
        if ids.ndim != 1 or ids.size == 0:
            raise InvalidParameter("token_ids", "token_ids must be a list of at least one token id")
        if ids.dtype.kind not in "iu":
            raise InvalidParameter("token_ids", "token_ids must be whole numbers")
        ids = ids.astype(np.int64, copy=False)
        # As unsigned numbers, negative ids are the largest of all: one pass finds both kinds of wrong.
        if ids.view(np.uint64).max() >= self.config.vocab_size:
            wrong = next(int(index) for index in ids if not 0 <= index < self.config.vocab_size)
            raise InvalidParameter(
                "token_ids", f"token id {wrong} is not in the vocabulary of {self.config.vocab_size}"
            )
        return ids

    def _check_context(self, length: int) -> None:
        if length > self.config.context_length:
            raise ContextLengthExceeded(length, self.config.context_length)
