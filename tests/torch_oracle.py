"""``transformers`` as the oracle: the published implementation, in float32, on the plainest code path.

Needs the ``parity`` extra; imported only by the ``parity`` tests and the generator of golden files.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import transformers

F32 = npt.NDArray[np.float32]


class TransformersOracle:
    """One model folder, opened by ``transformers`` with eager attention in float32."""

    def __init__(self, folder: Path) -> None:
        transformers.utils.logging.disable_progress_bar()
        self._model: Any = transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="eager"
        )
        self._model.eval()

    def logits(self, token_ids: Sequence[int]) -> F32:
        """``[T, V]`` from one call."""
        return np.concatenate(list(self.chunked_logits(token_ids, [len(token_ids)])))

    def chunked_logits(self, token_ids: Sequence[int], chunks: Sequence[int]) -> Iterator[F32]:
        """``[chunk, V]`` from successive calls that share a cache."""
        cache, start = transformers.DynamicCache(config=self._model.config), 0
        self._forget_longest_sequence()
        for chunk in chunks:
            yield self._step(token_ids[start : start + chunk], cache)
            start += chunk

    def greedy(self, token_ids: Sequence[int], count: int) -> tuple[list[int], float]:
        """The ``count`` most likely tokens in turn, and the narrowest lead of one over the second.

        The lead is relative to the largest logit.
        """
        cache = transformers.DynamicCache(config=self._model.config)
        self._forget_longest_sequence()
        logits = self._step(token_ids, cache)[-1]
        tokens: list[int] = []
        narrowest = np.inf
        while True:
            second, first = np.sort(logits)[-2:]
            narrowest = min(narrowest, float((first - second) / np.abs(logits).max()))
            tokens.append(int(logits.argmax()))
            if len(tokens) == count:
                return tokens, narrowest
            logits = self._step(tokens[-1:], cache)[-1]

    def _step(self, token_ids: Sequence[int], cache: Any) -> F32:
        with torch.no_grad():
            logits = self._model(
                torch.tensor([list(token_ids)]), past_key_values=cache, use_cache=True
            ).logits
        return np.asarray(logits[0].numpy(), dtype=np.float32)

    def _forget_longest_sequence(self) -> None:
        """Make dynamic RoPE as in a fresh model: it keeps the frequencies of the longest sequence yet."""
        rotary = self._model.model.rotary_emb
        if rotary.rope_type == "dynamic":
            rotary.max_seq_len_cached = rotary.original_max_seq_len
            rotary.inv_freq = rotary.original_inv_freq
